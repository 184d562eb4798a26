package batch_test

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sampler"
)

// fakeEngine computes logits from a hash of the tokens and, if MinPrefill is 2, of how they were fed: alone or
// in a row of several, as some of ONNX Runtime's kernels do. There a replay that feeds a generated token in a longer row, or
// cuts a prompt into a row of one, changes everything that follows.
type fakeEngine struct {
	info   engine.Info
	budget int64

	mu       sync.Mutex
	open     map[engine.Seq]*fakeSeq
	next     engine.Seq
	reserved int64
	most     int64

	before func(rows []*engine.Row) error // called at the start of each step
	steps  [][]int                        // tokens of each row of each step
}

type fakeSeq struct {
	hash     uint64
	held     int
	tokens   []int32
	scope    string
	reserved int
}

func newFake() *fakeEngine {
	return &fakeEngine{
		info: engine.Info{Model: "m", Vocab: 64, ContextLength: 256, KVBytesPerToken: 10, BlockTokens: 4, MaxSequences: 16, MaxStepTokens: 16, MinPrefill: 2},
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

func (e *fakeEngine) Step(ctx context.Context, rows []*engine.Row) error {
	if e.before != nil {
		if err := e.before(rows); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := map[engine.Seq]bool{}
	var lens []int
	for _, r := range rows {
		q := e.open[r.Seq]
		switch {
		case r.Err != nil:
			continue
		case q == nil:
			r.Err = engine.ErrUnknownSequence
			continue
		case seen[r.Seq] || len(r.Tokens) == 0 || len(r.Tokens) > e.info.MaxStepTokens:
			return fmt.Errorf("bad row of %d tokens", len(r.Tokens))
		case q.held+len(r.Tokens) > q.reserved:
			r.Err = engine.ErrTooLong
			continue
		}
		seen[r.Seq] = true
		lens = append(lens, len(r.Tokens))
		for _, t := range r.Tokens {
			q.hash = mix(q.hash ^ uint64(t)<<1)
			if len(r.Tokens) == 1 && e.info.MinPrefill == 2 {
				q.hash ^= 1
			}
		}
		q.held += len(r.Tokens)
		q.tokens = append(q.tokens, r.Tokens...)
		if r.Sample {
			r.Logits = make([]float32, e.info.Vocab)
			h := q.hash
			for i := range r.Logits {
				h = mix(h)
				r.Logits[i] = float32(h>>40) / (1 << 20)
			}
		}
	}
	e.steps = append(e.steps, lens)
	return nil
}

// finding is the fake as an engine that finds the likeliest token by itself.
type finding struct{ *fakeEngine }

func (e finding) Step(ctx context.Context, rows []*engine.Row) error {
	err := e.fakeEngine.Step(ctx, rows)
	for _, r := range rows {
		if r.Likeliest && r.Logits != nil && len(r.Draft) == 0 {
			r.Token, r.Logits = sampler.New(sampler.Params{}, nil).Sample(r.Logits, 0).Token, nil
		}
	}
	return err
}

// sharing is the fake as an engine that shares.
type sharing struct{ *fakeEngine }

var _ engine.Sharer = sharing{}

func (e sharing) Share(s engine.Seq, scope string, prompt []int32) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	q := e.open[s]
	q.scope = scope
	for _, o := range e.open {
		n := 0
		for n < min(len(o.tokens), len(prompt)-1) && o.tokens[n] == prompt[n] {
			n++
		}
		if o.scope != scope || n <= q.held {
			continue
		}
		for _, t := range prompt[q.held:n] {
			q.hash = mix(q.hash ^ uint64(t)<<1)
		}
		q.held, q.tokens = n, slices.Clone(prompt[:n])
	}
	return q.held
}

func (sharing) Keep(int64) {}

// drafting is the fake as an engine that takes guesses: it feeds them one by one. Three tokens of four
// follow from the one before, so that guesses are right now and then.
type drafting struct {
	*fakeEngine
	rows [][2]int // of each step, rows and guesses
}

func newDrafting() *drafting {
	e := &drafting{fakeEngine: newFake()}
	e.info.MinPrefill, e.info.Drafts = 1, 3
	return e
}

func (e *drafting) Step(ctx context.Context, rows []*engine.Row) error {
	guesses := 0
	for _, r := range rows {
		guesses += len(r.Draft)
	}
	e.rows = append(e.rows, [2]int{len(rows), guesses})
	if err := e.fakeEngine.Step(ctx, rows); err != nil {
		return err
	}
	for _, r := range rows {
		if !r.Sample || r.Err != nil {
			continue
		}
		all := slices.Clone(follow(r.Tokens[len(r.Tokens)-1], r.Logits))
		for _, t := range r.Draft {
			one := engine.Row{Seq: r.Seq, Tokens: []int32{t}, Sample: true}
			if err := e.fakeEngine.Step(ctx, []*engine.Row{&one}); err != nil || one.Err != nil {
				return fmt.Errorf("guess: %w, %w", err, one.Err)
			}
			all = append(all, follow(t, one.Logits)...)
		}
		r.Logits = all
	}
	return nil
}

func follow(token int32, logits []float32) []float32 {
	if int(logits[0])%4 != 0 {
		logits[(token+1)%5] = 1e6
	}
	return logits
}

func (e *drafting) Forget(s engine.Seq, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	q := e.open[s]
	q.held -= n
	q.tokens = q.tokens[:q.held]
	q.hash = 0
	for _, t := range q.tokens {
		q.hash = mix(q.hash ^ uint64(t)<<1)
	}
}

func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// greedy is the plainest sampler, with a presence penalty so that history matters.
type greedy struct{ seen map[int32]bool }

func newGreedy() *greedy { return &greedy{seen: map[int32]bool{}} }

func (g *greedy) Sample(logits []float32, _ int) sampler.Choice {
	best := 0
	for i := range logits {
		if g.seen[int32(i)] {
			logits[i] -= 4
		}
		if logits[i] > logits[best] {
			best = i
		}
	}
	return sampler.Choice{Token: int32(best)}
}

func (g *greedy) Accept(t int32) { g.seen[t] = true }
