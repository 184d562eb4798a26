package engine

import (
	"context"
	"errors"
	"fmt"
)

// ErrBadTensor: an input is not what the graph reads: its name, type or shape, or a value in it.
var ErrBadTensor = errors.New("tensor does not fit the model")

// Tensor is an array on its way into a [Graph] or out of it.
type Tensor struct {
	Name  string
	Type  string  // element type by its name in the Open Inference Protocol: "FP32", "INT64", …
	Shape []int64 // no free dimension
	Data  []byte  // row-major, little endian
}

// Port is an input or an output of a graph.
type Port struct {
	Name  string  `json:"name"`
	Type  string  `json:"datatype"`
	Shape []int64 `json:"shape"` // -1 is a free dimension
}

// Check says how t does not fit the port; the error wraps ErrBadTensor.
func (p Port) Check(t Tensor) error {
	if t.Type != p.Type {
		return fmt.Errorf("%w: %q has elements of type %.20s, the model reads %s", ErrBadTensor, p.Name, t.Type, p.Type)
	}
	if len(t.Shape) != len(p.Shape) {
		return fmt.Errorf("%w: %q has the shape %v, the model reads %v", ErrBadTensor, p.Name, t.Shape, p.Shape)
	}
	n := int64(ElementSize(p.Type))
	for i, d := range t.Shape {
		if d < 1 || p.Shape[i] >= 0 && d != p.Shape[i] || d > int64(len(t.Data)) {
			return fmt.Errorf("%w: %q has the shape %v, the model reads %v (-1 is any of at least 1)", ErrBadTensor, p.Name, t.Shape, p.Shape)
		}
		if n *= d; n > int64(len(t.Data)) {
			break
		}
	}
	if n != int64(len(t.Data)) {
		return fmt.Errorf("%w: %q of %s and shape %v does not take %d bytes", ErrBadTensor, p.Name, t.Type, t.Shape, len(t.Data))
	}
	return nil
}

// ElementSize is the bytes of one element of a type, 0 for one that graphs do not have.
func ElementSize(t string) int {
	switch t {
	case "BOOL", "UINT8", "INT8":
		return 1
	case "UINT16", "INT16", "FP16":
		return 2
	case "UINT32", "INT32", "FP32":
		return 4
	case "UINT64", "INT64", "FP64":
		return 8
	}
	return 0
}

// GraphInfo says what a graph runs and what it costs. It never changes while the graph lives.
type GraphInfo struct {
	Model   string
	Variant string
	Backend string
	Device  string

	Inputs  []Port
	Outputs []Port

	// Limit is the most units of work in one call: tokens of a model that embeds, rows (of the first
	// dimension) of any other. The memory of the largest call is part of what the loaded graph takes.
	Limit int

	Fingerprint string // names everything that the bits of the outputs depend on
}

// Graph is the seam for models that answer in one call, as [Engine] is for those that go on token by
// token. It is driven by one goroutine; Info may be called from any.
type Graph interface {
	// Info describes the graph.
	Info() GraphInfo
	// Run computes all outputs, in the order of Info.Outputs. The inputs are those of Info, in any order;
	// their data is not kept and the outputs' belongs to the caller. The error wraps ErrBadTensor when
	// the inputs are at fault. A canceled context stops a running call within milliseconds where the
	// device can.
	Run(ctx context.Context, inputs []Tensor) ([]Tensor, error)
	// Shutdown releases everything. The graph is unusable afterwards.
	Shutdown() error
}
