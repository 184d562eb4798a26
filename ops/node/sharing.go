package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/ops/metrics"
	"github.com/pelton-run/pelton/ops/residence"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/onnx"
	"github.com/pelton-run/pelton/runtime/onnx/session"
	"github.com/pelton-run/pelton/worker/intake"
)

// Memory that a worker's process needs beside weights, activations and KV cache.
const (
	// heapRoom is what the Go heap may grow by while jobs run: queued chunks, broker buffers, HTTP.
	heapRoom = 64 << 20
	// libraryRoom is what the ONNX Runtime library takes when it is loaded.
	libraryRoom = 32 << 20
	// arenaGuess is what a model takes beside the bytes of its files, until it was loaded once.
	arenaGuess = 80 << 20
	// autoShare is the part of the free memory that a worker takes when --memory does not say it.
	autoShare = 0.8
	// sampling is how often the process's memory is compared with what is accounted for.
	sampling = 500 * time.Millisecond
	// sweeping is how often garbage is collected at most because the process holds too much.
	sweeping = 2 * time.Second
)

// opened is an engine for a worker, and where its jobs reserve their memory; nil is the engine's own.
type opened struct {
	engine.Engine
	Bytes   intake.Bytes
	abandon func()
}

// sharing is the memory of a process whose engines have it together.
type sharing struct {
	plan    memory.Plan
	heap    int64 // of the Go runtime when the plan was made
	budget  *memory.Budget
	manager *residence.Manager
	seats   []*residence.Seat
	engines []*residence.Engine
	metrics *metrics.Registry
}

// openEngines loads an engine for each worker. Those on devices with memory of their own have it to
// themselves, the others share what the process may hold. A model that does not open becomes what stands in for it.
func (n *Node) openEngines(ctx context.Context, served []*Served) ([]opened, error) {
	out := make([]opened, len(served))
	var together []*Served
	for i, s := range served {
		for s.own && out[i].Engine == nil {
			e, err := s.open(ctx, n.cfg.Log, room{n.cfg.Memory, beside(served, i)})
			switch {
			case err == nil:
				if sharer, ok := e.(engine.Sharer); ok {
					sharer.Keep(e.Memory().Budget) // nobody else wants what is free
				}
				out[i] = opened{Engine: e, abandon: func() {}}
			case s.Else == nil:
				return nil, fmt.Errorf("model %s: %w", s.Name, err)
			default:
				n.cfg.Log.Warn("the model is served in another variant: that for the device does not open", "model", s.Name, "error", err)
				other, err := s.Else(ctx)
				if err != nil {
					return nil, fmt.Errorf("model %s: another variant: %w", s.Name, err)
				}
				other.Aliases, other.Pinned = s.Aliases, s.Pinned
				*s = other
			}
		}
		if out[i].Engine == nil {
			together = append(together, s)
		}
	}
	if len(together) == 0 {
		return out, nil
	}
	limit, err := n.limit()
	if err != nil {
		return nil, err
	}
	m, err := share(ctx, together, limit, n.cfg.Metrics, n.cfg.Log)
	if err != nil {
		return nil, err
	}
	n.memory = m
	at := 0
	for i := range out {
		if out[i].Engine == nil {
			out[i] = opened{Engine: m.engines[at], Bytes: m.seats[at], abandon: m.seats[at].Abandon}
			at++
		}
	}
	return out, nil
}

// beside is what of served takes memory of the same device as number i.
func beside(served []*Served, i int) (n onnx.Neighbors) {
	for k, other := range served {
		switch {
		case k == i || !other.own || other.on.Kind == "" || other.on != served[i].on:
		case k < i:
			n.Before++
		default:
			n.After++
			n.Weights += other.files
		}
	}
	return n
}

// limit is how many bytes the process may hold.
func (n *Node) limit() (int64, error) {
	allowed, from, err := memory.Limit()
	if n.cfg.Memory > 0 {
		limit := n.cfg.Memory * int64(n.cfg.Workers)
		if err == nil && limit > allowed {
			n.cfg.Log.Warn("--memory is more than the machine has left: the process may be killed", "limit", limit, "allowed", allowed, "from", from)
		}
		return limit, nil
	}
	if err != nil {
		return 0, fmt.Errorf("memory: %w: say how much a worker may take with --memory", err)
	}
	limit := int64(float64(allowed) * autoShare)
	n.cfg.Log.Debug("memory", "limit", limit, "allowed", allowed, "from", from)
	return limit, nil
}

// share loads the models of all workers, each at least once, and makes the plan from what they really
// take. The first models are loaded last, and pinned ones after them, so that these are in memory at
// the start when not all fit.
func share(ctx context.Context, served []*Served, limit int64, m *metrics.Registry, log *slog.Logger) (_ *sharing, err error) {
	debug.FreeOSMemory()
	plan := memory.Plan{Limit: limit, Base: memory.Resident() + libraryRoom, Margin: heapRoom}
	h := &sharing{budget: memory.NewBudget(plan.Budget()), metrics: m, seats: make([]*residence.Seat, len(served)), engines: make([]*residence.Engine, len(served))}
	h.manager = residence.New(residence.Config{Budget: h.budget, Logger: log, Trace: m.Residence()})
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	for _, pinned := range []bool{false, true} {
		for i, s := range slices.Backward(served) {
			if s.Pinned == pinned {
				if err := h.add(ctx, i, s, log); err != nil {
					return nil, err
				}
			}
		}
	}
	return h, h.settle(served, limit, log)
}

// add loads a model for the first time.
func (h *sharing) add(ctx context.Context, i int, s *Served, log *slog.Logger) (err error) {
	fingerprint := ""
	var loaded atomic.Value // the engine.Sharer that may keep what is free
	h.budget.Lend(func(bytes int64) {
		if e, ok := loaded.Load().(engine.Sharer); ok {
			e.Keep(bytes)
		}
	})
	h.seats[i], err = h.manager.Add(ctx, residence.Model{Name: s.Name, Pinned: s.Pinned, Bytes: s.files + arenaGuess,
		Open: func(ctx context.Context) (residence.Loaded, error) {
			e, err := s.open(ctx, log, room{})
			if err != nil {
				return nil, err
			}
			f, ok := e.(residence.Loaded)
			if got := e.Info().Fingerprint; !ok || fingerprint != "" && got != fingerprint {
				return nil, errors.Join(fmt.Errorf("it was %s when the worker started and is %s now: restart the worker", fingerprint, got), e.Shutdown())
			}
			fingerprint = e.Info().Fingerprint
			if s, ok := e.(engine.Sharer); ok {
				loaded.Store(s)
			}
			return f, nil
		}})
	if err == nil {
		h.engines[i], err = residence.NewEngine(h.seats[i])
	}
	if err != nil {
		return fmt.Errorf("model %s: %w", s.Name, err)
	}
	return nil
}

// settle makes the plan from what the process holds now, and checks that each model can have a job.
func (h *sharing) settle(served []*Served, limit int64, log *slog.Logger) error {
	debug.FreeOSMemory()
	models := h.budget.Reserved()
	h.heap = heapSize()
	h.plan = memory.Plan{Limit: limit, Base: max(memory.Resident()-models, 0), Margin: heapRoom}
	h.budget.SetTotal(h.plan.Budget(), h.plan.Budget())
	var pinned int64
	for i, s := range served {
		if s.Pinned {
			pinned += h.seats[i].Footprint()
		}
	}
	for i, s := range served {
		fp := memory.Footprint{Base: h.plan.Base, Weights: pinned, Margin: heapRoom}
		if !s.Pinned {
			fp.Weights += h.seats[i].Footprint()
		}
		if _, err := memory.KVBudget(limit, fp); err != nil {
			return fmt.Errorf("model %s: %w", s.Name, err)
		}
	}
	// The heap collects harder instead of outgrowing its room.
	debug.SetMemoryLimit(h.heap + heapRoom)
	log.Info("memory", "limit", limit, "process", h.plan.Base, "models", models, "kv", h.budget.Free())
	return nil
}

// run loads and unloads models and watches the process's memory until ctx ends.
func (h *sharing) run(ctx context.Context) error {
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		h.watch(ctx)
	}()
	err := h.manager.Run(ctx)
	<-watched
	return err
}

// watch shrinks the budget when the process holds more than is accounted for, and garbage is no cause of it.
func (h *sharing) watch(ctx context.Context) {
	governor := memory.NewGovernor(h.plan)
	swept := time.Now()
	for range tick.Now(ctx, sampling) {
		s := h.sample()
		if h.plan.Over(s) > 0 && time.Since(swept) >= sweeping {
			debug.FreeOSMemory()
			session.Trim()
			swept, s = time.Now(), h.sample()
		}
		total, size := governor.Observe(s)
		h.budget.SetTotal(total, size)
		h.metrics.Memory(metrics.Memory{
			Limit: h.plan.Limit, Budget: total, Reserved: h.budget.Reserved(), Resident: s.Resident,
			Process: h.plan.Base, Heap: s.Heap, Models: s.Models, KV: s.KV, Difference: h.plan.Difference(s),
		})
	}
}

func (h *sharing) sample() memory.Sample {
	s := memory.Sample{Heap: heapSize() - h.heap, Models: h.manager.Bytes()}
	for _, e := range h.engines {
		m := e.Memory()
		s.KV += m.Used + m.Kept
	}
	s.Resident = memory.Resident()
	return s
}

func (h *sharing) close() error {
	var errs []error
	for _, s := range h.seats {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// heapSize is what the Go runtime holds of the operating system's memory, in bytes.
func heapSize() int64 {
	s := []rtmetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	rtmetrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}
