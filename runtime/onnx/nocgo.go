//go:build !cgo || !(linux || darwin)

package onnx

import (
	"context"
	"errors"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/model"
)

var errNoCgo = errors.New("this build cannot run onnx models: build it with CGO_ENABLED=1 and a C compiler on linux or macos, or use a simulated device")

// Engine stands in for the real engine in builds without cgo. Open never returns one.
type Engine struct{}

// Open says that this build has no ONNX engine.
func Open(Config) (*Engine, error) { return nil, errNoCgo }

// Net stands in for the real graph in builds without cgo. OpenNet never returns one.
type Net struct{}

// OpenNet says that this build has no ONNX graphs.
func OpenNet(Config) (*Net, error) { return nil, errNoCgo }

// Load says that this build has no ONNX engine.
func Load(string) error { return errNoCgo }

// Ports says that this build reads no ONNX files.
func Ports(_, _ string) (inputs, outputs []model.Port, err error) { return nil, nil, errNoCgo }

// Info describes nothing.
func (*Net) Info() engine.GraphInfo { return engine.GraphInfo{} }

// Footprint is zero.
func (*Net) Footprint() (weights, arena int64) { return 0, 0 }

// Run returns an error.
func (*Net) Run(context.Context, []engine.Tensor) ([]engine.Tensor, error) { return nil, errNoCgo }

// Shutdown does nothing.
func (*Net) Shutdown() error { return nil }

// OpenModel says that this build has no ONNX engine.
func OpenModel(Config) (Model, error) { return nil, errNoCgo }

// Info describes nothing.
func (*Engine) Info() engine.Info { return engine.Info{} }

// Memory holds nothing.
func (*Engine) Memory() engine.Memory { return engine.Memory{} }

// SetKVBudget does nothing.
func (*Engine) SetKVBudget(int64) {}

// Footprint is zero.
func (*Engine) Footprint() (weights, arena int64) { return 0, 0 }

// Open returns an error.
func (*Engine) Open(int) (engine.Seq, error) { return 0, errNoCgo }

// Close does nothing.
func (*Engine) Close(engine.Seq) {}

// Step returns an error.
func (*Engine) Step(context.Context, []*engine.Row) error { return errNoCgo }

// Logits returns an error.
func (*Engine) Logits(context.Context, []int32) ([][]float32, error) { return nil, errNoCgo }

// Shutdown does nothing.
func (*Engine) Shutdown() error { return nil }
