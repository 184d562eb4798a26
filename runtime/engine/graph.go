package engine

import (
	"context"
	"errors"
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
	Name  string
	Type  string
	Shape []int64 // -1 is a free dimension
}

// GraphInfo says what a graph runs and what it costs. It never changes while the graph lives.
type GraphInfo struct {
	Model   string
	Variant string
	Backend string
	Device  string

	Inputs  []Port
	Outputs []Port

	// Limit is the most units of work in one call, UnitBytes the memory that one takes while it runs. A
	// unit is a token of an embedding model, a row (of the first dimension) of any other.
	Limit     int
	UnitBytes int64

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
