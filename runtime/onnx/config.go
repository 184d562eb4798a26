package onnx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/onnx/paged"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Model is what OpenModel returns, and what the workers drive.
type Model interface {
	engine.Engine
	footprint
	// SetKVBudget changes the bytes of KV cache; safe from any goroutine.
	SetKVBudget(bytes int64)
	// Logits runs a whole text and returns the logits behind each token.
	Logits(ctx context.Context, tokens []int32) ([][]float32, error)
}

// Graph is what OpenNet returns.
type Graph interface {
	engine.Graph
	footprint
}

// footprint is what an open model takes beside its jobs.
type footprint interface {
	// Footprint is what opening took, in resident bytes.
	Footprint() (weights, arena int64)
}

// Spin says whether ONNX Runtime's threads wait for work by spinning.
type Spin = session.Spin

// The ways to wait.
const (
	SpinAuto = session.SpinAuto
	SpinOn   = session.SpinOn
	SpinOff  = session.SpinOff
)

// Config says what to open. Only ModelDir and Library are required.
type Config struct {
	ModelDir string // model folder with its manifest
	Library  string // path of libonnxruntime.so, 1.24 or newer (the callers' PELTON_ORT_LIB)

	Device device.Device // where it runs; the zero value is the CPU

	Threads int  // of one step; 0 means all cores that the process may use
	Spin    Spin // how they wait

	KVBudget      int64     // bytes of KV cache; 0 means MaxSequences full contexts, SetKVBudget changes it
	Neighbors     Neighbors // who shares the memory of a GPU
	MaxSequences  int       // open at once; 0 means 64, at most 1024
	MaxStepTokens int       // most tokens of a prefill row; 0 means 80, from 4 to 4096

	Logger *slog.Logger // nil discards
}

// Neighbors are the models that are opened on the same GPU.
type Neighbors = paged.Neighbors

// Bounds of the configuration.
const (
	defaultSequences  = 64
	maxSequences      = 1024
	defaultStepTokens = 80
	maxStepTokens     = 4096
	maxThreads        = 1024
)

// session is what of c concerns one session.
func (c Config) session() session.Config {
	return session.Config{Library: c.Library, Device: c.Device, Threads: c.Threads, Spin: c.Spin}
}

func (c Config) withDefaults() Config {
	if c.Threads == 0 {
		c.Threads = runtime.GOMAXPROCS(0)
	}
	c.MaxSequences = cmp.Or(c.MaxSequences, defaultSequences)
	c.MaxStepTokens = cmp.Or(c.MaxStepTokens, defaultStepTokens)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.ModelDir == "" {
		errs = append(errs, errors.New("no model folder"))
	}
	if c.Library == "" {
		errs = append(errs, errors.New("no onnx runtime library: set PELTON_ORT_LIB to the path of libonnxruntime.so, version 1.24 or newer"))
	}
	check := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%s is %d, must be from %d to %d", name, v, lo, hi))
		}
	}
	check("threads", c.Threads, 1, maxThreads)
	check("most sequences", c.MaxSequences, 1, maxSequences)
	check("most tokens of a step", c.MaxStepTokens, 4, maxStepTokens)
	check("spin", int(c.Spin), int(SpinAuto), int(SpinOff))
	if c.KVBudget < 0 {
		errs = append(errs, fmt.Errorf("kv budget is %d bytes, must not be negative", c.KVBudget))
	}
	return errors.Join(errs...)
}
