//go:build cgo && (linux || darwin)

package onnx

import (
	"context"
	"fmt"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Step runs one pass over rows, all in one call unless they have more tokens than that takes. A canceled context ends the call under way within milliseconds and leaves every sequence as it
// was. Logits belong to the engine and are gone with Shutdown.
func (e *Engine) Step(ctx context.Context, rows []*engine.Row) error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return errShutdown
	}
	if err := e.admit(rows); err != nil || len(e.rows) == 0 {
		return err
	}
	release, err := e.watch(ctx)
	if err != nil {
		return err
	}
	err = e.runRows(ctx)
	release()
	if err != nil {
		return err
	}
	e.record(e.rows)
	return nil
}

// admit leaves the rows that can run in e.rows.
func (e *Engine) admit(rows []*engine.Row) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rows, err = e.cache.Admit(rows, e.limits)
	return err
}

// watch ends running calls when ctx ends, until release is called.
func (e *Engine) watch(ctx context.Context) (release func(), err error) {
	return session.Watch(ctx, e.graph.options, e.log)
}

// runRows runs the calls of a step. A call that fails is the failure of its rows, unless the context
// ended it.
func (e *Engine) runRows(ctx context.Context) error {
	next := call{}
	for rest := e.rows; len(rest) > 0 && ctx.Err() == nil; {
		var n int
		n, next = e.load(rest, next.logits+next.sampled)
		e.runCall(rest[:n], next)
		rest = rest[n:]
	}
	if ctx.Err() == nil {
		return nil
	}
	for _, r := range e.rows {
		r.Logits, r.Err = nil, nil
	}
	return fmt.Errorf("step of %d rows: %w", len(e.rows), context.Cause(ctx))
}

// runCall runs the graph on rows that are loaded.
func (e *Engine) runCall(rows []*engine.Row, c call) {
	err := e.graph.run(c)
	for _, r := range rows {
		if err != nil {
			r.Err = fmt.Errorf("step of %d tokens of %d sequences: %w", c.tokens, len(rows), err)
		} else if r.Sample {
			n := 1 + len(r.Draft)
			r.Logits = e.graph.some(c.logits, n)
			c.logits += n
		}
	}
}

// load makes a call of as many rows as fit, at least one; its results go to the rows of the graph's logits
// from logits on.
func (e *Engine) load(rows []*engine.Row, logits int) (n int, c call) {
	g := e.graph
	c.logits = logits
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range rows {
		if c.tokens+len(r.Tokens)+len(r.Draft) > len(g.ids) {
			break
		}
		place, _ := e.cache.Find(r.Seq)
		for _, tokens := range [...][]int32{r.Tokens, r.Draft} {
			for _, t := range tokens {
				g.put(c.tokens, t, place.Slot, place.Length)
				c.tokens++
				place.Length++
			}
		}
		if r.Sample {
			for i := range 1 + len(r.Draft) {
				g.sel[c.sampled] = int64(c.tokens - 1 - len(r.Draft) + i)
				c.sampled++
			}
		}
		n++
	}
	return n, e.accompany(c)
}

// accompany adds a token that nobody wants, in a slot of its own, to a call of one: for processors whose
// kernels round a lone row differently.
func (e *Engine) accompany(c call) call {
	if c.tokens == 1 && e.companion {
		e.graph.put(1, 0, e.info.MaxSequences, 0)
		c.tokens = 2
	}
	return c
}

// record adds the tokens of rows that ran to the account.
func (e *Engine) record(rows []*engine.Row) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range rows {
		if r.Err == nil {
			r.Err = e.cache.Append(r.Seq, len(r.Tokens)+len(r.Draft))
		}
		if r.Err == nil {
			e.cache.Note(r.Seq, r.Tokens)
			e.cache.Note(r.Seq, r.Draft)
		}
		if r.Err != nil {
			r.Logits = nil
		}
	}
}

// Forget takes the last n tokens of a sequence back, see engine.Drafter.
func (e *Engine) Forget(s engine.Seq, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache.Forget(s, n)
}
