//go:build cgo && (linux || darwin)

package onnx

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"

	"github.com/pelton-run/pelton/runtime/engine"
)

// warmUp runs the graph at its largest sizes, so that the scratch memory which the library keeps is
// taken now and not in the middle of a job, and returns a hash of the logits of fixed tokens. It
// leaves the KV memory empty.
func (e *Engine) warmUp() (check string, err error) {
	if err := e.largest(); err != nil {
		return "", err
	}
	return e.selfCheck()
}

// largest runs the longest prefill row at the end of the context (its attention scores are the largest
// scratch buffer) and the widest decode.
func (e *Engine) largest() error {
	g, tokens := e.graph, e.limits.MaxStepTokens
	e.fixedTokens(tokens)
	for i := range tokens {
		g.sel[i] = int64(i)
	}
	g.seqlens[0] = int32(e.info.ContextLength - 1)
	if err := g.run(run{rows: 1, columns: tokens, total: e.info.ContextLength, sampled: tokens}); err != nil {
		return err
	}
	rows := e.info.MaxSequences
	for i := range rows {
		g.seqlens[i], g.sel[i] = 0, int64(i)
	}
	e.fixedTokens(rows)
	err := g.run(run{rows: rows, columns: 1, total: 2, sampled: rows})
	err = errors.Join(err, g.kv.clear(0, e.info.ContextLength))
	for slot := 1; slot < rows; slot++ {
		err = errors.Join(err, g.kv.clear(slot, 1))
	}
	return err
}

// selfCheck hashes the logits of a fixed prompt, and finds out whether this processor's kernels round
// a lone row as they round one of several (AVX2 with 4-bit weights does not).
func (e *Engine) selfCheck() (string, error) {
	g := e.graph
	prompt := min(8, e.limits.MaxStepTokens, e.info.ContextLength-1)
	e.fixedTokens(prompt)
	g.seqlens[0], g.sel[0] = int32(prompt-1), int64(prompt-1)
	if err := g.run(run{rows: 1, columns: prompt, total: max(prompt, 2), sampled: 1}); err != nil {
		return "", err
	}
	sum := fnv.New64a()
	hash(sum, g.row(0))
	decode := func(rows int) ([]float32, error) {
		e.fixedTokens(rows)
		g.seqlens[0], g.seqlens[1], g.sel[0] = int32(prompt), 0, 0
		err := g.run(run{rows: rows, columns: 1, total: prompt + 1, sampled: 1})
		return g.row(0), err
	}
	alone, err := decode(1)
	if err != nil {
		return "", err
	}
	alone = slices.Clone(alone)
	beside, err := decode(2)
	if err != nil {
		return "", err
	}
	e.companion = !slices.Equal(alone, beside)
	hash(sum, beside)
	return hex.EncodeToString(sum.Sum(nil)[:4]), errors.Join(g.kv.clear(0, prompt+1), g.kv.clear(1, 1))
}

// fixedTokens sets the first n ids to tokens that are always the same.
func (e *Engine) fixedTokens(n int) {
	for i := range n {
		e.graph.ids[i] = int64((i*7919 + 31) % e.info.Vocab)
	}
}

func hash(w interface{ Write([]byte) (int, error) }, logits []float32) {
	var buf [4]byte
	for _, v := range logits {
		binary.LittleEndian.PutUint32(buf[:], math.Float32bits(v))
		_, _ = w.Write(buf[:]) // a hash never fails
	}
}

// Logits runs a whole text as one prompt and returns the logits behind each of its tokens, about
// 4 bytes x Info.Vocab for each. They belong to the caller. It is for measuring a model's quality; the
// engine's driver calls it between steps.
func (e *Engine) Logits(ctx context.Context, tokens []int32) ([][]float32, error) {
	seq, err := e.Open(len(tokens))
	if err != nil {
		return nil, err
	}
	defer e.Close(seq)
	out := make([][]float32, 0, len(tokens))
	for len(out) < len(tokens) {
		rest := tokens[len(out):]
		n := min(len(rest), e.info.MaxStepTokens)
		if len(rest)-n == 1 {
			n-- // no rest of one token, see Info.MinPrefill
		}
		if out, err = e.logits(ctx, &engine.Row{Seq: seq, Tokens: rest[:n]}, out); err != nil {
			return nil, fmt.Errorf("logits of %d tokens: %w", len(tokens), err)
		}
	}
	return out, nil
}

// logits feeds one row and appends the logits behind each of its tokens to out.
func (e *Engine) logits(ctx context.Context, row *engine.Row, out [][]float32) ([][]float32, error) {
	e.step.Lock()
	defer e.step.Unlock()
	if e.graph == nil {
		return nil, errShutdown
	}
	if err := e.split([]*engine.Row{row}); err != nil || row.Err != nil {
		return nil, errors.Join(err, row.Err)
	}
	release, err := e.watch(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	call := e.load(row)
	call.sampled = call.columns
	for i := range call.sampled {
		e.graph.sel[i] = int64(i)
	}
	if err := e.graph.run(call); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	for i := range call.sampled {
		out = append(out, slices.Clone(e.graph.row(i)))
	}
	e.record([]*engine.Row{row})
	return out, row.Err
}
