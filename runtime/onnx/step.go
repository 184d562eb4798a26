//go:build cgo && (linux || darwin)

package onnx

import (
	"context"
	"fmt"
	"log/slog"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
)

// Step runs one pass over rows: the rows of one token in one call, each longer one in a call of its
// own. A canceled context ends the call under way within milliseconds and leaves every sequence as it
// was. Logits belong to the engine and are gone with Shutdown.
func (e *Engine) Step(ctx context.Context, rows []*engine.Row) error {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return errShutdown
	}
	if err := e.split(rows); err != nil {
		return err
	}
	if len(e.decoding)+len(e.prefill) == 0 {
		return nil
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
	e.record(e.decoding)
	e.record(e.prefill)
	return nil
}

// split admits rows and sorts them into those that decode and those that prefill.
func (e *Engine) split(rows []*engine.Row) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.decoding, e.prefill = e.decoding[:0], e.prefill[:0]
	admitted, err := e.cache.Admit(rows, e.limits)
	for _, r := range admitted {
		if len(r.Tokens) == 1 {
			e.decoding = append(e.decoding, r)
		} else {
			e.prefill = append(e.prefill, r)
		}
	}
	return err
}

// watch ends running calls when ctx ends, until release is called.
func (e *Engine) watch(ctx context.Context) (release func(), err error) {
	return watch(ctx, e.graph.options, e.log)
}

func watch(ctx context.Context, options *ort.RunOptions, log *slog.Logger) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if ctx.Done() == nil {
		return func() {}, nil
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		if err := options.Terminate(); err != nil {
			log.Error("a canceled step goes on", "error", err)
		}
	})
	return func() {
		if stop() {
			return
		}
		<-fired // the flag is sticky: it must be set before it is cleared
		if err := options.UnsetTerminate(); err != nil {
			log.Error("steps stay canceled", "error", err)
		}
	}, nil
}

// runRows runs the calls of a step. A call that fails is the failure of its rows, unless the context
// ended it.
func (e *Engine) runRows(ctx context.Context) error {
	sampled, err := e.decode()
	if err != nil {
		for _, r := range e.decoding {
			r.Err = err
		}
	}
	for _, r := range e.prefill {
		if ctx.Err() != nil {
			break
		}
		if r.Err = e.feed(r, sampled); r.Err == nil && r.Sample {
			r.Logits = e.graph.row(sampled)
			sampled++
		}
	}
	if ctx.Err() == nil {
		return nil
	}
	for _, rows := range [][]*engine.Row{e.decoding, e.prefill} {
		for _, r := range rows {
			r.Logits, r.Err = nil, nil
		}
	}
	return fmt.Errorf("step of %d rows: %w", len(e.decoding)+len(e.prefill), context.Cause(ctx))
}

// decode feeds one token to each decoding sequence in one call and returns how many were sampled.
func (e *Engine) decode() (sampled int, err error) {
	n := len(e.decoding)
	if n == 0 {
		return 0, nil
	}
	if err := e.compact(); err != nil {
		return 0, err
	}
	g := e.graph
	longest := 0
	for slot, r := range e.order[:n] {
		longest = max(longest, e.put(slot, r))
		if r.Sample {
			g.sel[sampled] = int64(slot)
			sampled++
		}
	}
	if n == 1 && e.companion {
		longest = max(longest, e.putCompanion())
		n = 2
	}
	// A total of at least 2 keeps a first token, which has no past, on the path of the later ones.
	if err := g.run(run{rows: n, columns: 1, total: max(longest, 2), sampled: sampled}); err != nil {
		return 0, fmt.Errorf("decode %d sequences: %w", len(e.decoding), err)
	}
	for i := range sampled {
		e.order[g.sel[i]].Logits = g.row(i)
	}
	return sampled, nil
}

// put sets the inputs of a decoding row and returns its length behind this token.
func (e *Engine) put(slot int, r *engine.Row) int {
	place := e.place(r.Seq)
	e.graph.ids[slot] = int64(r.Tokens[0])
	e.graph.seqlens[slot] = int32(place.Length)
	return place.Length + 1
}

// putCompanion sets up a second row that computes nothing anybody wants, on slot 1, for processors
// whose kernels round a lone row differently. It writes one token behind those of the slot's owner,
// which the owner's next row overwrites.
func (e *Engine) putCompanion() int {
	held := 0
	e.mu.Lock()
	if place, ok := e.cache.At(1); ok {
		held = min(place.Length, e.info.ContextLength-1)
	}
	e.mu.Unlock()
	e.graph.ids[1], e.graph.seqlens[1] = 0, int32(held)
	return held + 1
}

// compact brings the decoding sequences into the first slots and sorts their rows by slot.
func (e *Engine) compact() error {
	e.handles = e.handles[:0]
	for _, r := range e.decoding {
		e.handles = append(e.handles, r.Seq)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.cache.Compact(e.handles) {
		if err := e.graph.kv.move(m.From, m.To, m.Tokens); err != nil {
			return fmt.Errorf("move %d tokens from slot %d to %d: %w", m.Tokens, m.From, m.To, err)
		}
	}
	for _, r := range e.decoding {
		place, _ := e.cache.Find(r.Seq)
		e.order[place.Slot] = r
	}
	return nil
}

// feed runs one prefill row; its logits, when wanted, go to row logits of the graph's.
func (e *Engine) feed(r *engine.Row, logits int) error {
	call := e.load(r)
	call.logits = logits
	if r.Sample {
		e.graph.sel[0], call.sampled = int64(call.columns-1), 1
	}
	if err := e.graph.run(call); err != nil {
		return fmt.Errorf("prefill %d tokens up to %d: %w", call.columns, call.total, err)
	}
	return nil
}

// load sets the inputs of a row that runs in a call of its own.
func (e *Engine) load(r *engine.Row) run {
	for i, t := range r.Tokens {
		e.graph.ids[i] = int64(t)
	}
	place := e.place(r.Seq)
	total := place.Length + len(r.Tokens)
	e.graph.seqlens[0] = int32(total - 1)
	return run{lo: place.Slot, rows: 1, columns: len(r.Tokens), total: max(total, 2)}
}

func (e *Engine) place(s engine.Seq) kvcache.Place {
	e.mu.Lock()
	defer e.mu.Unlock()
	place, _ := e.cache.Find(s)
	return place
}

// record adds the tokens of rows that ran to the account.
func (e *Engine) record(rows []*engine.Row) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range rows {
		if r.Err == nil {
			r.Err = e.cache.Append(r.Seq, len(r.Tokens))
		}
		if r.Err != nil {
			r.Logits = nil
		}
	}
}
