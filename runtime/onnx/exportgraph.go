//go:build cgo && (linux || darwin)

package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/session"
	"github.com/pelton-run/pelton/runtime/quant"
)

// exportGraph is the session of an exported decoder with the memory of its values.
type exportGraph struct {
	session *ort.DynamicAdvancedSession
	options *ort.RunOptions
	level   ort.GraphOptimizationLevel
	spec    model.Graph
	shape   model.Shape
	columns int // most tokens of a call
	memory  *exportMemory
	fixed   *session.Mapping
	ids     []byte // of spec's types
	places  []byte
	mask    []byte // ones
	branch  []byte
	output  []byte    // logits as the graph gives them
	sampled []float32 // logits of the rows of a step
	keepAll bool      // logits of all tokens are wanted
	rows    int       // of output in the last call
}

func width(v model.Value) int {
	switch v.Type {
	case model.Int64:
		return 8
	case model.Float16:
		return 2
	case model.Bool:
		return 1
	}
	return 4
}

var valueTypes = map[string]ort.TensorElementDataType{
	model.Float32: ort.TensorElementDataTypeFloat, model.Float16: ort.TensorElementDataTypeFloat16,
	model.Int64: ort.TensorElementDataTypeInt64, model.Int32: ort.TensorElementDataTypeInt32, model.Bool: ort.TensorElementDataTypeBool,
}

// newExportGraph loads the graph at path; columns bounds the tokens of a call.
func newExportGraph(path string, spec model.Graph, s model.Shape, slots, columns int, c Config) (_ *exportGraph, err error) {
	g := &exportGraph{spec: spec, shape: s, columns: columns}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.destroy())
		}
	}()
	if g.memory, err = newExportMemory(s, slots, spec.InPlace); err != nil {
		return nil, err
	}
	var parts [][]byte
	if g.fixed, parts, err = session.NewParts(
		int64(columns*width(spec.IDs)), int64(columns*width(spec.Positions)), int64(s.ContextLength*width(spec.Mask)), 1,
		int64(columns)*int64(s.Vocab)*int64(width(spec.Logits)), int64(c.MaxSequences)*int64(s.Vocab)*floatBytes,
	); err != nil {
		return nil, err
	}
	g.ids, g.places, g.mask, g.branch, g.output = parts[0], parts[1], parts[2], parts[3], parts[4]
	g.sampled = session.Numbers[float32](parts[5])
	for i := range s.ContextLength {
		putInt(g.mask, width(spec.Mask), i, 1)
	}
	if g.options, err = ort.NewRunOptions(); err != nil {
		return nil, err
	}
	return g, g.load(path, c)
}

// load makes the session. The library's optimizer fails on some half-precision graphs of other tools;
// these run with its basic steps only.
func (g *exportGraph) load(path string, c Config) (err error) {
	inputs, outputs := g.names()
	for _, g.level = range []ort.GraphOptimizationLevel{ort.GraphOptimizationLevelEnableAll, ort.GraphOptimizationLevelEnableBasic} {
		s, e := session.NewAt(g.level, path, inputs, outputs, c.session())
		if e == nil {
			g.session = s
			return nil
		}
		if err == nil {
			err = e // the first error says more
		}
		c.Logger.Warn("graph does not load", "graph", path, "optimization", g.level, "error", e)
	}
	return err
}

// putInt sets number i of a buffer of integers.
func putInt(b []byte, width, i, v int) {
	if width == 8 {
		binary.NativeEndian.PutUint64(b[8*i:], uint64(v))
		return
	}
	binary.NativeEndian.PutUint32(b[4*i:], uint32(v))
}

func layerName(v model.Value, layer int) string {
	return strings.Replace(v.Name, "%d", fmt.Sprint(layer), 1)
}

// names lists inputs and outputs in the order in which call makes their values.
func (g *exportGraph) names() (inputs, outputs []string) {
	for _, v := range []model.Value{g.spec.IDs, g.spec.Mask, g.spec.Positions, g.spec.UseCache, g.spec.Keep} {
		if v.Name != "" {
			inputs = append(inputs, v.Name)
		}
	}
	outputs = append(outputs, g.spec.Logits.Name)
	for l := range g.shape.Layers {
		inputs = append(inputs, layerName(g.spec.PastKey, l), layerName(g.spec.PastValue, l))
		outputs = append(outputs, layerName(g.spec.Key, l), layerName(g.spec.Value, l))
	}
	return inputs, outputs
}

// values collects the values of one call; the first error sticks.
type values struct {
	list []ort.Value
	err  error
}

func (v *values) add(kind string, data []byte, dims ...int64) {
	if v.err != nil {
		return
	}
	t, err := ort.NewCustomDataTensor(ort.Shape(dims), data, valueTypes[kind])
	if v.err = err; err == nil {
		v.list = append(v.list, t)
	}
}

func (v *values) destroy() error {
	err := v.err
	for _, t := range v.list {
		err = errors.Join(err, t.Destroy())
	}
	return err
}

// run feeds tokens behind the past that lies in slot, and returns the slot in which the cache lies now.
// All lengths must have been checked.
func (g *exportGraph) run(slot, past int, tokens []int32) (_ int, err error) {
	n, total := len(tokens), past+len(tokens)
	for i, t := range tokens {
		putInt(g.ids, width(g.spec.IDs), i, int(t))
		if g.spec.Positions.Name != "" {
			putInt(g.places, width(g.spec.Positions), i, past+i)
		}
	}
	g.branch[0] = byte(min(past, 1))
	var in, out values
	defer func() { err = errors.Join(err, in.destroy(), out.destroy()) }()
	in.add(g.spec.IDs.Type, g.ids, 1, int64(n))
	if g.spec.Mask.Name != "" {
		in.add(g.spec.Mask.Type, g.mask, 1, int64(total))
	}
	if g.spec.Positions.Name != "" {
		in.add(g.spec.Positions.Type, g.places, 1, int64(n))
	}
	if g.spec.UseCache.Name != "" {
		in.add(g.spec.UseCache.Type, g.branch, 1)
	}
	g.rows = n
	if g.spec.Last {
		g.rows = 1
	}
	if g.spec.Keep.Name != "" {
		g.keep(&in)
	}
	out.add(g.spec.Logits.Type, g.output, 1, int64(g.rows), int64(g.shape.Vocab))
	to := g.memory.bind(&in, &out, slot, past, total)
	if err := errors.Join(in.err, out.err); err != nil {
		return slot, err
	}
	if err := g.session.RunWithOptions(in.list, out.list, g.options); err != nil {
		return slot, err
	}
	g.memory.done(slot, total)
	return to, nil
}

// keep adds the count of the last tokens whose logits are wanted; 0 is all.
func (g *exportGraph) keep(in *values) {
	count := int64(1)
	if g.keepAll {
		count = 0
	} else {
		g.rows = 1
	}
	scalar, err := ort.NewScalar(count)
	if in.err = errors.Join(in.err, err); in.err == nil {
		in.list = append(in.list, scalar)
	}
}

// last copies the logits of the last token of the last call to row i of a step's, and returns them.
func (g *exportGraph) last(i int) []float32 {
	row := g.sampled[i*g.shape.Vocab : (i+1)*g.shape.Vocab : (i+1)*g.shape.Vocab]
	g.read(row, g.rows-1)
	return row
}

// logitsOf returns a copy of row i of the last call's logits.
func (g *exportGraph) logitsOf(i int) []float32 {
	row := make([]float32, g.shape.Vocab)
	g.read(row, i)
	return row
}

func (g *exportGraph) read(row []float32, from int) {
	format := quant.F32
	if g.spec.Logits.Type == model.Float16 {
		format = quant.F16
	}
	size := len(row) * width(g.spec.Logits)
	_ = format.Dequantize(row, g.output[from*size:(from+1)*size]) // the sizes fit
}

func (g *exportGraph) destroy() error {
	var errs []error
	if g.session != nil {
		errs = append(errs, g.session.Destroy())
	}
	if g.options != nil {
		errs = append(errs, g.options.Destroy())
	}
	if g.memory != nil {
		errs = append(errs, g.memory.Unmap())
	}
	return errors.Join(append(errs, g.fixed.Unmap())...)
}

// exportMemory holds caches: for each layer's keys and values one region in each slot. A graph that makes
// its cache anew finds [KVHeads,T,HeadDim] in one piece at the region's start, T the tokens held; one
// that appends in place finds [KVHeads,ContextLength,HeadDim].
type exportMemory struct {
	*session.Mapping
	shape   model.Shape
	kind    string
	inPlace bool
	slots   int
	spare   int   // the slot that the next call writes to, when not in place
	left    int   // tokens that lie in it
	row     int64 // bytes of one token's head
	region  int64 // bytes, whole pages
}

// maxSpare is the most bytes that the spare slot keeps between calls.
const maxSpare = 32 << 20

func newExportMemory(s model.Shape, slots int, inPlace bool) (*exportMemory, error) {
	m := &exportMemory{shape: s, inPlace: inPlace, slots: slots, spare: slots - 1, kind: model.Float32, row: int64(s.HeadDim) * floatBytes}
	if s.KVWidth == 2 {
		m.kind, m.row = model.Float16, int64(s.HeadDim)*2
	}
	page := int64(os.Getpagesize())
	m.region = (m.row*int64(s.ContextLength)*int64(s.KVHeads) + page - 1) / page * page
	if all := float64(m.region) * float64(2*s.Layers) * float64(slots); all > maxMapping {
		return nil, fmt.Errorf("a kv cache of %d slots of %d tokens needs %.3g bytes of address space: allow fewer sequences", slots, s.ContextLength, all)
	}
	var err error
	m.Mapping, err = session.NewMapping(m.region * int64(2*s.Layers) * int64(slots))
	return m, err
}

func (m *exportMemory) at(slot, buffer int) int64 {
	return m.region * int64(slot*2*m.shape.Layers+buffer)
}

// bind adds the caches to a call's values and returns the slot that will hold the new one.
func (m *exportMemory) bind(in, out *values, slot, past, total int) int {
	to := slot
	if m.inPlace {
		past, total = m.shape.ContextLength, m.shape.ContextLength
	} else {
		to = m.spare
	}
	for b := range 2 * m.shape.Layers {
		add := func(v *values, slot, tokens int) {
			heads, dim := int64(m.shape.KVHeads), int64(m.shape.HeadDim)
			size := m.row * heads * int64(tokens)
			at := m.at(slot, b)
			v.add(m.kind, m.Bytes[at:at+max(size, m.row)], 1, heads, int64(tokens), dim)
		}
		add(in, slot, past)
		add(out, to, total)
	}
	return to
}

// done notes that a call has filled another slot with total tokens, so that the one it read is free.
func (m *exportMemory) done(from, total int) {
	if m.inPlace {
		return
	}
	m.spare, m.left = from, max(total, m.left)
	if int64(m.left)*m.shape.KVBytesPerToken() > maxSpare {
		m.clear(from, m.left)
		m.left = 0
	}
}

// clear gives the pages of a slot's first tokens back. It cannot fail but for a wrong range.
func (m *exportMemory) clear(slot, tokens int) {
	page := int64(os.Getpagesize())
	for b := range 2 * m.shape.Layers {
		at := m.at(slot, b)
		if !m.inPlace {
			size := m.row * int64(m.shape.KVHeads) * int64(tokens)
			_ = m.Release(at, at+(size+page-1)/page*page)
			continue
		}
		for h := range m.shape.KVHeads {
			from := at + int64(h)*m.row*int64(m.shape.ContextLength)
			_ = m.Release(from, from+m.row*int64(tokens))
		}
	}
}
