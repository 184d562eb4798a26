package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// Memory that a worker's process needs beside weights, activations and KV cache.
const (
	// heapRoom is what the Go heap may grow by while jobs run: queued chunks, broker buffers, HTTP.
	heapRoom = 64 << 20
	// autoShare is the part of the free memory that a worker takes when --memory does not say it.
	autoShare = 0.8
)

// Served is a model that this process serves: what the dispatcher needs to admit its jobs, and how a
// worker opens an engine for it.
type Served struct {
	Name          string
	Aliases       []string
	Variant       string
	Tokenizer     *tokenizer.Tokenizer
	EOS           []int32
	ContextLength int
	Vocab         int
	Created       time.Time

	open func(ctx context.Context, log *slog.Logger) (budgeted, error)
}

// budgeted is an engine whose KV budget is set after it was loaded, when its real footprint is known.
type budgeted interface {
	engine.Engine
	SetKVBudget(bytes int64)
}

// Model is what the dispatcher is told of s.
func (s Served) Model() dispatcher.Model {
	return dispatcher.Model{Name: s.Name, Aliases: s.Aliases, Tokenizer: s.Tokenizer, ContextLength: s.ContextLength, Vocab: s.Vocab, Created: s.Created}
}

// ServeONNX prepares a converted model; its tokenizer is loaded at once, the engine when a worker
// starts.
func ServeONNX(dir string, m model.Manifest, library string, threads int) (Served, error) {
	tok, err := tokenizer.Load(dir)
	if err != nil {
		return Served{}, fmt.Errorf("model %s: %w", m.Name, err)
	}
	return Served{
		Name: m.Name, Variant: m.Variant, Tokenizer: tok, EOS: m.EOS, ContextLength: m.Shape.ContextLength, Vocab: m.Shape.Vocab, Created: m.Created,
		open: func(_ context.Context, log *slog.Logger) (budgeted, error) {
			return onnx.Open(onnx.Config{ModelDir: dir, Library: library, Threads: threads, Logger: log})
		},
	}, nil
}

// ServeSim prepares a modelled device such as "sim:h100" under a model name.
func ServeSim(name, device string) (Served, error) {
	profile, err := sim.ProfileFor(device)
	if err != nil {
		return Served{}, err
	}
	tok, err := tokenizer.Parse(sim.TokenizerJSON(), sim.ChatTemplate())
	if err != nil {
		return Served{}, err
	}
	probe := sim.New(sim.Config{Model: name, Profile: profile})
	info := probe.Info()
	if err := probe.Shutdown(); err != nil {
		return Served{}, err
	}
	return Served{
		Name: name, Variant: info.Variant, Tokenizer: tok, EOS: sim.EOS(), ContextLength: info.ContextLength, Vocab: info.Vocab, Created: time.Now(),
		open: func(context.Context, *slog.Logger) (budgeted, error) {
			return sim.New(sim.Config{Model: name, Profile: profile}), nil
		},
	}, nil
}

// OpenEngine loads a converted model for use outside the fleet, with the memory that the machine has.
func OpenEngine(dir, library string, threads int) (engine.Engine, error) {
	e, err := onnx.Open(onnx.Config{ModelDir: dir, Library: library, Threads: threads})
	if err != nil {
		return nil, err
	}
	free, _, err := memory.Limit()
	if err != nil {
		return nil, errors.Join(err, e.Shutdown())
	}
	e.SetKVBudget(free / 2)
	return e, nil
}

// openEngines loads one engine for each worker and divides the memory: limit bytes resident for each,
// 0 for what the machine allows. The KV budgets are set last, from what the loaded process really
// takes.
func openEngines(ctx context.Context, served []*Served, limit int64, log *slog.Logger) (_ []budgeted, err error) {
	var engines []budgeted
	defer func() {
		if err != nil {
			for _, e := range engines {
				err = errors.Join(err, e.Shutdown())
			}
		}
	}()
	for _, s := range served {
		e, err := s.open(ctx, log)
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", s.Name, err)
		}
		engines = append(engines, e)
	}
	if len(engines) == 0 {
		return nil, nil
	}
	return engines, setBudgets(engines, limit, log)
}

func setBudgets(engines []budgeted, limit int64, log *slog.Logger) error {
	if engines[0].Info().Backend == "sim" { // its memory is modelled, the process's is not
		for _, e := range engines {
			if limit > 0 {
				e.SetKVBudget(limit)
			}
		}
		return nil
	}
	n := int64(len(engines))
	if limit == 0 {
		free, from, err := memory.Limit()
		if err != nil {
			return fmt.Errorf("memory: %w: say how much a worker may take with --memory", err)
		}
		limit = int64(float64(free) * autoShare / float64(n))
		log.Debug("memory", "limit", limit, "from", from)
	}
	debug.FreeOSMemory()
	fp := memory.Footprint{Base: memory.Resident(), Margin: heapRoom}
	for _, e := range engines {
		if f, ok := e.(interface{ Footprint() (weights, arena int64) }); ok {
			weights, arena := f.Footprint()
			fp.Base, fp.Weights, fp.Arena = fp.Base-weights-arena, fp.Weights+weights, fp.Arena+arena
		}
	}
	fp.Base = max(fp.Base, 0)
	kv, err := memory.KVBudget(limit*n, fp)
	if err != nil {
		return err
	}
	// The heap collects harder instead of outgrowing its room.
	debug.SetMemoryLimit(heapSize() + heapRoom)
	for _, e := range engines {
		e.SetKVBudget(kv / n)
	}
	log.Info("memory", "limit", limit*n, "process", fp.Base, "weights", fp.Weights, "activations", fp.Arena, "kv", kv)
	return nil
}
