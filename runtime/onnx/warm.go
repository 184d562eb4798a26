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
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/onnx/kernels"
)

// largest runs the largest call, with as many sampled rows as there may be, so that the scratch memory which
// the library keeps is taken now and not in the middle of a job. It leaves the KV memory empty.
func (e *Engine) largest() error {
	g, length := e.graph, e.info.ContextLength
	c := call{tokens: len(g.ids), sampled: len(g.sel)}
	for i := range c.tokens {
		g.put(i, e.fixedToken(i), i/length, i%length)
	}
	for i := range c.sampled {
		g.sel[i] = int64(i)
	}
	err := g.run(c)
	for slot := 0; slot*length < c.tokens; slot++ {
		err = errors.Join(err, g.kv.clear(slot, min(length, c.tokens)))
	}
	return err
}

// selfCheck hashes the logits of fixed tokens, and finds out how this processor's kernels round: whether
// a lone row as one of several (e.companion), and whether tokens one by one as in one piece
// (Info.MinPrefill). It leaves the KV memory empty.
func (e *Engine) selfCheck() (string, error) {
	sum, n := fnv.New64a(), min(8, e.limits.MaxStepTokens, e.info.ContextLength-1)
	whole, err := e.fixed(0, n)
	if err != nil {
		return "", err
	}
	hash(sum, whole)
	alone, err := e.fixed(n, 1)
	if err != nil {
		return "", err
	}
	e.companion = true
	beside, err := e.fixed(n, 1)
	if err != nil {
		return "", err
	}
	hash(sum, beside)
	e.companion = !slices.Equal(alone, beside)
	var last []float32
	for i := range n {
		if last, err = e.fixed(i, 1); err != nil {
			return "", err
		}
	}
	if !slices.Equal(last, whole) {
		e.info.MinPrefill = 2
	}
	err = errors.Join(e.graph.kv.clear(0, n+1), e.graph.kv.clear(e.info.MaxSequences, 1))
	return hex.EncodeToString(sum.Sum(nil)[:4]), err
}

// mostDrafts is the most guessed tokens of a step: with a lone token they are as many as products take at once.
func mostDrafts() int { return kernels.Together() - 1 }

// fewDrafts is how many guesses are worth more than what they cost where more are not.
const fewDrafts = 3

// drafts finds out how many guessed tokens are worth reading here: mostDrafts or fewDrafts where a token with so
// many behind it takes hardly longer than alone, else none. Of guesses that [batch] makes, half are right.
func (e *Engine) drafts() (int, error) {
	for _, n := range slices.Compact([]int{mostDrafts(), fewDrafts}) {
		if e.info.ContextLength <= n || e.limits.MaxStepTokens <= n {
			continue
		}
		if worth, err := e.worth(n); worth || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// worth tells whether a token with n guesses behind it takes hardly longer than alone. It leaves the KV memory empty.
func (e *Engine) worth(n int) (bool, error) {
	took := func(n int) (time.Duration, error) {
		for i := range n {
			e.graph.put(i, e.fixedToken(i), 0, i)
			e.graph.sel[i] = int64(i)
		}
		start := time.Now()
		err := e.graph.run(call{tokens: n, sampled: n})
		return time.Since(start), err
	}
	alone, beside := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range 3 {
		one, err := took(1)
		if err != nil {
			return false, err
		}
		all, err := took(1 + n)
		if err != nil {
			return false, err
		}
		alone, beside = min(alone, one), min(beside, all)
	}
	return float64(beside) <= hardlyLonger*float64(alone), e.graph.kv.clear(0, 1+n)
}

// hardlyLonger is by how much a step with a draft may take longer.
const hardlyLonger = 1.7

// fixed runs n tokens that are always the same behind the first `from` of them, and returns a copy of the
// last one's logits.
func (e *Engine) fixed(from, n int) ([]float32, error) {
	for i := range n {
		e.graph.put(i, e.fixedToken(from+i), 0, from+i)
	}
	e.graph.sel[0] = int64(n - 1)
	err := e.graph.run(e.accompany(call{tokens: n, sampled: 1}))
	return slices.Clone(e.graph.row(0)), err
}

func (e *Engine) fixedToken(i int) int32 { return int32((i*7919 + 31) % e.info.Vocab) }

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
		if left := len(rest) - n; left > 0 && left < e.info.MinPrefill {
			n--
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
	if err := e.admit([]*engine.Row{row}); err != nil || row.Err != nil {
		return nil, errors.Join(err, row.Err)
	}
	release, err := e.watch(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	_, c := e.load([]*engine.Row{row}, 0)
	c.sampled = len(row.Tokens)
	for i := range c.sampled {
		e.graph.sel[i] = int64(i)
	}
	if err := e.graph.run(c); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	for i := range c.sampled {
		out = append(out, slices.Clone(e.graph.row(i)))
	}
	e.record([]*engine.Row{row})
	return out, row.Err
}
