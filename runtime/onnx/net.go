//go:build cgo && (linux || darwin)

package onnx

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Net implements [engine.Graph]: a model that answers in one call.
type Net struct {
	info    engine.GraphInfo
	log     *slog.Logger
	shape   model.Shape // of a model that embeds
	embeds  bool
	run     sync.Mutex // held while the session is in use
	session *ort.DynamicAdvancedSession
	options *ort.RunOptions
	scalars []bool // outputs that had no dimensions

	weights, arena int64 // resident bytes
}

// OpenNet loads the model of a folder whose manifest names its inputs and outputs, checks that they are
// the graph's, and runs a model that embeds once at full size to measure what that takes. The caller
// shuts it down. Of cfg, MaxStepTokens is the most tokens (or rows) of one call, 0 for the default, and
// what concerns the KV cache is not used.
func OpenNet(cfg Config) (Graph, error) {
	limit := cfg.MaxStepTokens
	c := cfg.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("open onnx graph: %w", err)
	}
	m, err := loadFolder(c.ModelDir)
	if err != nil {
		return nil, err
	}
	if m.Kind == "" {
		return nil, fmt.Errorf("open onnx graph: model %s writes text: it needs an engine", m.Name)
	}
	if err := session.Load(c.Library); err != nil {
		return nil, err
	}
	n, err := onDevice(c, m, func(c Config) (*Net, error) { return newNet(m, c, limit) })
	if err != nil {
		return nil, fmt.Errorf("open onnx graph on %s: %w", c.ModelDir, err)
	}
	return n, nil
}

// The most tokens of one call of a model that embeds. On CPUs more at once is slower, because what passes between
// the nodes leaves the caches (measured; see make bench-embed); a GPU takes about as long for a few as for thousands.
const (
	defaultUnits = 256
	gpuUnits     = 8192
)

func newNet(m model.Manifest, c Config, limit int) (_ *Net, err error) {
	start, before := time.Now(), memory.Resident()
	n := &Net{log: c.Logger, shape: m.Shape, embeds: m.Kind == model.KindEmbed, info: engine.GraphInfo{
		Model: m.Name, Variant: m.Variant, Backend: "onnx", Device: c.Device.String(), Inputs: m.Inputs, Outputs: m.Outputs, Limit: limit,
	}}
	if n.info.Limit == 0 {
		n.info.Limit = max(1, m.MaxBatch)
		if n.embeds {
			units := defaultUnits
			if c.Device.NVIDIA() {
				units = gpuUnits
			}
			n.info.Limit = max(units, m.Shape.ContextLength)
		}
	}
	n.scalars = make([]bool, len(m.Outputs))
	path := filepath.Join(c.ModelDir, model.GraphFile)
	inputs, outputs, err := Ports(c.Library, path)
	if err != nil {
		return nil, err
	}
	if !samePorts(m.Inputs, inputs) || !samePorts(m.Outputs, outputs) {
		return nil, fmt.Errorf("%w: the graph has inputs %v and outputs %v, the manifest says %v and %v: add the model again", model.ErrDamaged, inputs, outputs, m.Inputs, m.Outputs)
	}
	if n.options, err = ort.NewRunOptions(); err != nil {
		return nil, err
	}
	if n.session, err = session.New(path, portNames(m.Inputs), portNames(m.Outputs), c.session()); err != nil {
		return nil, errors.Join(err, n.options.Destroy())
	}
	loaded := memory.Resident()
	check, err := n.warmUp()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("first run: %w", err), n.Shutdown())
	}
	if c.Device.NVIDIA() {
		check = "" // its last bits vary
	}
	n.info.Fingerprint = fmt.Sprintf("%s-%s-ort%s-%s%s", m.Variant, model.Fingerprint(m), ort.GetVersion(), session.Class(c.Device), check)
	n.weights, n.arena = max(0, loaded-before), max(0, memory.Resident()-loaded)
	n.log.Info("graph open", "model", m.Name, "variant", m.Variant, "fingerprint", n.info.Fingerprint, "threads", c.Threads,
		"weights", n.weights, "arena", n.arena, "limit", n.info.Limit, "took", time.Since(start))
	return n, nil
}

// warmUp runs a model that embeds at its largest: one text of the full length and then many short ones,
// and returns a hash of a fixed text's vector. Other graphs have shapes that nobody but their users
// knows; they are not run.
func (n *Net) warmUp() (check string, err error) {
	if !n.embeds {
		return "", nil
	}
	text := func(tokens, texts int) ([]engine.Tensor, error) {
		ids, lengths := make([]byte, 0, 8*tokens*texts), make([]byte, 0, 4*texts)
		for range texts {
			for i := range tokens {
				ids = binary.LittleEndian.AppendUint64(ids, uint64((i*7919+31)%n.shape.Vocab))
			}
			lengths = binary.LittleEndian.AppendUint32(lengths, uint32(tokens))
		}
		return n.Run(context.Background(), []engine.Tensor{
			{Name: model.EmbedIDs, Type: "INT64", Shape: []int64{int64(tokens * texts)}, Data: ids},
			{Name: model.EmbedLengths, Type: "INT32", Shape: []int64{int64(texts)}, Data: lengths},
		})
	}
	longest := min(n.info.Limit, n.shape.ContextLength)
	if _, err := text(longest, n.info.Limit/longest); err != nil {
		return "", err
	}
	if _, err := text(min(8, longest), n.info.Limit/min(8, longest)); err != nil {
		return "", err
	}
	out, err := text(min(8, longest), 1)
	if err != nil {
		return "", err
	}
	sum := fnv.New32a()
	_, _ = sum.Write(out[0].Data) // a hash never fails
	return "-" + hex.EncodeToString(sum.Sum(nil)), nil
}

// Info describes the graph; safe from any goroutine.
func (n *Net) Info() engine.GraphInfo { return n.info }

// Footprint is what OpenNet added to the process's resident memory, in bytes: the loaded graph, and the
// scratch memory of the largest call.
func (n *Net) Footprint() (weights, arena int64) { return n.weights, n.arena }

// Run computes all outputs. It may be called from any goroutine; calls come one after the other.
func (n *Net) Run(ctx context.Context, inputs []engine.Tensor) (_ []engine.Tensor, err error) {
	n.run.Lock()
	defer n.run.Unlock()
	if n.session == nil {
		return nil, errShutdown
	}
	in, err := n.bind(inputs)
	out := make([]ort.Value, len(n.info.Outputs))
	defer func() { err = errors.Join(err, destroy(in), destroy(out)) }()
	if err != nil {
		return nil, err
	}
	release, err := session.Watch(ctx, n.options, n.log)
	if err != nil {
		return nil, err
	}
	err = n.compute(in, out)
	release()
	if err = cmp.Or(context.Cause(ctx), err); err != nil {
		return nil, err
	}
	results := make([]engine.Tensor, len(out))
	for i, v := range out {
		if results[i], err = n.result(n.info.Outputs[i], v); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// compute fills out. The binding cannot make the value of an output without dimensions, and forgets those behind it; nor
// does it tell such an output from one of which the graph says nothing. So the call is made again with a place for it,
// which later calls have from the start, until an output that had no dimensions has some.
func (n *Net) compute(in, out []ort.Value) (err error) {
	for range 2 + len(out) {
		for i := range out {
			if n.scalars[i] {
				if out[i], err = scalars[n.info.Outputs[i].Type].place(); err != nil {
					return err
				}
			}
		}
		err = n.session.RunWithOptions(in, out, n.options)
		switch {
		case errors.Is(err, ort.ZeroShapeLengthError): // of those without a place the last one that is set is no value
			at := 0
			for i, v := range out {
				if v != nil && !n.scalars[i] {
					at = i
				}
			}
			out[at], n.scalars[at] = nil, true
		case err != nil && slices.Contains(n.scalars, true):
			clear(n.scalars)
		default:
			return err
		}
		if e := destroy(out); e != nil {
			return e
		}
	}
	return err
}

// destroy frees values and forgets them.
func destroy(list []ort.Value) (err error) {
	for i, v := range list {
		if v != nil {
			list[i], err = nil, errors.Join(err, v.Destroy())
		}
	}
	return err
}

// scalarType is how values without dimensions are made, and read.
type scalarType struct {
	place func() (ort.Value, error)
	read  func(ort.Value) ([]byte, bool)
}

func scalarOf[T ort.TensorData]() scalarType {
	return scalarType{
		func() (ort.Value, error) { return ort.NewEmptyScalar[T]() },
		func(v ort.Value) ([]byte, bool) {
			s, ok := v.(*ort.Scalar[T])
			if !ok {
				return nil, false
			}
			return raw([]T{s.GetData()}), true
		},
	}
}

// scalars are the scalars of the types that outputs can have.
var scalars = map[string]scalarType{
	"BOOL": scalarOf[bool](), "UINT8": scalarOf[uint8](), "INT8": scalarOf[int8](), "UINT16": scalarOf[uint16](), "INT16": scalarOf[int16](),
	"UINT32": scalarOf[uint32](), "INT32": scalarOf[int32](), "FP32": scalarOf[float32](), "UINT64": scalarOf[uint64](), "INT64": scalarOf[int64](),
	"FP64": scalarOf[float64](),
}

// bind makes the graph's inputs out of tensors, in the graph's order.
func (n *Net) bind(inputs []engine.Tensor) ([]ort.Value, error) {
	var in []ort.Value
	if len(inputs) != len(n.info.Inputs) {
		return nil, fmt.Errorf("%w: %d inputs, the model has %d", engine.ErrBadTensor, len(inputs), len(n.info.Inputs))
	}
	for _, p := range n.info.Inputs {
		at := slices.IndexFunc(inputs, func(t engine.Tensor) bool { return t.Name == p.Name })
		if at < 0 {
			return in, fmt.Errorf("%w: input %q is missing", engine.ErrBadTensor, p.Name)
		}
		if err := p.Check(inputs[at]); err != nil {
			return in, err
		}
		v, err := ort.NewCustomDataTensor(ort.Shape(inputs[at].Shape), inputs[at].Data, elementTypes[p.Type])
		if err != nil {
			return in, fmt.Errorf("input %q: %w", p.Name, err)
		}
		in = append(in, v)
	}
	return in, nil
}

// Shutdown unloads the model; it waits for a running call.
func (n *Net) Shutdown() error {
	n.run.Lock()
	defer n.run.Unlock()
	if n.session == nil {
		return nil
	}
	s := n.session
	n.session = nil
	return errors.Join(s.Destroy(), n.options.Destroy())
}

// elementTypes are the types that tensors can have here, by their names in the Open Inference Protocol.
var elementTypes = map[string]ort.TensorElementDataType{
	"BOOL": ort.TensorElementDataTypeBool, "UINT8": ort.TensorElementDataTypeUint8, "INT8": ort.TensorElementDataTypeInt8,
	"UINT16": ort.TensorElementDataTypeUint16, "INT16": ort.TensorElementDataTypeInt16, "FP16": ort.TensorElementDataTypeFloat16,
	"UINT32": ort.TensorElementDataTypeUint32, "INT32": ort.TensorElementDataTypeInt32, "FP32": ort.TensorElementDataTypeFloat,
	"UINT64": ort.TensorElementDataTypeUint64, "INT64": ort.TensorElementDataTypeInt64, "FP64": ort.TensorElementDataTypeDouble,
}

// result copies an output out of the library's memory.
func (n *Net) result(p engine.Port, v ort.Value) (engine.Tensor, error) {
	t := engine.Tensor{Name: p.Name, Type: p.Type, Shape: slices.Clone([]int64(v.GetShape()))}
	if data, ok := scalars[p.Type].read(v); ok {
		t.Shape, t.Data = []int64{}, data
		return t, nil
	}
	switch v := v.(type) {
	case *ort.Tensor[float32]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[float64]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[int64]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[int32]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[int16]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[int8]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[uint64]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[uint32]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[uint16]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[uint8]:
		t.Data = raw(v.GetData())
	case *ort.Tensor[bool]:
		t.Data = raw(v.GetData())
	default:
		return t, fmt.Errorf("output %q is a %T, which this version does not return", p.Name, v)
	}
	return t, nil
}

// raw copies numbers as they lie in memory, which is little endian on all systems that this is built for.
func raw[T any](v []T) []byte {
	var zero T
	return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(zero))))
}
