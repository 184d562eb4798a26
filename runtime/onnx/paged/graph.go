//go:build cgo && (linux || darwin)

package paged

import (
	"errors"
	"fmt"

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
	inBounds
	inSel
	inCaches // keys and values in turn, layer by layer

	outLogits = inCaches // as the place of a key
)

// sizes bound what one call holds.
type sizes struct{ tokens, sequences, sampled, pages int }

// graph is the session with the memory that it reads and writes.
type graph struct {
	session *ort.DynamicAdvancedSession
	options *ort.RunOptions
	device  device.Device
	shape   model.Shape
	most    sizes
	cache   *kernels.Memory // on the device
	logit   *kernels.Memory // on the host, for logits

	fixed  *session.Mapping // memory of the slices below, but for logits
	ids    []int64
	starts []int32
	held   []int32
	pages  []int32
	bounds []int32
	sel    []int64
	logits []float32

	tensors map[key]ort.Value
	inputs  []ort.Value // of a call; the caches stay
	outputs []ort.Value
}

// key names a tensor over the host's memory: which value, its first element, its dimensions.
type key struct{ place, offset, rows, columns int }

// call is one run: how much of each value it uses.
type call struct{ tokens, sequences, width, sampled, logits int }

func newGraph(path string, s model.Shape, most sizes, c session.Config) (_ *graph, err error) {
	g := &graph{device: c.Device, shape: s, most: most, tensors: map[key]ort.Value{}, inputs: make([]ort.Value, inCaches+2*s.Layers), outputs: make([]ort.Value, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.destroy())
		}
	}()
	if err := g.place(); err != nil {
		return nil, err
	}
	if g.options, err = ort.NewRunOptions(); err != nil {
		return nil, err
	}
	names := []string{"ids", model.PagedStarts, model.PagedHeld, model.PagedPages, model.PagedBounds, "sel"}
	for l := range s.Layers {
		names = append(names, fmt.Sprintf("keys.%d", l), fmt.Sprintf("values.%d", l))
	}
	if g.session, err = session.New(path, names, []string{"logits"}, c); err != nil {
		return nil, err
	}
	return g, g.results()
}

// results makes the memory of the logits, which devices write to without a stop in between where the library has
// such memory for them.
func (g *graph) results() (err error) {
	for _, name := range []string{kernels.PinnedMemory, kernels.HostMemory} {
		if g.logit, err = kernels.NewMemory(g.session, name, g.device.Index); err != nil {
			continue
		}
		t, err := g.logit.Tensor(ort.TensorElementDataTypeFloat, int64(g.most.sampled), int64(g.shape.Vocab))
		if err != nil {
			return err
		}
		g.logits = kernels.Numbers[float32](t, g.most.sampled*g.shape.Vocab)
		return nil
	}
	return err
}

// place makes the memory of what the host tells the device.
func (g *graph) place() (err error) {
	m := g.most
	counts := []struct{ width, n int }{{8, m.tokens}, {4, m.sequences + 1}, {4, m.sequences}, {4, m.sequences * m.pages}, {4, 3}, {8, m.sampled}}
	at, offsets := int64(0), make([]int64, len(counts))
	for i, c := range counts {
		offsets[i] = at
		at += (int64(c.width*c.n) + 63) / 64 * 64
	}
	if g.fixed, err = session.NewMapping(at); err != nil {
		return err
	}
	numbers := func(i int) []int32 { return session.View[int32](g.fixed, offsets[i], int64(counts[i].n)) }
	g.ids = session.View[int64](g.fixed, offsets[inIDs], int64(m.tokens))
	g.starts, g.held, g.pages, g.bounds = numbers(inStarts), numbers(inHeld), numbers(inPages), numbers(inBounds)
	g.sel = session.View[int64](g.fixed, offsets[inSel], int64(m.sampled))
	return nil
}

// allot gives the cache so many pages, in place of those that it had. Their content is anything.
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
	return nil
}

// run runs the graph on what the caller has put into the slices.
func (g *graph) run(c call) error {
	var err error
	set := func(v *ort.Value, t ort.Value, e error) { *v, err = t, errors.Join(err, e) }
	t, e := tensor(g, key{inIDs, 0, c.tokens, 0}, g.ids)
	set(&g.inputs[inIDs], t, e)
	t, e = tensor(g, key{inStarts, 0, c.sequences + 1, 0}, g.starts)
	set(&g.inputs[inStarts], t, e)
	t, e = tensor(g, key{inHeld, 0, c.sequences, 0}, g.held)
	set(&g.inputs[inHeld], t, e)
	t, e = tensor(g, key{inPages, 0, c.sequences, c.width}, g.pages)
	set(&g.inputs[inPages], t, e)
	t, e = tensor(g, key{inBounds, 0, len(g.bounds), 0}, g.bounds)
	set(&g.inputs[inBounds], t, e)
	t, e = tensor(g, key{inSel, 0, c.sampled, 0}, g.sel)
	set(&g.inputs[inSel], t, e)
	t, e = tensor(g, key{outLogits, c.logits * g.shape.Vocab, c.sampled, g.shape.Vocab}, g.logits)
	set(&g.outputs[0], t, e)
	if err != nil {
		return err
	}
	return g.session.RunWithOptions(g.inputs, g.outputs, g.options)
}

// tensor is a view of data from k.offset on, of shape [rows] or [rows, columns], made once.
func tensor[T ort.TensorData](g *graph, k key, data []T) (ort.Value, error) {
	if t, ok := g.tensors[k]; ok {
		return t, nil
	}
	shape := ort.NewShape(int64(k.rows))
	if k.columns > 0 {
		shape = ort.NewShape(int64(k.rows), int64(k.columns))
	}
	t, err := ort.NewTensor(shape, data[k.offset:])
	if err != nil {
		return nil, fmt.Errorf("tensor %v: %w", shape, err)
	}
	g.tensors[k] = t
	return t, nil
}

// row is row i of the logits; its capacity ends with it.
func (g *graph) row(i int) []float32 {
	v := g.shape.Vocab
	return g.logits[i*v : (i+1)*v : (i+1)*v]
}

func (g *graph) destroy() error {
	var errs []error
	for _, t := range g.tensors {
		errs = append(errs, t.Destroy())
	}
	g.cache.Free()
	g.logit.Free()
	if g.session != nil {
		errs = append(errs, g.session.Destroy())
	}
	if g.options != nil {
		errs = append(errs, g.options.Destroy())
	}
	return errors.Join(append(errs, g.fixed.Unmap())...)
}
