// Package sim is an engine on a modelled device: it takes the time and the memory that a GPU would
// take by three measured constants, and answers with words made from a hash of the prompt.
//
// Previous step of the walk: worker/batch, through runtime/engine; next step: runtime/sampler. The
// fleet runs on it wherever no model is wanted: in tests, in load experiments, on laptops without the
// ONNX library.
//
// It never computes a model and needs no file. Its logits are a function of the token prefix alone,
// so all invariants of the seam hold exactly. An [Engine] is driven by one goroutine; Info, Memory
// and SetKVBudget may be called from others.
package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
)

// Config says what is simulated. The zero value is an 8B model on an H100 in real time.
type Config struct {
	Model   string  // name of the model; "" is "sim"
	Profile Profile // device; the zero value is that of ProfileFor("h100")
	Seed    uint64  // of the jitter; the logits do not depend on it

	KVBudget      int64 // bytes of KV cache; 0 means Profile.KVMemory
	ContextLength int   // tokens; 0 means Profile.ContextLength
	MaxSequences  int   // 0 means 256
	MaxStepTokens int   // most tokens of a prefill row; 0 means 512, at least 2
	Vocab         int   // token ids that prompts may hold, of [TokenizerLike]; 0 means those of [TokenizerJSON]; answers have no others

	// EndOneIn makes the end token the most likely one at one position in so many; 0 means never, so
	// that only the caller's limits end a sequence.
	EndOneIn int

	// Sleep waits for d of the device's time or returns the context's error; nil waits in real time
	// (in virtual time inside testing/synctest).
	Sleep func(ctx context.Context, d time.Duration) error
}

func (c Config) withDefaults() Config {
	if c.Profile.Name == "" {
		c.Profile = profiles["h100"]
	}
	c.Model = cmp.Or(c.Model, "sim")
	c.KVBudget = cmp.Or(max(0, c.KVBudget), c.Profile.KVMemory)
	c.ContextLength = cmp.Or(max(0, c.ContextLength), cmp.Or(c.Profile.ContextLength, 8192))
	c.MaxSequences = cmp.Or(max(0, c.MaxSequences), 256)
	c.MaxStepTokens = max(2, cmp.Or(c.MaxStepTokens, 512))
	c.Vocab = max(vocab, c.Vocab)
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	return c
}

func sleep(ctx context.Context, d time.Duration) error {
	if d < time.Microsecond {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// blockTokens is the block size of the simulated cache, as common on GPUs.
const blockTokens = 16

// Engine implements engine.Engine.
type Engine struct {
	cfg  Config
	info engine.Info

	step   sync.Mutex // held by Step and Shutdown
	steps  uint64
	logits []float32 // of all rows of the last step that want them
	closed bool

	mu      sync.Mutex // guards what follows
	cache   *kvcache.Cache
	prefix  map[engine.Seq]prefix
	running []*engine.Row // rows of the step under way
}

// errShutdown is what a shut-down engine answers.
var errShutdown = errors.New("engine is shut down")

// New makes an engine. It holds no device and little memory.
func New(cfg Config) *Engine {
	c := cfg.withDefaults()
	p := c.Profile
	return &Engine{
		cfg: c,
		info: engine.Info{
			Model: c.Model, Variant: p.Variant, Backend: "sim", Device: "sim:" + p.Name,
			Vocab: c.Vocab, ContextLength: c.ContextLength,
			KVBytesPerToken: p.KVBytesPerToken, BlockTokens: blockTokens, MaxSequences: c.MaxSequences,
			MaxStepTokens: c.MaxStepTokens, MinPrefill: 1,
			Fingerprint: fmt.Sprintf("sim-1-%s-end%d", c.Model, c.EndOneIn),
		},
		cache: kvcache.New(kvcache.Config{
			BlockTokens: blockTokens, BytesPerToken: p.KVBytesPerToken,
			ContextLength: c.ContextLength, MaxSequences: c.MaxSequences, Budget: c.KVBudget,
		}),
		prefix: map[engine.Seq]prefix{},
	}
}

// Info describes the engine; safe from any goroutine.
func (e *Engine) Info() engine.Info { return e.info }

// Memory is the account of the simulated KV cache; safe from any goroutine.
func (e *Engine) Memory() engine.Memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cache.Memory()
}

// SetKVBudget changes the bytes that sequences may reserve together; 0 means the device's memory.
// Sequences that are open keep what they have. Safe from any goroutine.
func (e *Engine) SetKVBudget(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache.SetBudget(cmp.Or(max(0, bytes), e.cfg.Profile.KVMemory))
}

// Open reserves memory for a sequence of at most tokens tokens.
func (e *Engine) Open(tokens int) (engine.Seq, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, errShutdown
	}
	s, err := e.cache.Open(tokens)
	if err == nil {
		e.prefix[s] = prefix{}
	}
	return s, err
}

// Close gives a sequence's memory back.
func (e *Engine) Close(s engine.Seq) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache.Close(s)
	delete(e.prefix, s)
}

// Step takes the modelled time for rows and fills in their logits or likeliest tokens. A canceled step leaves every
// sequence as it was.
func (e *Engine) Step(ctx context.Context, rows []*engine.Row) error {
	e.step.Lock()
	defer e.step.Unlock()
	cost, sampled, err := e.admit(rows)
	if err != nil || len(e.running) == 0 {
		return err
	}
	e.steps++
	if err := e.cfg.Sleep(ctx, e.cfg.Profile.Vary(cost, e.cfg.Seed, e.steps)); err != nil {
		return fmt.Errorf("step of %d rows: %w", len(e.running), err)
	}
	if n := sampled * vocab; cap(e.logits) < n {
		e.logits = make([]float32, n)
	}
	return e.finish()
}

// admit checks the rows and returns the step's cost before jitter and how many rows want logits.
func (e *Engine) admit(rows []*engine.Row) (cost time.Duration, sampled int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, 0, errShutdown
	}
	e.running, err = e.cache.Admit(rows, kvcache.Limits{Vocab: e.cfg.Vocab, MaxStepTokens: e.cfg.MaxStepTokens})
	prompt, single, held := 0, 0, 0
	for _, r := range e.running {
		place, _ := e.cache.Find(r.Seq)
		if place.Length > 0 && len(r.Tokens) == 1 {
			single++
		} else {
			prompt += len(r.Tokens)
		}
		held += place.Length + len(r.Tokens)
		if r.Sample && !r.Likeliest {
			sampled++
		}
	}
	return e.cfg.Profile.Step(prompt, single, held), sampled, err
}

func (e *Engine) finish() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	logits := e.logits[:cap(e.logits)]
	for _, r := range e.running {
		if err := e.cache.Append(r.Seq, len(r.Tokens)); err != nil {
			r.Err = err // closed while the step ran
			continue
		}
		p := e.prefix[r.Seq].push(r.Tokens)
		e.prefix[r.Seq] = p
		switch {
		case r.Sample && r.Likeliest:
			r.Token, r.Logits = p.likeliest(e.cfg.EndOneIn), nil
		case r.Sample:
			r.Logits, logits = logits[:vocab:vocab], logits[vocab:]
			p.logits(r.Logits, e.cfg.EndOneIn)
		}
	}
	return nil
}

// Shutdown makes the engine refuse everything; it waits for a running step.
func (e *Engine) Shutdown() error {
	e.step.Lock()
	defer e.step.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for s := range e.prefix {
		e.cache.Close(s)
		delete(e.prefix, s)
	}
	return nil
}
