package worker_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/pelton-run/pelton/runtime/engine"
)

// fakeEngine answers with lower-case letters and spaces from a hash of the tokens and of how they were
// fed, alone or in a row of several, so that a wrong replay changes what follows. Its vocabulary is
// the simulated model's: 256 bytes and three special tokens.
type fakeEngine struct {
	info   engine.Info
	budget int64
	ends   uint64 // one position in so many is the end token; 0 is never

	mu       sync.Mutex
	open     map[engine.Seq]*fakeSeq
	next     engine.Seq
	reserved int64
	most     int64
	before   func(rows []*engine.Row) error // called at the start of each step
}

type fakeSeq struct {
	hash           uint64
	held, reserved int
}

const eos = 258

func newFake() *fakeEngine {
	return &fakeEngine{
		info: engine.Info{Model: "m", Variant: "q8", Backend: "fake", Device: "none", Fingerprint: "f", Vocab: 259, ContextLength: 512,
			KVBytesPerToken: 10, BlockTokens: 4, MaxSequences: 16, MaxStepTokens: 16, MinPrefill: 2},
		open: map[engine.Seq]*fakeSeq{}, budget: 1 << 20,
	}
}

func (e *fakeEngine) Info() engine.Info { return e.info }
func (e *fakeEngine) Shutdown() error   { return nil }
func (e *fakeEngine) Memory() engine.Memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	return engine.Memory{Budget: e.budget, Reserved: e.reserved}
}

func (e *fakeEngine) Open(tokens int) (engine.Seq, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	need := e.info.KVBytes(tokens)
	switch {
	case tokens > e.info.ContextLength:
		return 0, engine.ErrTooLong
	case e.reserved+need > e.budget || len(e.open) >= e.info.MaxSequences:
		return 0, engine.ErrNoMemory
	}
	e.next++
	e.open[e.next] = &fakeSeq{reserved: tokens}
	e.reserved += need
	e.most = max(e.most, e.reserved)
	return e.next, nil
}

func (e *fakeEngine) Close(s engine.Seq) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if q := e.open[s]; q != nil {
		e.reserved -= e.info.KVBytes(q.reserved)
		delete(e.open, s)
	}
}

func (e *fakeEngine) hook(f func(rows []*engine.Row) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.before = f
}

func (e *fakeEngine) Step(ctx context.Context, rows []*engine.Row) error {
	e.mu.Lock()
	before := e.before
	e.mu.Unlock()
	if before != nil {
		if err := before(rows); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range rows {
		q := e.open[r.Seq]
		switch {
		case r.Err != nil:
		case q == nil:
			r.Err = engine.ErrUnknownSequence
		case len(r.Tokens) == 0 || len(r.Tokens) > e.info.MaxStepTokens:
			return fmt.Errorf("bad row of %d tokens", len(r.Tokens))
		case q.held+len(r.Tokens) > q.reserved:
			r.Err = engine.ErrTooLong
		default:
			e.feed(q, r)
		}
	}
	return nil
}

func (e *fakeEngine) feed(q *fakeSeq, r *engine.Row) {
	for _, t := range r.Tokens {
		q.hash = mix(q.hash ^ uint64(t)<<1)
		if len(r.Tokens) == 1 {
			q.hash ^= 1
		}
	}
	q.held += len(r.Tokens)
	if !r.Sample {
		return
	}
	r.Logits = make([]float32, e.info.Vocab)
	h := q.hash
	for i := range r.Logits {
		r.Logits[i] = -20
		if i >= 'a' && i <= 'z' || i == ' ' {
			h = mix(h)
			r.Logits[i] = float32(h>>40) / (1 << 20)
		}
	}
	if e.ends > 0 && mix(q.hash)%e.ends == 0 {
		r.Logits[eos] = 100
	}
}

func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
