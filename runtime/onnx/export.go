//go:build cgo && (linux || darwin)

package onnx

import (
	"context"
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

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Export implements engine.Engine on a decoder that another tool exported (runtime/adopt).
//
// Such graphs promise nothing about rows side by side or about the cut of a prompt: kernels may round
// differently, and dynamic quantization scales a whole call by its largest value. Therefore each
// sequence runs in calls of its own, and prompts are cut at fixed places: at multiples of the most
// tokens of a step, counted from the sequence's start. What a row brings beyond the last such place
// waits until the row that wants logits, or until the first token that is fed alone. So the engine's
// invariants hold for every graph, at the price of batching.
//
// A graph that makes its cache anew at every call reads one slot and writes another, and the two change
// places; a cache is in memory twice while its sequence's call runs. Graphs of the genai builder append
// in place.
type Export struct {
	info   engine.Info
	log    *slog.Logger
	limits kvcache.Limits
	chunk  int // tokens between the places at which prompts are cut

	weights, arena int64 // resident bytes

	step  sync.Mutex   // held while graph, state or memory is in use
	graph *exportGraph // nil after Shutdown
	state map[engine.Seq]*exported
	free  []int // slots

	mu    sync.Mutex // guards cache
	cache *kvcache.Cache
}

// exported is one sequence.
type exported struct {
	slot    int
	held    int     // tokens in the cache
	pending []int32 // tokens of the prompt that wait for the rest of their piece
}

const (
	// wholePrompts bounds the context of graphs that take a prompt in one piece only.
	wholePrompts = 2048
	// warmContext is the longest past at which the first run measures scratch memory.
	warmContext = 2048
	// sameDirection is the least cosine between the logits of a prompt in one piece and in two. What
	// rounding and dynamic quantization change stays above it; a graph that cannot go on behind a past
	// with several tokens falls below.
	sameDirection = 0.9
)

// openExport loads the folder's graph and runs it once.
func openExport(m model.Manifest, c Config) (_ *Export, err error) {
	session.Trim() // or what others freed would hide what this takes
	start, before := time.Now(), memory.Resident()
	length := m.Shape.ContextLength
	if m.Graph.UseCache.Name != "" {
		length = min(length, wholePrompts)
	}
	kv := kvcache.Config{
		BlockTokens: blockTokens(m.Shape), BytesPerToken: m.Shape.KVBytesPerToken(),
		ContextLength: length, MaxSequences: c.MaxSequences, Budget: c.KVBudget,
	}
	e := &Export{
		log: c.Logger, chunk: min(c.MaxStepTokens, length), state: map[engine.Seq]*exported{}, cache: kvcache.New(kv),
		limits: kvcache.Limits{Vocab: m.Shape.Vocab, MaxStepTokens: min(c.MaxStepTokens, length)},
	}
	// In pieces only the cache is read again; a prompt in one piece needs room for all its tokens.
	columns := e.chunk
	if m.Graph.UseCache.Name != "" {
		columns = length
	}
	shape := m.Shape
	shape.ContextLength = length
	if e.graph, err = newExportGraph(filepath.Join(c.ModelDir, m.Graph.File), *m.Graph, shape, c.MaxSequences+1, columns, c); err != nil {
		return nil, err
	}
	for slot := range c.MaxSequences {
		e.free = append(e.free, slot)
	}
	session.Trim() // what building the graph left
	loaded := memory.Resident()
	e.info = engine.Info{
		Model: m.Name, Variant: m.Variant, Backend: "onnx", Device: c.Device.String(),
		Vocab: m.Shape.Vocab, ContextLength: length, KVBytesPerToken: kv.BytesPerToken, BlockTokens: kv.BlockTokens,
		MaxSequences: c.MaxSequences, MaxStepTokens: e.limits.MaxStepTokens, MinPrefill: 2,
	}
	check, err := e.firstRun()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("first run: %w", err), e.Shutdown())
	}
	e.info.Fingerprint = fmt.Sprintf("%s-%s-ort%s-%s-%d-%d-%s", m.Variant, model.Fingerprint(m), ort.GetVersion(), session.Class(c.Device), e.graph.level, e.chunk, check)
	e.weights, e.arena = loaded-before, memory.Resident()-loaded
	e.log.Info("engine open", "model", m.Name, "variant", m.Variant, "fingerprint", e.info.Fingerprint,
		"threads", c.Threads, "piece", e.chunk, "in_place", m.Graph.InPlace, "weights", e.weights, "arena", e.arena, "took", time.Since(start))
	return e, nil
}

// firstRun takes the scratch memory of the largest calls, finds out whether prompts can be cut, and
// returns a hash of the logits of fixed tokens. It leaves the KV memory empty.
func (e *Export) firstRun() (check string, err error) {
	g, ctx := e.graph, e.info.ContextLength
	tokens := make([]int32, min(e.chunk, ctx))
	for i := range tokens {
		tokens[i] = int32((i*7919 + 31) % e.info.Vocab)
	}
	run := func(s *exported, part []int32) ([]float32, error) {
		err := e.run(s, part)
		if err != nil {
			return nil, err
		}
		return slices.Clone(g.last(0)), nil
	}
	if g.spec.UseCache.Name == "" { // a past that nobody filled is as good for this as any
		deep := &exported{slot: 0, held: min(ctx, warmContext) - len(tokens)}
		if _, err := run(deep, tokens); err != nil {
			return "", err
		}
		g.memory.clear(deep.slot, deep.held)
		e.free[0] = deep.slot
	}
	n := min(8, len(tokens), ctx-1)
	whole, cut := &exported{slot: e.free[0]}, &exported{}
	one, err := run(whole, tokens[:n])
	if err != nil {
		return "", err
	}
	alone, err := run(whole, tokens[:1])
	if err != nil {
		return "", err
	}
	g.memory.clear(whole.slot, whole.held)
	cut.slot = whole.slot
	_, err = run(cut, tokens[:n/2])
	two, cutErr := run(cut, tokens[n/2:n])
	if err = errors.Join(err, cutErr); err != nil || cosine(one, two) < sameDirection {
		if g.columns < ctx {
			return "", fmt.Errorf("the graph cannot take a prompt in pieces, and its context of %d tokens is too long for one: export it with a dynamic past: %w", ctx, errors.Join(err, errPieces))
		}
		e.chunk = e.info.ContextLength
	}
	g.memory.clear(cut.slot, cut.held)
	e.free[0] = cut.slot
	sum := fnv.New64a()
	hash(sum, one)
	hash(sum, alone)
	return hex.EncodeToString(sum.Sum(nil)[:4]), nil
}

var errPieces = errors.New("logits behind a prompt in two pieces are not those behind the whole")

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}

// Info describes the engine; safe from any goroutine.
func (e *Export) Info() engine.Info { return e.info }

// Footprint is what opening added to the process's resident memory, in bytes, as [Engine.Footprint].
func (e *Export) Footprint() (weights, arena int64) { return e.weights, e.arena }

// Memory is the account of the KV cache; safe from any goroutine.
func (e *Export) Memory() engine.Memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cache.Memory()
}

// SetKVBudget is as [Engine.SetKVBudget].
func (e *Export) SetKVBudget(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache.SetBudget(bytes)
}

// Open reserves memory for a sequence of at most tokens tokens.
func (e *Export) Open(tokens int) (engine.Seq, error) {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return 0, errShutdown
	}
	e.mu.Lock()
	seq, err := e.cache.Open(tokens)
	e.mu.Unlock()
	if err != nil {
		return 0, err
	}
	last := len(e.free) - 1
	e.state[seq] = &exported{slot: e.free[last]}
	e.free = e.free[:last]
	return seq, nil
}

// Close gives a sequence's memory back to the system.
func (e *Export) Close(s engine.Seq) {
	e.step.Lock()
	defer e.step.Unlock()
	e.mu.Lock()
	_, ok := e.cache.Close(s)
	e.mu.Unlock()
	if st := e.state[s]; ok && st != nil && e.graph != nil {
		e.graph.memory.clear(st.slot, st.held)
		e.free = append(e.free, st.slot)
	}
	delete(e.state, s)
}

// Shutdown unloads the model and unmaps all memory; it waits for a running step.
func (e *Export) Shutdown() error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return nil
	}
	g := e.graph
	e.graph = nil
	if err := g.destroy(); err != nil {
		return fmt.Errorf("unload %s: %w", e.info.Model, err)
	}
	return nil
}

// Step runs the rows one after the other. A canceled context ends the call under way.
func (e *Export) Step(ctx context.Context, rows []*engine.Row) error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return errShutdown
	}
	e.mu.Lock()
	admitted, err := e.cache.Admit(rows, e.limits)
	admitted = slices.Clone(admitted)
	e.mu.Unlock()
	if err != nil || len(admitted) == 0 {
		return err
	}
	release, err := session.Watch(ctx, e.graph.options, e.log)
	if err != nil {
		return err
	}
	defer release()
	sampled := 0
	for _, r := range admitted {
		if ctx.Err() != nil {
			break
		}
		if r.Err = e.feed(r); r.Err == nil && r.Sample {
			r.Logits = e.graph.last(sampled)
			sampled++
		}
	}
	if ctx.Err() == nil {
		return nil
	}
	for _, r := range admitted {
		r.Logits, r.Err = nil, nil
	}
	return fmt.Errorf("step of %d rows: %w", len(admitted), context.Cause(ctx))
}

// feed runs what a row makes ready to run, and keeps the rest.
func (e *Export) feed(r *engine.Row) error {
	s := e.state[r.Seq]
	if len(r.Tokens) == 1 { // a token fed alone ends the prompt before it
		if err := e.flush(s); err != nil {
			return err
		}
		if err := e.run(s, r.Tokens); err != nil {
			return err
		}
	} else {
		s.pending = append(s.pending, r.Tokens...)
		for n := e.chunk - s.held%e.chunk; n <= len(s.pending); n = e.chunk {
			if err := e.run(s, s.pending[:n]); err != nil {
				return err
			}
			s.pending = s.pending[n:]
		}
		if r.Sample {
			if err := e.flush(s); err != nil {
				return err
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cache.Append(r.Seq, len(r.Tokens))
}

// flush runs what waits.
func (e *Export) flush(s *exported) error {
	if len(s.pending) == 0 {
		return nil
	}
	err := e.run(s, s.pending)
	s.pending = s.pending[:0]
	return err
}

// run feeds tokens to one sequence; the logits of the last are in the graph's output.
func (e *Export) run(s *exported, tokens []int32) error {
	if s.held+len(tokens) > e.info.ContextLength || len(tokens) > e.graph.columns {
		return fmt.Errorf("%w: %d tokens behind %d", engine.ErrTooLong, len(tokens), s.held)
	}
	slot, err := e.graph.run(s.slot, s.held, tokens)
	if err != nil {
		return fmt.Errorf("run %d tokens behind %d: %w", len(tokens), s.held, err)
	}
	s.slot = slot
	s.held += len(tokens)
	return nil
}

// Logits runs a whole text as one prompt and returns the logits behind each of its tokens, as
// [Engine.Logits].
func (e *Export) Logits(ctx context.Context, tokens []int32) ([][]float32, error) {
	seq, err := e.Open(len(tokens))
	if err != nil {
		return nil, err
	}
	defer e.Close(seq)
	e.step.Lock()
	defer e.step.Unlock()
	release, err := session.Watch(ctx, e.graph.options, e.log)
	if err != nil {
		return nil, err
	}
	defer release()
	e.graph.keepAll = true
	defer func() { e.graph.keepAll = false }()
	var out [][]float32
	for s := e.state[seq]; len(tokens) > 0; {
		n := min(e.chunk, len(tokens))
		if err := e.run(s, tokens[:n]); err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
		if e.graph.rows < n {
			return nil, errors.New("the graph gives the logits of the last token only")
		}
		for i := range n {
			out = append(out, e.graph.logitsOf(i))
		}
		tokens = tokens[n:]
	}
	return out, nil
}
