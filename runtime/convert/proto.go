package convert

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The few messages of onnx.proto (IR version 8) that a decoder graph needs, written field by field. The
// numbers are those of the specification: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

const (
	irVersion        = 8
	opsetONNX        = 17
	opsetMicrosoft   = 1
	domainONNX       = ""
	domainMicrosoft  = "com.microsoft"
	opsetPelton      = 1
	domainPelton     = "pelton" // runtime/onnx/kernels
	producer         = "pelton"
	attributeFloat   = 1 // AttributeProto.AttributeType
	attributeInt     = 2
	attributeInts    = 7
	externalLocation = 1 // TensorProto.DataLocation
)

// dataType is TensorProto.DataType.
type dataType int64

const (
	typeFloat dataType = 1
	typeUint8 dataType = 2
	typeInt8  dataType = 3
	typeInt32 dataType = 6
	typeInt64 dataType = 7
	typeHalf  dataType = 10
)

// width is the bytes of a number.
func (t dataType) width() int {
	switch t {
	case typeFloat, typeInt32:
		return 4
	case typeInt64:
		return 8
	case typeHalf:
		return 2
	}
	return 1
}

// message is a protobuf message under construction.
type message []byte

func (m *message) text(field protowire.Number, s string) {
	*m = protowire.AppendString(protowire.AppendTag(*m, field, protowire.BytesType), s)
}

func (m *message) int(field protowire.Number, v int64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), uint64(v))
}

func (m *message) float(field protowire.Number, v float32) {
	*m = protowire.AppendFixed32(protowire.AppendTag(*m, field, protowire.Fixed32Type), math.Float32bits(v))
}

func (m *message) sub(field protowire.Number, v message) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), v)
}

// attribute makes one AttributeProto; value is an int, a float32 or a []int64.
type attribute struct {
	name  string
	value any
}

func (a attribute) encode() message {
	var m message
	m.text(1, a.name)
	switch v := a.value.(type) {
	case float32:
		m.float(2, v)
		m.int(20, attributeFloat)
	case int:
		m.int(3, int64(v))
		m.int(20, attributeInt)
	case []int64:
		for _, i := range v {
			m.int(8, i)
		}
		m.int(20, attributeInts)
	}
	return m
}

// nodeProto encodes one NodeProto. An empty name among inputs or outputs is one that is left out.
func nodeProto(domain, op, name string, inputs, outputs []string, attrs []attribute) message {
	var m message
	for _, s := range inputs {
		m.text(1, s)
	}
	for _, s := range outputs {
		m.text(2, s)
	}
	m.text(3, name)
	m.text(4, op)
	for _, a := range attrs {
		m.sub(5, a.encode())
	}
	if domain != domainONNX {
		m.text(7, domain)
	}
	return m
}

// valueProto encodes a graph input or output; a dimension is an int or the name of a free one.
func valueProto(name string, t dataType, dims ...any) message {
	var shape message
	for _, d := range dims {
		var dim message
		switch d := d.(type) {
		case int:
			dim.int(1, int64(d))
		case string:
			dim.text(2, d)
		}
		shape.sub(1, dim)
	}
	var tensor, kind, m message
	tensor.int(1, int64(t))
	tensor.sub(2, shape)
	kind.sub(1, tensor)
	m.text(1, name)
	m.sub(2, kind)
	return m
}

// constantProto encodes a small int64 initializer that lies in the graph itself.
func constantProto(name string, values ...int64) message {
	var m message
	m.int(1, int64(len(values)))
	m.int(2, int64(typeInt64))
	for _, v := range values {
		m.int(7, v)
	}
	m.text(8, name)
	return m
}

// scalarProto encodes an int64 initializer without dimensions.
func scalarProto(name string, value int64) message {
	var m message
	m.int(2, int64(typeInt64))
	m.int(7, value)
	m.text(8, name)
	return m
}

// numberProto encodes a number that lies in the graph itself, raw in the bytes of its type.
func numberProto(name string, t dataType, raw []byte) message {
	var m message
	m.int(2, int64(t))
	m.text(8, name)
	m.sub(9, raw)
	return m
}

func modelProto(graph message) message {
	var m message
	m.int(1, irVersion)
	m.text(2, producer)
	m.sub(7, graph)
	for _, o := range []struct {
		domain  string
		version int64
	}{{domainONNX, opsetONNX}, {domainMicrosoft, opsetMicrosoft}, {domainPelton, opsetPelton}} {
		var opset message
		opset.text(1, o.domain)
		opset.int(2, o.version)
		m.sub(8, opset)
	}
	return m
}

// nodes are the steps of a graph under construction and the small constants that they use.
type nodes struct {
	list      []message
	constants []message
	known     map[string]bool // constants by name
}

func (g *nodes) onnx(op, name string, in, out []string, attrs ...attribute) {
	g.list = append(g.list, nodeProto(domainONNX, op, name, in, out, attrs))
}

func (g *nodes) microsoft(op, name string, in, out []string, attrs ...attribute) {
	g.list = append(g.list, nodeProto(domainMicrosoft, op, name, in, out, attrs))
}

func (g *nodes) pelton(op, name string, in, out []string, attrs ...attribute) {
	g.list = append(g.list, nodeProto(domainPelton, op, name, in, out, attrs))
}

// constant declares a small int64 vector once and returns its name.
func (g *nodes) constant(name string, values ...int64) string {
	if !g.known[name] {
		g.known[name] = true
		g.constants = append(g.constants, constantProto(name, values...))
	}
	return name
}

// scalar declares a float once and returns its name.
func (g *nodes) scalar(name string, v float32) string {
	return g.number(name, typeFloat, binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
}

func (g *nodes) number(name string, t dataType, raw []byte) string {
	if !g.known[name] {
		g.known[name] = true
		g.constants = append(g.constants, numberProto(name, t, raw))
	}
	return name
}
