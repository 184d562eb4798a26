//go:build cgo && (linux || darwin)

package onnx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/paged"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Engine implements engine.Engine on ONNX Runtime.
//
// Beyond the contract: a canceled step leaves every sequence as it was before.
type Engine struct {
	info   engine.Info
	log    *slog.Logger
	limits kvcache.Limits

	weights, arena int64 // resident bytes

	step      sync.Mutex // held while the graph or its memory is in use
	graph     *graph     // nil after Shutdown
	companion bool       // a lone token is run beside a second one
	rows      []*engine.Row

	mu    sync.Mutex // guards what follows
	cache *kvcache.Cache
	kv    *kvMemory // the graph's, to give memory back; nil after Shutdown
}

var errShutdown = errors.New("engine is shut down")

// OpenModel opens a folder of either kind: Pelton's own graph as an [Engine], another tool's as an
// [Export]. It runs the graph once at full size and measures what that takes. It blocks for about a
// second. The caller shuts the engine down.
func OpenModel(cfg Config) (Model, error) {
	c, m, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	e, err := onDevice(c, m, func(c Config) (Model, error) {
		if m.Graph != nil {
			return openExport(m, c)
		}
		if m.Shape.PageTokens > 0 {
			return paged.Open(m, paged.Config{Session: c.session(), Dir: c.ModelDir, KVBudget: c.KVBudget, Neighbors: c.Neighbors, MaxSequences: cfg.MaxSequences, MaxStepTokens: cfg.MaxStepTokens, Logger: c.Logger})
		}
		return newEngine(m, c)
	})
	if err != nil {
		return nil, fmt.Errorf("open onnx engine on %s: %w", c.ModelDir, err)
	}
	return e, nil
}

// onDevice opens a model on the device that c names; the Config that open gets names it in full.
func onDevice[T any](c Config, m model.Manifest, open func(Config) (T, error)) (T, error) {
	var bytes int64
	for _, f := range m.Files {
		bytes += f.Size
	}
	return device.Open(c.Device, c.Library, bytes, c.Logger, func(d device.Device) (T, error) {
		c := c
		c.Device = d
		return open(c)
	})
}

// prepare checks what is to be opened and loads the library.
func prepare(cfg Config) (Config, model.Manifest, error) {
	c := cfg.withDefaults()
	if err := c.validate(); err != nil {
		return c, model.Manifest{}, fmt.Errorf("open onnx engine: %w", err)
	}
	m, err := loadFolder(c.ModelDir)
	if err != nil {
		return c, m, err
	}
	if m.Kind != "" {
		return c, m, fmt.Errorf("open onnx engine: model %s does not write text (it is of kind %s)", m.Name, m.Kind)
	}
	return c, m, session.Load(c.Library)
}

// loadFolder reads a model folder and checks that the graph is the one that its manifest describes:
// a wrong shape would let the kernels write beside their memory. The weights, which are large, are
// checked by size only; model.Verify reads them in full.
func loadFolder(dir string) (model.Manifest, error) {
	m, err := model.Load(dir)
	if err != nil {
		return m, err
	}
	for _, f := range m.Files {
		if f.Name != m.GraphName() {
			continue
		}
		got, err := model.Sum(context.Background(), filepath.Join(dir, f.Name))
		if err != nil {
			return m, fmt.Errorf("%w: %w", model.ErrDamaged, err)
		}
		if got != f {
			return m, fmt.Errorf("%w: %s is not the file of its manifest: pull the model again", model.ErrDamaged, filepath.Join(dir, f.Name))
		}
	}
	return m, nil
}

func newEngine(m model.Manifest, c Config) (_ *Engine, err error) {
	session.Trim() // or what others freed would hide what this takes
	start, before := time.Now(), memory.Resident()
	kv := kvcache.Config{
		BlockTokens: blockTokens(m.Shape), BytesPerToken: m.Shape.KVBytesPerToken(),
		ContextLength: m.Shape.ContextLength, MaxSequences: c.MaxSequences, Budget: c.KVBudget,
	}
	e := &Engine{
		log:    c.Logger,
		limits: kvcache.Limits{Vocab: m.Shape.Vocab, MaxStepTokens: min(c.MaxStepTokens, m.Shape.ContextLength)},
		cache:  kvcache.New(kv),
	}
	// A call holds all that decode and a prompt's row; one slot more than there are sequences is for the
	// companion.
	tokens, rows := c.MaxSequences+c.MaxStepTokens+mostDrafts(), max(c.MaxSequences, c.MaxStepTokens)+mostDrafts()
	if e.graph, err = newGraph(filepath.Join(c.ModelDir, model.GraphFile), m.Shape, c.MaxSequences+1, tokens, rows, c); err != nil {
		return nil, err
	}
	session.Trim() // what building the graph left
	e.kv = e.graph.kv
	e.info = engine.Info{
		Model: m.Name, Variant: m.Variant, Backend: "onnx", Device: c.Device.String(),
		Vocab: m.Shape.Vocab, ContextLength: m.Shape.ContextLength,
		KVBytesPerToken: kv.BytesPerToken, BlockTokens: kv.BlockTokens, MaxSequences: c.MaxSequences,
		MaxStepTokens: e.limits.MaxStepTokens, MinPrefill: 1,
	}
	check, err := e.selfCheck()
	if err == nil && e.info.MinPrefill == 1 {
		e.info.Drafts, err = e.drafts()
		e.limits.Drafts = mostDrafts() // whatever it found this time: it may be loaded again under the old Info
	}
	loaded := memory.Resident() // with the weights that are mapped, and read when they are used
	if err == nil {
		err = e.largest()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("first run: %w", err), e.Shutdown())
	}
	e.info.Fingerprint = fmt.Sprintf("%s-%s-ort%s-%s-%s", m.Variant, model.Fingerprint(m), ort.GetVersion(), session.Class(c.Device), check)
	e.weights, e.arena = loaded-before, memory.Resident()-loaded
	e.log.Info("engine open", "model", m.Name, "variant", m.Variant, "fingerprint", e.info.Fingerprint,
		"threads", c.Threads, "companion", e.companion, "min_prefill", e.info.MinPrefill, "weights", e.weights, "arena", e.arena, "took", time.Since(start))
	return e, nil
}

// Info describes the engine; safe from any goroutine.
func (e *Engine) Info() engine.Info { return e.info }

// Footprint is what Open added to the process's resident memory, in bytes: weights is the loaded
// graph, arena the scratch memory and logits of the largest steps, which later steps use again. The KV
// cache comes on top, as Memory says. Both are 0 where resident memory cannot be read.
func (e *Engine) Footprint() (weights, arena int64) { return e.weights, e.arena }

// Memory is the account of the KV cache; safe from any goroutine.
func (e *Engine) Memory() engine.Memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cache.Memory()
}

// SetKVBudget changes the bytes that sequences may reserve together; 0 means MaxSequences full
// contexts. Sequences that are open keep what they have. Safe from any goroutine.
func (e *Engine) SetKVBudget(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache.SetBudget(bytes)
	e.giveBack()
}

// Open reserves memory for a sequence of at most tokens tokens.
func (e *Engine) Open(tokens int) (engine.Seq, error) {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return 0, errShutdown
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, err := e.cache.Open(tokens)
	e.giveBack()
	return s, err
}

// Close gives a sequence's memory back to the system.
func (e *Engine) Close(s engine.Seq) {
	e.step.Lock()
	defer e.step.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if place, ok := e.cache.Close(s); ok {
		e.clear(place)
	}
	e.giveBack()
}

// Shutdown unloads the model and unmaps the KV cache and all logits; it waits for a running step.
func (e *Engine) Shutdown() error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return nil
	}
	g := e.graph
	e.graph = nil
	e.mu.Lock()
	e.kv = nil
	e.mu.Unlock()
	defer session.Trim()
	if err := g.destroy(); err != nil {
		return fmt.Errorf("unload %s: %w", e.info.Model, err)
	}
	return nil
}
