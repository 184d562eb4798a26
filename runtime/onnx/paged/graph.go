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
	inDecodingHeld
	inDecodingPages
	inStarts
	inHeld
	inPages
	inSel
	inDecoding // from here on not staged
	inBounds
	inCaches // keys and values in turn, layer by layer
)

// graph is the session with the memory that it reads and writes. All of it belongs to one thread of the operating
// system (see thread): so does what the library captured.
type graph struct {
	session *ort.DynamicAdvancedSession
	device  device.Device
	shape   model.Shape
	most    form // the largest one
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
	bytes                      []byte // for the largest form
	used                       int64  // of them, by a call
	ids, sel                   []int64
	decodingHeld, starts, held []int32
	decodingPages, pages       []int32
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
	// captureAt is from which use on a form is captured.
	captureAt = 2
	// captureGap is the least time between two captures while jobs run: one takes 19 ms (9 to 66, measured on an H100).
	captureGap = 100 * time.Millisecond
	// mostCaptured bounds the memory that captured graphs take on the device, about 2 MB each.
	mostCaptured = 512
)

func newGraph(path string, s model.Shape, most form, c session.Config, log *slog.Logger) (_ *graph, err error) {
	g := &graph{log: log, device: c.Device, shape: s, most: most, forms: map[form]*bound{}, inputs: make([]ort.Value, inCaches+2*s.Layers)}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.destroy())
		}
	}()
	names := []string{"ids", model.PagedDecodingHeld, model.PagedDecodingPages, model.PagedStarts, model.PagedHeld, model.PagedPages, "sel", model.PagedDecoding, model.PagedBounds}
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
	_, size := layout(g.most)
	rows, vocab := int64(g.most.results), int64(g.shape.Vocab)
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
	g.staged.bytes = kernels.Numbers[byte](input, int(size))
	clear(g.staged.bytes)
	return nil
}

// dims are those of a staged input of a form, the second one 0 if there is none.
func (f form) dims(input int) (rows, columns int64) {
	switch input {
	case inIDs:
		return int64(f.tokens()), 0
	case inDecodingHeld:
		return int64(f.decoding), 0
	case inDecodingPages:
		return int64(f.decoding), int64(f.width)
	case inStarts:
		return int64(f.others + 1), 0
	case inHeld:
		return int64(f.others), 0
	case inPages:
		return int64(f.others), int64(f.width)
	}
	return int64(f.results), 0 // inSel
}

// kind is the type of a staged input, and the bytes of a number.
func kind(input int) (t ort.TensorElementDataType, width int64) {
	if input == inIDs || input == inSel {
		return ort.TensorElementDataTypeInt64, 8
	}
	return ort.TensorElementDataTypeInt32, 4
}

// span is where an input lies among the bytes of a form.
type span struct{ at, bytes int64 }

// layout says where each staged input of a form lies, and the bytes of all.
func layout(f form) (spans [inSel + 1]span, size int64) {
	for i := range spans {
		_, width := kind(i)
		rows, columns := f.dims(i)
		spans[i] = span{size, width * rows * max(1, columns)}
		size += (spans[i].bytes + 63) / 64 * 64
	}
	return spans, size
}

// cut makes the inputs parts of the memory, as a form needs them.
func (s *staged) cut(f form) {
	spans, size := layout(f)
	s.used = size
	s.ids, s.sel = part[int64](s, spans[inIDs]), part[int64](s, spans[inSel])
	s.decodingHeld, s.decodingPages = part[int32](s, spans[inDecodingHeld]), part[int32](s, spans[inDecodingPages])
	s.starts, s.held, s.pages = part[int32](s, spans[inStarts]), part[int32](s, spans[inHeld]), part[int32](s, spans[inPages])
}

func part[T any](s *staged, at span) []T {
	var zero T
	return unsafe.Slice((*T)(unsafe.Pointer(&s.bytes[at.at])), int(at.bytes)/int(unsafe.Sizeof(zero)))
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
	spans, _ := layout(f)
	for i, at := range spans {
		element, _ := kind(i)
		dims := make([]int64, 1, 2)
		var columns int64
		if dims[0], columns = f.dims(i); columns > 0 {
			dims = append(dims, columns)
		}
		t, e := g.onDevice.View(g.input, at.at, at.bytes, element, dims...)
		set(&b.inputs[i], t, e)
	}
	n := int64(f.results)
	t, e := g.onDevice.View(g.result, 0, n*int64(g.shape.Vocab)*4, ort.TensorElementDataTypeFloat, n, int64(g.shape.Vocab))
	set(&b.outputs[0], t, e)
	t, e = g.onDevice.View(g.likely, 0, 8*n, ort.TensorElementDataTypeInt64, n)
	set(&b.outputs[1], t, e)
	decoding, e := g.onHost.Tensor(ort.TensorElementDataTypeInt64, 1)
	set(&b.inputs[inDecoding], decoding, e)
	bounds, e := g.onHost.Tensor(ort.TensorElementDataTypeInt32, 3)
	set(&b.inputs[inBounds], bounds, e)
	if err != nil {
		return nil, err
	}
	kernels.Numbers[int64](decoding, 1)[0] = int64(f.decoding)
	copy(kernels.Numbers[int32](bounds, 3), []int32{int32(max(1, f.extra)), int32(f.width * g.shape.PageTokens), 1})
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
	last   int  // its last token's place among the call's
	result int  // where either is, among the call's
}

// wanted is what is wanted of a call: so many logits first, then so many likeliest tokens.
type wanted struct{ logits, best int }

// stage puts rows where the device gets them from, those of one token first, fills the call up to a form with room for
// so many results, and says what is wanted. What fills it up lies in the page spare.
func (g *graph) stage(rows []row, results int, spare int32) (f form, want wanted) {
	page := g.shape.PageTokens
	n := need{width: 1}
	for _, r := range rows {
		n.width = max(n.width, (r.held+len(r.tokens)+page-1)/page)
		if len(r.tokens) == 1 {
			n.decoding++
			continue
		}
		n.others++
		n.extra += len(r.tokens)
	}
	f = fit(n, results, page, g.shape.ContextLength)
	in := &g.staged
	in.cut(f)
	decoding, others, at := 0, 0, f.decoding
	in.starts[0] = 0
	for i := range rows {
		r := &rows[i]
		if len(r.tokens) == 1 {
			in.ids[decoding], in.decodingHeld[decoding], r.last = int64(r.tokens[0]), int32(r.held), decoding
			fill(in.decodingPages, decoding, f.width, r.pages, spare)
			decoding++
			continue
		}
		for _, t := range r.tokens {
			in.ids[at] = int64(t)
			at++
		}
		r.last = at - 1
		in.held[others], in.starts[others+1] = int32(r.held), int32(at-f.decoding)
		fill(in.pages, others, f.width, r.pages, spare)
		others++
	}
	clear(in.ids[decoding:f.decoding])
	clear(in.decodingHeld[decoding:])
	for i := decoding; i < f.decoding; i++ {
		fill(in.decodingPages, i, f.width, nil, spare)
	}
	clear(in.ids[at:])
	clear(in.held[others:])
	for i := others; i < f.others; i++ { // the first one has all tokens that fill it up
		in.starts[i+1] = int32(f.extra)
		fill(in.pages, i, f.width, nil, spare)
	}
	return f, g.choose(rows)
}

// fill writes row i of a table of pages.
func fill(table []int32, i, width int, pages []int32, spare int32) {
	to := table[i*width : (i+1)*width]
	for p := copy(to, pages); p < len(to); p++ {
		to[p] = spare
	}
}

// choose stages of which tokens results are wanted.
func (g *graph) choose(rows []row) (want wanted) {
	sel, n := g.staged.sel, 0
	take := func(r *row) {
		r.result = n
		sel[n] = int64(r.last)
		n++
	}
	for i := range rows {
		if rows[i].sample {
			take(&rows[i])
		}
	}
	want.logits = n
	for i := range rows {
		if rows[i].best {
			take(&rows[i])
		}
	}
	want.best = n - want.logits
	clear(sel[n:])
	return want
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
func (g *graph) run(ctx context.Context, f form, want wanted, logits int, capture bool) error {
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
	if err := g.input.Write(g.staged.bytes[:g.staged.used]); err != nil {
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
