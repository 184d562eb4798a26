//go:build cgo && (linux || darwin)

package paged

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/kernels"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Places of the graph's values among its inputs (model.Shape says what they hold).
const (
	inIDs = iota
	inStarts
	inHeld
	inPages
	inSel
	inBounds
	inCaches // keys and values in turn, layer by layer
)

// sizes bound what one call holds, filled up.
type sizes struct{ tokens, sequences, width int }

// graph is the session with the memory that it reads and writes. All of it belongs to one thread of the operating
// system (see thread): so does what the library captured.
type graph struct {
	session *ort.DynamicAdvancedSession
	device  device.Device
	shape   model.Shape
	most    sizes
	log     *slog.Logger

	onDevice *kernels.Memory
	onHost   *kernels.Memory
	cache    *kernels.Memory // on the device
	input    *kernels.Tensor // all inputs but bounds and caches, one behind the other
	result   *kernels.Tensor // logits of one call
	likely   *kernels.Tensor // the likeliest tokens of one call

	staged staged
	logits []float32 // of the rows of a step
	best   []int64   // of a call

	plain    *ort.RunOptions // of calls that are not captured
	forms    map[form]*bound
	inputs   []ort.Value // the caches, in their places
	captured int         // forms
	last     time.Time   // of them
}

// staged is what a call tells the device, as it lies in input, in memory of the host.
type staged struct {
	bytes   []byte
	offsets [inSel + 1]int64
	ids     []int64
	starts  []int32
	held    []int32
	pages   []int32
	sel     []int64
}

// bound is a form's values and how it is run.
type bound struct {
	inputs  []ort.Value
	outputs []ort.Value
	used    int
	options *ort.RunOptions // under which it is captured; nil while it is not
	proven  bool            // it has run under its options
}

const (
	// captureAt is from which use on a form is captured: it takes as long as some calls.
	captureAt = 2
	// captureGap is the least time between two captures while jobs run: so they take a tenth of it at most.
	captureGap = 100 * time.Millisecond
	// mostCaptured bounds the memory that captured graphs take on the device, about 2 MB each.
	mostCaptured = 512
)

func newGraph(path string, s model.Shape, most sizes, c session.Config, log *slog.Logger) (_ *graph, err error) {
	g := &graph{log: log, device: c.Device, shape: s, most: most, forms: map[form]*bound{}, inputs: make([]ort.Value, inCaches+2*s.Layers)}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.destroy())
		}
	}()
	names := []string{"ids", model.PagedStarts, model.PagedHeld, model.PagedPages, "sel", model.PagedBounds}
	for l := range s.Layers {
		names = append(names, fmt.Sprintf("keys.%d", l), fmt.Sprintf("values.%d", l))
	}
	c.Captured = true
	if g.session, err = session.New(path, names, []string{"logits", "best"}, c); err != nil {
		return nil, err
	}
	if err := kernels.UseCUDA(c.Device.Index); err != nil {
		return nil, err
	}
	if g.plain, err = g.options(-1); err != nil {
		return nil, err
	}
	return g, g.place()
}

// options makes the options of runs that are captured under a number, or not at all when it is -1.
func (g *graph) options(number int) (*ort.RunOptions, error) {
	o, err := ort.NewRunOptions()
	if err != nil {
		return nil, err
	}
	if err := kernels.Entry(o, "gpu_graph_id", strconv.Itoa(number)); err != nil {
		return nil, errors.Join(err, o.Destroy())
	}
	return o, nil
}

// place makes the memory of what goes to the device and comes back.
func (g *graph) place() (err error) {
	if g.onDevice, err = kernels.NewMemory(g.session, kernels.CUDAMemory, g.device.Index); err != nil {
		return err
	}
	if g.onHost, err = kernels.NewMemory(g.session, kernels.PinnedMemory, g.device.Index); err != nil {
		return err
	}
	tensor := func(m *kernels.Memory, t ort.TensorElementDataType, dims ...int64) *kernels.Tensor {
		if err != nil {
			return nil
		}
		var v *kernels.Tensor
		v, err = m.Tensor(t, dims...)
		return v
	}
	size, rows, vocab := g.staged.layout(g.most), int64(g.most.sequences), int64(g.shape.Vocab)
	g.input = tensor(g.onDevice, ort.TensorElementDataTypeUint8, size)
	g.result = tensor(g.onDevice, ort.TensorElementDataTypeFloat, rows, vocab)
	g.likely = tensor(g.onDevice, ort.TensorElementDataTypeInt64, rows)
	input := tensor(g.onHost, ort.TensorElementDataTypeUint8, size)
	logits := tensor(g.onHost, ort.TensorElementDataTypeFloat, rows, vocab)
	best := tensor(g.onHost, ort.TensorElementDataTypeInt64, rows)
	if err != nil {
		return err
	}
	g.logits, g.best = kernels.Numbers[float32](logits, int(rows*vocab)), kernels.Numbers[int64](best, int(rows))
	g.staged.cut(kernels.Numbers[byte](input, int(size)), g.most)
	return nil
}

// counts is how many numbers of which width each input has at most.
func counts(m sizes) [inSel + 1]struct{ width, n int } {
	return [...]struct{ width, n int }{inIDs: {8, m.tokens}, inStarts: {4, m.sequences + 1}, inHeld: {4, m.sequences}, inPages: {4, m.sequences * m.width}, inSel: {8, m.sequences}}
}

// layout says where each input begins and returns the bytes of all.
func (s *staged) layout(m sizes) (size int64) {
	for i, c := range counts(m) {
		s.offsets[i] = size
		size += (int64(c.width*c.n) + 63) / 64 * 64
	}
	return size
}

// cut makes the inputs parts of memory.
func (s *staged) cut(bytes []byte, m sizes) {
	clear(bytes)
	s.bytes = bytes
	s.ids, s.sel = part[int64](s, inIDs, m), part[int64](s, inSel, m)
	s.starts, s.held, s.pages = part[int32](s, inStarts, m), part[int32](s, inHeld, m), part[int32](s, inPages, m)
}

func part[T any](s *staged, input int, m sizes) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(&s.bytes[s.offsets[input]])), counts(m)[input].n)
}

// allot gives the cache so many pages, in place of those that it had. Their content is anything. No form may have been
// captured: it would go on with the old ones.
func (g *graph) allot(pages int) (err error) {
	g.cache.Free()
	if g.cache, err = kernels.NewMemory(g.session, kernels.CUDAMemory, g.device.Index); err != nil {
		return err
	}
	s := g.shape
	for b := range 2 * s.Layers {
		t, err := g.cache.Tensor(ort.TensorElementDataTypeFloat16, int64(pages), int64(s.PageTokens), int64(s.KVHeads), int64(s.HeadDim))
		if err != nil {
			return fmt.Errorf("kv cache of %d pages: %w", pages, err)
		}
		g.inputs[inCaches+b] = t
	}
	clear(g.forms)
	return nil
}

// of is the values of a form.
func (g *graph) of(f form) (*bound, error) {
	if b, ok := g.forms[f]; ok {
		return b, nil
	}
	b := &bound{inputs: append([]ort.Value(nil), g.inputs...), outputs: make([]ort.Value, 2)}
	var err error
	set := func(v *ort.Value, t *kernels.Tensor, e error) { *v, err = t, errors.Join(err, e) }
	n := int64(f.sequences)
	for _, in := range []struct {
		place int
		kind  ort.TensorElementDataType
		dims  []int64
	}{
		{inIDs, ort.TensorElementDataTypeInt64, []int64{int64(f.tokens())}},
		{inStarts, ort.TensorElementDataTypeInt32, []int64{n + 1}},
		{inHeld, ort.TensorElementDataTypeInt32, []int64{n}},
		{inPages, ort.TensorElementDataTypeInt32, []int64{n, int64(f.width)}},
		{inSel, ort.TensorElementDataTypeInt64, []int64{n}},
	} {
		count, width := int64(1), int64(8)
		if in.kind == ort.TensorElementDataTypeInt32 {
			width = 4
		}
		for _, d := range in.dims {
			count *= d
		}
		t, e := g.onDevice.View(g.input, g.staged.offsets[in.place], count*width, in.kind, in.dims...)
		set(&b.inputs[in.place], t, e)
	}
	t, e := g.onDevice.View(g.result, 0, n*int64(g.shape.Vocab)*4, ort.TensorElementDataTypeFloat, n, int64(g.shape.Vocab))
	set(&b.outputs[0], t, e)
	t, e = g.onDevice.View(g.likely, 0, 8*n, ort.TensorElementDataTypeInt64, n)
	set(&b.outputs[1], t, e)
	t, e = g.onHost.Tensor(ort.TensorElementDataTypeInt32, 3)
	set(&b.inputs[inBounds], t, e)
	if err != nil {
		return nil, err
	}
	page := g.shape.PageTokens
	copy(kernels.Numbers[int32](t, 3), []int32{int32(f.longest()), int32(f.width * page), int32(f.least(page))})
	g.forms[f] = b
	return b, nil
}

// row is one sequence's share of a call.
type row struct {
	tokens []int32
	held   int
	pages  []int32
	sample bool // logits are wanted
	best   bool // the likeliest token is
	result int  // where either is, among the call's
}

// results is what is wanted of a call: so many logits first, then so many likeliest tokens.
type results struct{ logits, best int }

// stage puts rows where the device gets them from, fills the call up to a form with room for the results of least
// tokens, and says what is wanted. What fills it up lies in the page spare.
func (g *graph) stage(rows []row, least int, spare int32) (f form, want results) {
	in, page, tokens, width := &g.staged, g.shape.PageTokens, 0, 1
	for _, r := range rows {
		tokens += len(r.tokens)
		width = max(width, (r.held+len(r.tokens)+page-1)/page)
	}
	least = max(least, len(rows))
	f = fit(least, tokens+least-len(rows), width, page, g.shape.ContextLength)
	at := 0
	for i, r := range rows {
		for _, t := range r.tokens {
			in.ids[at] = int64(t)
			at++
		}
		in.starts[i+1], in.held[i] = int32(at), int32(r.held)
		table := in.pages[i*f.width : (i+1)*f.width]
		for p := copy(table, r.pages); p < len(table); p++ {
			table[p] = spare
		}
	}
	for i := range rows {
		if rows[i].sample {
			rows[i].result = want.logits
			in.sel[want.logits] = int64(in.starts[i+1] - 1)
			want.logits++
		}
	}
	all := want.logits
	for i := range rows {
		if rows[i].best {
			rows[i].result = all
			in.sel[all] = int64(in.starts[i+1] - 1)
			all++
		}
	}
	want.best = all - want.logits
	clear(in.sel[all:f.sequences])
	clear(in.ids[at:f.tokens()])
	for i := len(rows); i < f.sequences; i++ {
		if at++; i == f.sequences-1 {
			at = f.tokens()
		}
		in.starts[i+1], in.held[i] = int32(at), 0
		table := in.pages[i*f.width : (i+1)*f.width]
		for p := range table {
			table[p] = spare
		}
	}
	return f, want
}

// capture has the next run of a form captured, unless it is the form's first, or another was captured just now.
func (g *graph) capture(b *bound) (err error) {
	if b.options != nil || b.used < captureAt || g.captured >= mostCaptured || time.Since(g.last) < captureGap {
		return nil
	}
	if b.options, err = g.options(g.captured); err != nil {
		return err
	}
	b.proven = false
	g.captured++
	g.last = time.Now()
	return nil
}

// run runs the graph on what is staged for a form, captured if it may be, and copies the logits that are wanted to the
// rows from logits on, the likeliest tokens to best. A run ends with ctx.
func (g *graph) run(ctx context.Context, f form, want results, logits int, capture bool) error {
	b, err := g.of(f)
	if err != nil {
		return err
	}
	b.used++
	if capture {
		if err := g.capture(b); err != nil {
			return err
		}
	}
	used := g.staged.offsets[inSel] + int64(8*f.sequences)
	if err := g.input.Write(g.staged.bytes[:used]); err != nil {
		return err
	}
	if err := g.forward(ctx, b); err != nil {
		return err
	}
	if want.best > 0 {
		n := want.logits + want.best
		if err := g.likely.Read(0, raw(g.best[:n])); err != nil {
			return err
		}
	}
	if want.logits > 0 {
		return g.result.Read(0, raw(g.some(logits, want.logits)))
	}
	return nil
}

// raw is numbers as they lie in memory.
func raw[T any](v []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(zero)))
}

// forward runs one form. When it cannot be captured, nothing is from then on.
func (g *graph) forward(ctx context.Context, b *bound) error {
	options := g.plain
	if b.options != nil {
		options = b.options
	}
	release, err := session.Watch(ctx, options, g.log)
	if err != nil {
		return err
	}
	start := time.Now()
	err = g.session.RunWithOptions(b.inputs, b.outputs, options)
	release()
	if err == nil {
		if b.options != nil && !b.proven {
			g.log.Debug("call captured", "number", g.captured, "took", time.Since(start))
		}
		b.proven = true
		return nil
	}
	if ctx.Err() != nil || b.options == nil || b.proven {
		return err
	}
	g.log.Warn("calls are not captured: each takes longer", "error", err)
	g.captured = mostCaptured
	err = b.options.Destroy()
	b.options = nil
	return errors.Join(err, g.forward(ctx, b))
}

// some is n rows of the logits from row i on; their capacity ends with them.
func (g *graph) some(i, n int) []float32 {
	v := g.shape.Vocab
	return g.logits[i*v : (i+n)*v : (i+n)*v]
}

func (g *graph) destroy() error {
	var errs []error
	for _, b := range g.forms {
		if b.options != nil {
			errs = append(errs, b.options.Destroy())
		}
	}
	g.cache.Free()
	g.onDevice.Free()
	g.onHost.Free()
	if g.session != nil {
		errs = append(errs, g.session.Destroy())
	}
	if g.plain != nil {
		errs = append(errs, g.plain.Destroy())
	}
	return errors.Join(errs...)
}
