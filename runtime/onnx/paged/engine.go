//go:build cgo && (linux || darwin)

package paged

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	Dir           string    // model folder
	KVBudget      int64     // bytes of cache; default: four fifths of what the device has free, or an equal share of it
	Neighbors     Neighbors // who shares the device
	MaxSequences  int       // open at once; default 512
	MaxStepTokens int       // prompt tokens of a row; default 2048
	Logger        *slog.Logger
}

const (
	defaultSequences  = 512
	defaultStepTokens = 2048
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

	step    sync.Mutex // held while the graph or its memory is in use
	thread  *thread    // where the graph is used
	graph   *graph     // nil after Shutdown
	tokens  int        // most of one call
	rows    []*engine.Row
	staging []row

	mu    sync.Mutex // guards what follows
	cache *kvcache.Cache
	pool  *pool
	most  int64 // bytes of the pool
}

var errShutdown = errors.New("engine is shut down")

// Open loads the model of a folder whose manifest has pages.
func Open(m model.Manifest, c Config) (_ *Engine, err error) {
	start, before := time.Now(), memory.Resident()
	if c.Session.Device.Kind != device.CUDA {
		return nil, fmt.Errorf("variant %s is for NVIDIA GPUs (cuda:N), not for %s: take another variant, or --device cuda:0", m.Variant, c.Session.Device)
	}
	c.MaxSequences = cmp.Or(c.MaxSequences, defaultSequences)
	c.MaxStepTokens = cmp.Or(c.MaxStepTokens, defaultStepTokens)
	if err := newEnough(ort.GetVersion()); err != nil {
		return nil, err
	}
	c.Session.Threads, c.Session.Spin = 1, session.SpinOff // the host has nothing to compute
	s := m.Shape
	long := min(c.MaxStepTokens, s.ContextLength)
	e := &Engine{log: c.Logger, limits: kvcache.Limits{Vocab: s.Vocab, MaxStepTokens: long}, thread: newThread(), tokens: c.MaxSequences + long}
	// A call that is full may take a sequence more to be filled up to its form.
	most := form{decoding: step(decodingSteps, c.MaxSequences), others: step(othersSteps, c.MaxSequences+1), extra: step(extraSteps, e.tokens), width: power(pages(s, s.ContextLength))}
	most.results = most.decoding
	e.thread.do(func() { e.graph, err = newGraph(filepath.Join(c.Dir, m.GraphName()), s, most, c.Session, c.Logger) })
	if err != nil {
		e.thread.end()
		return nil, err
	}
	e.weights = memory.Resident() - before
	e.info = engine.Info{
		Model: m.Name, Variant: m.Variant, Backend: "onnx", Device: c.Session.Device.String(), Vocab: s.Vocab, ContextLength: s.ContextLength,
		KVBytesPerToken: s.KVBytesPerToken(), BlockTokens: s.PageTokens, MaxSequences: c.MaxSequences, MaxStepTokens: long, MinPrefill: 1, Varies: true,
	}
	e.thread.do(func() {
		if err = e.firstRun(); err == nil {
			if err = e.allot(c.KVBudget, c.Neighbors); err == nil {
				err = e.capture()
			}
		}
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("first run: %w", err), e.unload())
	}
	e.info.Fingerprint = fmt.Sprintf("%s-%s-ort%s-%s", m.Variant, model.Fingerprint(m), ort.GetVersion(), session.Class(c.Session.Device))
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

// some is n sequences of one token, but the first one of first tokens, that all lie in the first pages: for runs whose
// results nobody uses.
func (e *Engine) some(n, first int) []row {
	text := make([]int32, first)
	for i := range text {
		text[i] = int32((i*7919 + 31) % e.info.Vocab)
	}
	table := make([]int32, pages(e.graph.shape, first))
	for i := range table {
		table[i] = int32(i)
	}
	rows := []row{{tokens: text, pages: table, sample: true}}
	for len(rows) < n {
		rows = append(rows, row{tokens: text[:1], pages: table[:1], sample: true})
	}
	return rows
}

// firstRun takes the scratch memory of the largest call and looks whether the model's values are numbers. What it
// leaves in the pages does not matter.
func (e *Engine) firstRun() error {
	g := e.graph
	if err := g.allot(pages(g.shape, e.info.MaxStepTokens)); err != nil {
		return err
	}
	for _, rows := range [][]row{e.some(e.info.MaxSequences, e.info.MaxStepTokens), e.some(1, min(8, e.info.MaxStepTokens))} {
		f, want := g.stage(rows, 0, 0)
		if err := g.run(context.Background(), f, want, 0, false); err != nil {
			return err
		}
	}
	for i, v := range g.some(0, 1) {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("logit %d is %g: the model's values leave half precision, take another variant", i, v)
		}
	}
	return nil
}

// capture captures the calls in which short sequences decode; the others are when they come.
func (e *Engine) capture() error {
	for _, n := range decodingSteps {
		for i := 0; i < captureAt && n <= e.info.MaxSequences; i++ {
			e.graph.last = time.Time{} // nobody waits
			f, want := e.graph.stage(e.some(n, 1), 0, e.pool.spare)
			if err := e.graph.run(context.Background(), f, want, 0, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// allot allocates the pool of pages.
func (e *Engine) allot(budget int64, beside Neighbors) error {
	s, d := e.graph.shape, e.graph.device
	if err := e.graph.allot(1); err != nil { // gives back what the first run had
		return err
	}
	if budget == 0 {
		budget = blindBudget
		gpus, err := device.GPUs()
		if err == nil && d.Index < len(gpus) {
			budget = beside.share(gpus[d.Index].Free)
		}
	}
	page := e.info.KVBytes(s.PageTokens)
	n := int(min(budget/page, int64(e.info.MaxSequences*pages(s, s.ContextLength))))
	if n < 1 {
		return fmt.Errorf("%d MiB of memory are left on %s for the kv cache, a page takes %d: use another GPU, a variant of fewer bits (fp16-w8, fp16-w4) or a smaller model", budget>>20, d, page>>20)
	}
	if err := e.graph.allot(n + 1); err != nil {
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
	e.giveBack()
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
	e.giveBack()
	if err != nil {
		return 0, err
	}
	place, _ := e.cache.Find(s)
	e.pool.take(place.Slot, pages(e.graph.shape, tokens))
	return s, nil
}

// Close gives a sequence's pages back, but for those that are kept for others.
func (e *Engine) Close(s engine.Seq) {
	e.step.Lock()
	defer e.step.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	place, ok := e.cache.Find(s)
	if !ok {
		return
	}
	keeps := 0
	if _, all := e.cache.Close(s); !all {
		keeps = (place.Length + e.info.BlockTokens - 1) / e.info.BlockTokens
	}
	e.pool.trim(place.Slot, keeps)
	e.giveBack()
}

// Shutdown unloads the model and frees all memory; it waits for a running step.
func (e *Engine) Shutdown() error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return nil
	}
	return e.unload()
}

func (e *Engine) unload() (err error) {
	defer session.Trim()
	e.thread.do(func() { err = e.graph.destroy() })
	e.graph = nil
	e.thread.end()
	if err != nil {
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
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	logits := 0
	for rest := e.rows; len(rest) > 0 && ctx.Err() == nil; {
		n, want, err := e.call(ctx, rest, logits)
		for i, r := range rest[:n] {
			switch result := e.staging[i].result; {
			case err != nil:
				r.Err = fmt.Errorf("step of %d sequences: %w", n, err)
			case e.staging[i].best:
				r.Token = int32(e.graph.best[result])
			case r.Sample:
				r.Logits = e.graph.some(logits+result, 1)
			}
		}
		logits += want.logits
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

// call runs as many rows as fit into a call, at least one; their logits go to the graph's from row logits on.
func (e *Engine) call(ctx context.Context, rows []*engine.Row, logits int) (n int, want wanted, err error) {
	tokens := 0
	e.staging = e.staging[:0]
	e.mu.Lock()
	for _, r := range rows {
		if tokens += len(r.Tokens); tokens > e.tokens {
			break
		}
		e.staging = append(e.staging, e.place(r))
		n++
	}
	e.mu.Unlock()
	e.thread.do(func() {
		var f form
		f, want = e.graph.stage(e.staging, 0, e.pool.spare)
		err = e.graph.run(ctx, f, want, logits, true)
	})
	return n, want, err
}

// place is a row with where its sequence lies. The caller holds e.mu.
func (e *Engine) place(r *engine.Row) row {
	at, _ := e.cache.Find(r.Seq)
	return row{tokens: r.Tokens, held: at.Length, pages: e.pool.of[at.Slot], sample: r.Sample && !r.Likeliest, best: r.Sample && r.Likeliest}
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
			continue
		}
		e.cache.Note(r.Seq, r.Tokens)
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
	n := len(row.Tokens)
	e.mu.Lock()
	e.staging = append(e.staging[:0], e.place(row))
	e.mu.Unlock()
	e.thread.do(func() {
		f, _ := e.graph.stage(e.staging, n, e.pool.spare)
		for i := range n {
			e.graph.staged.sel[i] = int64(e.staging[0].last - n + 1 + i)
		}
		err = e.graph.run(ctx, f, wanted{logits: n}, 0, false)
	})
	if err != nil {
		return nil, err
	}
	for i := range n {
		out = append(out, slices.Clone(e.graph.some(i, 1)))
	}
	e.record()
	return out, row.Err
}
