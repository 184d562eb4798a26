//go:build cgo && (linux || darwin)

package paged

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Config of an engine; what is 0 gets its default.
type Config struct {
	Session       session.Config
	Dir           string // model folder
	KVBudget      int64  // bytes of cache; default: four fifths of what the device has free
	MaxSequences  int    // open at once; default 256
	MaxStepTokens int    // prompt tokens of a row; default 1024
	Logger        *slog.Logger
}

const (
	defaultSequences  = 256
	defaultStepTokens = 1024
	// freeShare is the part of the device's free memory that the cache takes.
	freeShare = 0.8
	// blindBudget is the cache where nobody says how much memory the device has.
	blindBudget = 2 << 30
)

// Engine implements engine.Engine on a GPU.
//
// Beyond the contract: a canceled step leaves every sequence as it was before.
type Engine struct {
	info          engine.Info
	log           *slog.Logger
	limits        kvcache.Limits
	weights, rest int64 // resident bytes of the host

	step  sync.Mutex // held while the graph or its memory is in use
	graph *graph     // nil after Shutdown
	rows  []*engine.Row

	mu    sync.Mutex // guards what follows
	cache *kvcache.Cache
	pool  *pool
	most  int64 // bytes of the pool
}

var errShutdown = errors.New("engine is shut down")

// Open loads the model of a folder whose manifest has pages.
func Open(m model.Manifest, c Config) (_ *Engine, err error) {
	start, before := time.Now(), memory.Resident()
	if c.Session.Device.Kind != device.CUDA && c.Session.Device.Kind != device.TensorRT {
		return nil, fmt.Errorf("variant %s is for NVIDIA GPUs, not for %s: take another variant, or --device cuda:0", m.Variant, c.Session.Device)
	}
	if c.MaxSequences == 0 {
		c.MaxSequences = defaultSequences
	}
	if c.MaxStepTokens == 0 {
		c.MaxStepTokens = defaultStepTokens
	}
	if err := newEnough(ort.GetVersion()); err != nil {
		return nil, err
	}
	c.Session.Threads, c.Session.Spin = 1, session.SpinOff // the host has nothing to compute
	s := m.Shape
	step := min(c.MaxStepTokens, s.ContextLength)
	most := sizes{tokens: c.MaxSequences + step, sequences: c.MaxSequences, sampled: c.MaxSequences + 1, pages: pages(s, s.ContextLength)}
	e := &Engine{log: c.Logger, limits: kvcache.Limits{Vocab: s.Vocab, MaxStepTokens: step}}
	if e.graph, err = newGraph(filepath.Join(c.Dir, m.GraphName()), s, most, c.Session); err != nil {
		return nil, err
	}
	e.weights = memory.Resident() - before
	e.info = engine.Info{
		Model: m.Name, Variant: m.Variant, Backend: "onnx", Device: c.Session.Device.String(), Vocab: s.Vocab, ContextLength: s.ContextLength,
		KVBytesPerToken: s.KVBytesPerToken(), BlockTokens: s.PageTokens, MaxSequences: c.MaxSequences, MaxStepTokens: step, MinPrefill: 1, Varies: true,
	}
	check, err := e.firstRun()
	if err == nil {
		err = e.allot(c.KVBudget)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("first run: %w", err), e.Shutdown())
	}
	e.info.Fingerprint = fmt.Sprintf("%s-%s-ort%s-%s-%s", m.Variant, model.Fingerprint(m), ort.GetVersion(), session.Class(c.Session.Device), check)
	e.rest = memory.Resident() - before - e.weights
	e.log.Info("engine open", "model", m.Name, "variant", m.Variant, "fingerprint", e.info.Fingerprint, "device", e.info.Device,
		"pages", len(e.pool.free), "kv", e.most, "took", time.Since(start))
	return e, nil
}

// leastMinor is the first version 1.x of the library whose attention over pages takes what graphs give it.
const leastMinor = 31

func newEnough(version string) error {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil || major < 1 || major == 1 && minor < leastMinor {
		return fmt.Errorf("models for GPUs need ONNX Runtime 1.%d or newer, this one is %q: %s", leastMinor, version, device.Device{Kind: device.CUDA}.Advice())
	}
	return nil
}

// pages is how many hold n tokens.
func pages(s model.Shape, n int) int { return (n + s.PageTokens - 1) / s.PageTokens }

// firstRun takes the scratch memory of the largest call and returns a hash of the logits of fixed tokens. What it
// leaves in the pages does not matter.
func (e *Engine) firstRun() (check string, err error) {
	g, s := e.graph, e.graph.shape
	width := pages(s, e.info.MaxStepTokens)
	if err := g.allot(width); err != nil {
		return "", err
	}
	fill := func(sequences, first int) call {
		c := call{sequences: sequences, width: width, sampled: sequences}
		for i := range sequences {
			n := 1
			if i == 0 {
				n = first
			}
			for range n {
				g.ids[c.tokens] = int64((c.tokens*7919 + 31) % s.Vocab)
				c.tokens++
			}
			g.starts[i+1], g.held[i], g.sel[i] = int32(c.tokens), 0, int64(c.tokens-1)
			for p := range width {
				g.pages[i*width+p] = int32(p)
			}
		}
		g.bounds[0], g.bounds[1], g.bounds[2] = int32(first), int32(first), int32(first)
		return c
	}
	for _, c := range []struct{ sequences, first int }{{e.info.MaxSequences, e.info.MaxStepTokens}, {e.info.MaxSequences, 1}, {1, min(8, e.info.MaxStepTokens)}} {
		if err := g.run(fill(c.sequences, c.first)); err != nil {
			return "", err
		}
	}
	sum, logits := fnv.New64a(), g.row(0)
	for i, v := range logits {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return "", fmt.Errorf("logit %d is %g: the model's values leave half precision, take another variant", i, v)
		}
		_ = binary.Write(sum, binary.LittleEndian, v) // a hash never fails
	}
	return hex.EncodeToString(sum.Sum(nil)[:4]), nil
}

// allot allocates the pool of pages.
func (e *Engine) allot(budget int64) error {
	s, d := e.graph.shape, e.graph.device
	if err := e.graph.allot(1); err != nil { // gives back what the first run had
		return err
	}
	if budget == 0 {
		budget = blindBudget
		gpus, err := device.GPUs()
		if err == nil && d.Index < len(gpus) {
			budget = int64(freeShare * float64(gpus[d.Index].Free))
		}
	}
	page := e.info.KVBytes(s.PageTokens)
	n := int(min(budget/page, int64(e.info.MaxSequences*pages(s, s.ContextLength))))
	if n < 1 {
		return fmt.Errorf("%d MiB of memory are left on %s for the kv cache, a page takes %d: use another GPU or a smaller model", budget>>20, d, page>>20)
	}
	if err := e.graph.allot(n); err != nil {
		return fmt.Errorf("%w: allow less with --memory", err)
	}
	e.most = int64(n) * page
	e.pool = newPool(n, e.info.MaxSequences)
	e.cache = kvcache.New(kvcache.Config{
		BlockTokens: s.PageTokens, BytesPerToken: s.KVBytesPerToken(), ContextLength: s.ContextLength, MaxSequences: e.info.MaxSequences, Budget: e.most,
	})
	return nil
}

// Info describes the engine; safe from any goroutine.
func (e *Engine) Info() engine.Info { return e.info }

// Footprint is what opening added to the process's resident memory on the host, in bytes.
func (e *Engine) Footprint() (weights, arena int64) { return e.weights, e.rest }

// Memory is the account of the KV cache, which is on the device; safe from any goroutine.
func (e *Engine) Memory() engine.Memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cache.Memory()
}

// SetKVBudget changes the bytes that sequences may reserve together, at most the pool; 0 means all of it.
func (e *Engine) SetKVBudget(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if bytes <= 0 || bytes > e.most {
		bytes = e.most
	}
	e.cache.SetBudget(bytes)
}

// Open reserves pages for a sequence of at most tokens tokens.
func (e *Engine) Open(tokens int) (engine.Seq, error) {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return 0, errShutdown
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, err := e.cache.Open(tokens)
	if err != nil {
		return 0, err
	}
	place, _ := e.cache.Find(s)
	e.pool.take(place.Slot, pages(e.graph.shape, tokens))
	return s, nil
}

// Close gives a sequence's pages back.
func (e *Engine) Close(s engine.Seq) {
	e.step.Lock()
	defer e.step.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if place, ok := e.cache.Close(s); ok {
		e.pool.give(place.Slot)
	}
}

// Shutdown unloads the model and frees all memory; it waits for a running step.
func (e *Engine) Shutdown() error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return nil
	}
	g := e.graph
	e.graph = nil
	defer session.Trim()
	if err := g.destroy(); err != nil {
		return fmt.Errorf("unload %s: %w", e.info.Model, err)
	}
	return nil
}

// Step runs one pass over rows, all in one call unless they have more tokens than that takes. A canceled context
// ends the call under way. Logits belong to the engine and are gone with Shutdown.
func (e *Engine) Step(ctx context.Context, rows []*engine.Row) error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return errShutdown
	}
	e.mu.Lock()
	admitted, err := e.cache.Admit(rows, e.limits)
	e.rows = append(e.rows[:0], admitted...)
	e.mu.Unlock()
	if err != nil || len(e.rows) == 0 {
		return err
	}
	release, err := session.Watch(ctx, e.graph.options, e.log)
	if err != nil {
		return err
	}
	defer release()
	logits := 0
	for rest := e.rows; len(rest) > 0 && ctx.Err() == nil; {
		n, c := e.load(rest, logits)
		err := e.graph.run(c)
		for _, r := range rest[:n] {
			if err != nil {
				r.Err = fmt.Errorf("step of %d tokens of %d sequences: %w", c.tokens, n, err)
			} else if r.Sample {
				r.Logits = e.graph.row(logits)
				logits++
			}
		}
		rest = rest[n:]
	}
	if ctx.Err() != nil {
		for _, r := range e.rows {
			r.Logits, r.Err = nil, nil
		}
		return fmt.Errorf("step of %d rows: %w", len(e.rows), context.Cause(ctx))
	}
	e.record()
	return nil
}

// load makes a call of as many rows as fit, at least one; its results go to the rows of the graph's logits from
// logits on.
func (e *Engine) load(rows []*engine.Row, logits int) (n int, c call) {
	g := e.graph
	e.mu.Lock()
	defer e.mu.Unlock()
	c.logits = logits
	for _, r := range rows {
		if c.tokens+len(r.Tokens) > g.most.tokens {
			break
		}
		place, _ := e.cache.Find(r.Seq)
		for _, t := range r.Tokens {
			g.ids[c.tokens] = int64(t)
			c.tokens++
		}
		g.starts[n+1], g.held[n] = int32(c.tokens), int32(place.Length)
		if n == 0 {
			g.bounds[0], g.bounds[1] = 0, 0
		}
		g.bounds[0] = max(g.bounds[0], int32(len(r.Tokens)))
		g.bounds[1] = max(g.bounds[1], int32(place.Length+len(r.Tokens)))
		c.width = max(c.width, len(e.pool.of[place.Slot]))
		if r.Sample {
			g.sel[c.sampled] = int64(c.tokens - 1)
			c.sampled++
		}
		n++
	}
	g.bounds[2] = g.bounds[1]
	c.sequences = n
	if c.sampled == 0 { // not every kernel takes nothing; there is a row more than can be wanted
		g.sel[0], c.sampled = 0, 1
	}
	for i, r := range rows[:n] {
		place, _ := e.cache.Find(r.Seq)
		table := g.pages[i*c.width : (i+1)*c.width]
		clear(table[copy(table, e.pool.of[place.Slot]):])
	}
	return n, c
}

// record adds the tokens of rows that ran to the account.
func (e *Engine) record() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.rows {
		if r.Err == nil {
			r.Err = e.cache.Append(r.Seq, len(r.Tokens))
		}
		if r.Err != nil {
			r.Logits = nil
		}
	}
}

// Logits runs a whole text and returns the logits behind each token, about 4 bytes x Info.Vocab for each. They
// belong to the caller. It is for measuring a model's quality.
func (e *Engine) Logits(ctx context.Context, tokens []int32) ([][]float32, error) {
	seq, err := e.Open(len(tokens))
	if err != nil {
		return nil, err
	}
	defer e.Close(seq)
	var out [][]float32
	for len(tokens) > 0 {
		n := min(len(tokens), e.info.MaxStepTokens, e.info.MaxSequences)
		if out, err = e.all(ctx, &engine.Row{Seq: seq, Tokens: tokens[:n]}, out); err != nil {
			return nil, err
		}
		tokens = tokens[n:]
	}
	return out, nil
}

// all feeds one row and appends the logits behind each of its tokens to out.
func (e *Engine) all(ctx context.Context, row *engine.Row, out [][]float32) ([][]float32, error) {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return nil, errShutdown
	}
	e.mu.Lock()
	admitted, err := e.cache.Admit([]*engine.Row{row}, e.limits)
	e.rows = append(e.rows[:0], admitted...)
	e.mu.Unlock()
	if err := errors.Join(err, row.Err, context.Cause(ctx)); err != nil {
		return nil, err
	}
	_, c := e.load(e.rows, 0)
	c.sampled = c.tokens
	for i := range c.tokens {
		e.graph.sel[i] = int64(i)
	}
	if err := e.graph.run(c); err != nil {
		return nil, err
	}
	for i := range c.tokens {
		out = append(out, slices.Clone(e.graph.row(i)))
	}
	e.record()
	return out, row.Err
}
