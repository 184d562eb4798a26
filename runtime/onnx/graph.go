//go:build cgo && (linux || darwin)

package onnx

import (
	"errors"
	"fmt"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Places of the graph's values among its inputs (model.Shape says what they hold).
const (
	inIDs = iota
	inPlaces
	inSel
	inCaches // keys and values in turn, layer by layer

	outLogits = inCaches // as the place of a key
)

// graph is the session with the memory that it reads and writes, and the tensors that stand for parts
// of it. Tensors are made once for each size and kept; their contents change in place.
type graph struct {
	session *ort.DynamicAdvancedSession
	options *ort.RunOptions
	kv      *kvMemory
	fixed   *session.Mapping // memory of the slices below
	ids     []int64
	places  []int32 // slot and position of each token
	sel     []int64
	logits  []float32
	vocab   int
	tensors map[key]ort.Value
	inputs  []ort.Value // of a call; the caches stay
	outputs []ort.Value
}

// key names a tensor: which input or output, its first element, its dimensions.
type key struct{ place, offset, rows, columns int }

// call is one run of the graph.
type call struct {
	tokens  int // at the start of ids and places
	sampled int // rows of sel
	logits  int // row of logits at which the results begin
}

// newGraph loads a folder's graph, for calls of at most so many tokens and steps of so many rows of logits.
func newGraph(path string, s model.Shape, slots, tokens, rows int, c Config) (_ *graph, err error) {
	g := &graph{vocab: s.Vocab, tensors: map[key]ort.Value{}, outputs: make([]ort.Value, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.destroy())
		}
	}()
	n, sampled := int64(tokens), int64(rows)
	var parts [][]byte
	if g.fixed, parts, err = session.NewParts(n*8, n*8, sampled*8, sampled*int64(s.Vocab)*floatBytes); err != nil {
		return nil, err
	}
	g.ids, g.places = session.Numbers[int64](parts[0]), session.Numbers[int32](parts[1])
	g.sel, g.logits = session.Numbers[int64](parts[2]), session.Numbers[float32](parts[3])
	if g.kv, err = newKVMemory(s, slots); err != nil {
		return nil, err
	}
	if err := g.bindCaches(); err != nil {
		return nil, err
	}
	if g.options, err = ort.NewRunOptions(); err != nil {
		return nil, err
	}
	g.session, err = session.New(path, inputNames(s.Layers), []string{"logits"}, c.session())
	return g, err
}

func inputNames(layers int) []string {
	names := []string{"ids", "places", "sel"}
	for l := range layers {
		names = append(names, fmt.Sprintf("keys.%d", l), fmt.Sprintf("values.%d", l))
	}
	return names
}

// bindCaches makes the tensors of the whole cache.
func (g *graph) bindCaches() error {
	g.inputs = make([]ort.Value, inCaches)
	k := g.kv
	for b := range k.buffers {
		t, err := ort.NewTensor(ort.NewShape(int64(k.slots), int64(k.shape.KVHeads), k.region), k.Bytes[int64(b)*k.buffer:int64(b+1)*k.buffer])
		if err != nil {
			return fmt.Errorf("kv cache as tensor: %w", err)
		}
		g.inputs = append(g.inputs, t)
	}
	return nil
}

// put sets token i of a call.
func (g *graph) put(i int, id int32, slot, position int) {
	g.ids[i], g.places[2*i], g.places[2*i+1] = int64(id), int32(slot), int32(position)
}

// run runs the graph on what the caller has put into ids, places and sel.
func (g *graph) run(c call) error {
	var err error
	set := func(v *ort.Value, t ort.Value, e error) { *v, err = t, errors.Join(err, e) }
	t, e := tensor(g, key{inIDs, 0, c.tokens, 0}, g.ids)
	set(&g.inputs[inIDs], t, e)
	t, e = tensor(g, key{inPlaces, 0, c.tokens, 2}, g.places)
	set(&g.inputs[inPlaces], t, e)
	t, e = tensor(g, key{inSel, 0, c.sampled, 0}, g.sel)
	set(&g.inputs[inSel], t, e)
	t, e = tensor(g, key{outLogits, c.logits * g.vocab, c.sampled, g.vocab}, g.logits)
	set(&g.outputs[0], t, e)
	if err != nil {
		return err
	}
	return g.session.RunWithOptions(g.inputs, g.outputs, g.options)
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

// row is row i of the logits; its capacity ends with it.
func (g *graph) row(i int) []float32 { return g.some(i, 1) }

// some is n rows of the logits from row i on.
func (g *graph) some(i, n int) []float32 {
	return g.logits[i*g.vocab : (i+n)*g.vocab : (i+n)*g.vocab]
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
	for _, t := range g.inputs[min(inCaches, len(g.inputs)):] {
		errs = append(errs, t.Destroy())
	}
	if g.kv != nil {
		errs = append(errs, g.kv.Unmap())
	}
	return errors.Join(append(errs, g.fixed.Unmap())...)
}
