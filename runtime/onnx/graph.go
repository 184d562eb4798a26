//go:build cgo && (linux || darwin)

package onnx

import (
	"errors"
	"fmt"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/model"
)

// Places of the graph's values among its inputs and outputs (model.Shape says what they hold).
const (
	inIDs = iota
	inSeqlens
	inTotal
	inSel
	inPast // then keys and values in turn, layer by layer

	outLogits  = 0
	outPresent = 1
)

// graph is the session with the memory that it reads and writes, and the tensors that stand for parts
// of it. Tensors are made once for each size and kept; their contents change in place.
type graph struct {
	session *ort.DynamicAdvancedSession
	options *ort.RunOptions
	kv      *kvMemory
	fixed   *mapping // memory of the slices below
	ids     []int64
	seqlens []int32
	total   []int32
	sel     []int64
	logits  []float32
	vocab   int
	tensors map[key]ort.Value
	caches  map[[2]int]binding
}

// key names a tensor: which input or output, its first element, its first two dimensions.
type key struct{ place, offset, rows, columns int }

// binding is a set of inputs and outputs over slots lo to lo+n; all but the caches change by call.
type binding struct{ inputs, outputs []ort.Value }

// run is one call of the graph.
type run struct {
	lo, rows int // slots
	columns  int // tokens of each row; the ids lie at the start of graph.ids
	total    int // tokens of the longest row behind this call
	sampled  int // rows of graph.sel
	logits   int // row of graph.logits at which the results begin
}

// newGraph loads a folder's graph. rows bounds the rows and tokens of a call and the logits of a step.
func newGraph(path string, s model.Shape, slots, rows int, c Config) (_ *graph, err error) {
	g := &graph{vocab: s.Vocab, tensors: map[key]ort.Value{}, caches: map[[2]int]binding{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.destroy())
		}
	}()
	n := int64(rows)
	layout := []int64{n * 8, n * 8, n * 8, n * 8, n * int64(s.Vocab) * floatBytes}
	var size int64
	for _, part := range layout {
		size += (part + 63) / 64 * 64
	}
	if g.fixed, err = newMapping(size); err != nil {
		return nil, err
	}
	at := int64(0)
	next := func(i int) int64 {
		offset := at
		at += (layout[i] + 63) / 64 * 64
		return offset
	}
	g.ids = view[int64](g.fixed, next(0), n)
	g.sel = view[int64](g.fixed, next(1), n)
	g.seqlens = view[int32](g.fixed, next(2), n)
	g.total = view[int32](g.fixed, next(3), 1)
	g.logits = view[float32](g.fixed, next(4), n*int64(s.Vocab))
	if g.kv, err = newKVMemory(s, slots); err != nil {
		return nil, err
	}
	if g.options, err = ort.NewRunOptions(); err != nil {
		return nil, err
	}
	inputs, outputs := names(s.Layers)
	g.session, err = newSession(path, inputs, outputs, c)
	return g, err
}

func names(layers int) (inputs, outputs []string) {
	inputs, outputs = []string{"ids", "seqlens_k", "total_len", "sel"}, []string{"logits"}
	for l := range layers {
		inputs = append(inputs, fmt.Sprintf("past_k.%d", l), fmt.Sprintf("past_v.%d", l))
		outputs = append(outputs, fmt.Sprintf("present_k.%d", l), fmt.Sprintf("present_v.%d", l))
	}
	return inputs, outputs
}

// run runs the graph on what the caller has put into ids, seqlens and sel. All lengths must have been
// checked: version 1.24 of the library does not, and writes behind the end of the cache.
func (g *graph) run(r run) error {
	b, err := g.bind(r.lo, r.rows)
	if err != nil {
		return err
	}
	g.total[0] = int32(r.total)
	set := func(v *ort.Value, t ort.Value, e error) { *v, err = t, errors.Join(err, e) }
	t, e := tensor(g, key{inIDs, 0, r.rows, r.columns}, g.ids)
	set(&b.inputs[inIDs], t, e)
	t, e = tensor(g, key{inSeqlens, 0, r.rows, 0}, g.seqlens)
	set(&b.inputs[inSeqlens], t, e)
	t, e = tensor(g, key{inTotal, 0, 1, 0}, g.total)
	set(&b.inputs[inTotal], t, e)
	t, e = tensor(g, key{inSel, 0, r.sampled, 0}, g.sel)
	set(&b.inputs[inSel], t, e)
	t, e = tensor(g, key{inPast, r.logits * g.vocab, r.sampled, g.vocab}, g.logits)
	set(&b.outputs[outLogits], t, e)
	if err != nil {
		return err
	}
	return g.session.RunWithOptions(b.inputs, b.outputs, g.options)
}

// tensor is a view of data from k.offset on, of shape [rows] or [rows, columns].
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

// bind makes the values of the caches of n slots from lo on: the same memory as past and as present.
func (g *graph) bind(lo, n int) (binding, error) {
	if b, ok := g.caches[[2]int{lo, n}]; ok {
		return b, nil
	}
	s := g.kv.shape
	b := binding{inputs: make([]ort.Value, inPast), outputs: make([]ort.Value, outPresent)}
	for i := range g.kv.buffers {
		t, err := ort.NewTensor(ort.NewShape(int64(n), int64(s.KVHeads), int64(s.ContextLength), int64(s.HeadDim)), g.kv.rows(i, lo, n))
		if err != nil {
			return binding{}, fmt.Errorf("kv view of slots %d to %d: %w", lo, lo+n-1, err)
		}
		b.inputs, b.outputs = append(b.inputs, t), append(b.outputs, t)
	}
	g.caches[[2]int{lo, n}] = b
	return b, nil
}

// row is row i of the logits; its capacity ends with it.
func (g *graph) row(i int) []float32 {
	return g.logits[i*g.vocab : (i+1)*g.vocab : (i+1)*g.vocab]
}

func (g *graph) destroy() error {
	var errs []error
	if g.session != nil {
		errs = append(errs, g.session.Destroy())
	}
	if g.options != nil {
		errs = append(errs, g.options.Destroy())
	}
	for _, t := range g.tensors {
		errs = append(errs, t.Destroy())
	}
	for _, b := range g.caches {
		for _, t := range b.inputs[inPast:] {
			errs = append(errs, t.Destroy())
		}
	}
	if g.kv != nil {
		errs = append(errs, g.kv.unmap())
	}
	return errors.Join(append(errs, g.fixed.unmap())...)
}
