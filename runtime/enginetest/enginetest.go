// Package enginetest is the conformance suite that every implementation of engine.Engine passes.
//
// It stands beside the walk: the tests of runtime/onnx and runtime/sim call [Run], and so should those
// of any further engine. It knows engines only through the seam, needs no file and no clock, and is
// the one package outside tests that imports testing and rapid.
package enginetest

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pelton-run/pelton/runtime/engine"
)

// Options fits the suite to an engine.
type Options struct {
	// SetBudget changes the engine's KV budget in bytes; 0 means the engine's own default.
	SetBudget func(e engine.Engine, bytes int64)
	// Longest is the most tokens of the suite's prompts; 0 means 48. At most a quarter of the context.
	Longest int
	// Checks is the number of random batches that the invariance property tries; 0 means 20.
	Checks int
	// Rounding is how far apart, as a part of their length, logits may be that an engine which varies computes twice;
	// 0 means 0.02.
	Rounding float64
}

// suite is one engine under test. Its subtests run one after another: an engine has one driver.
type suite struct {
	e    engine.Engine
	info engine.Info
	opt  Options
}

// Run holds the engine that open makes against the contract of package engine. It shuts it down.
func Run(t *testing.T, open func(t *testing.T) engine.Engine, opt Options) {
	t.Helper()
	opt.Longest = cmp.Or(opt.Longest, 48)
	opt.Checks = cmp.Or(opt.Checks, 20)
	opt.Rounding = cmp.Or(opt.Rounding, 0.02)
	e := open(t)
	s := &suite{e: e, info: e.Info(), opt: opt}
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"Info", s.describes},
		{"OpenRefuses", s.openRefuses},
		{"Budget", s.budget},
		{"Sequences", s.sequences},
		{"Account", s.account},
		{"BadRows", s.badRows},
		{"GoodRowsBesideBad", s.goodBesideBad},
		{"Overrun", s.overrun},
		{"Deterministic", s.deterministic},
		{"ReadAgain", func(t *testing.T) { readAgain(t, s) }},
		{"ReuseAfterClose", func(t *testing.T) { reuse(t, s) }},
		{"FullReservation", s.fullReservation},
		{"LogitsBelongToCaller", s.logitsMayBeOverwritten},
		{"Likeliest", func(t *testing.T) { likeliest(t, s) }},
		{"NoRows", s.noRows},
		{"Canceled", s.canceled},
		{"CanceledWhileRunning", s.canceledWhileRunning},
		{"Drafts", func(t *testing.T) { drafts(t, s) }},
		{"Neighbors", s.neighbors},
		{"Invariance", s.invariance},
		{"MemoryWhileRunning", s.memoryWhileRunning},
		{"Shutdown", s.shutdown},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t)
			if t.Failed() {
				return
			}
			if m := e.Memory(); m.Reserved != 0 || m.Used != 0 {
				t.Errorf("after the test Memory() = %+v, want nothing reserved or used", m)
			}
		})
	}
}

// tokens are n random token ids that depend on seed only.
func (s *suite) tokens(seed uint64, n int) []int32 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(r.IntN(s.info.Vocab))
	}
	return out
}

// open reserves memory for n tokens or ends the test; the sequence is closed with the test.
func (s *suite) open(t fataler, n int) engine.Seq {
	t.Helper()
	seq, err := s.e.Open(n)
	if err != nil {
		t.Fatalf("Open(%d) = %v, want a sequence; memory %+v", n, err, s.e.Memory())
	}
	return seq
}

// fataler is the part of *testing.T and *rapid.T that the suite needs.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// step runs rows of which none may fail.
func (s *suite) step(t fataler, rows ...*engine.Row) {
	t.Helper()
	if err := s.e.Step(context.Background(), rows); err != nil {
		t.Fatalf("Step of %d rows = %v, want nil", len(rows), err)
	}
	for i, r := range rows {
		if r.Err != nil {
			t.Fatalf("row %d of %d (%d tokens) = %v, want nil", i, len(rows), len(r.Tokens), r.Err)
		}
		want := 0
		if r.Sample {
			want = s.info.Vocab * (1 + len(r.Draft))
		}
		if len(r.Logits) != want {
			t.Fatalf("row %d has %d logits, want %d", i, len(r.Logits), want)
		}
	}
}

// generate feeds the prompt alone, in chunks as long as allowed, then n greedy tokens, and returns
// the logits behind the prompt and behind each of them.
func (s *suite) generate(t fataler, prompt []int32, n int) (out [][]float32) {
	t.Helper()
	seq := s.open(t, len(prompt)+n)
	defer s.e.Close(seq)
	var row engine.Row
	for _, part := range cut(prompt, s.info.MaxStepTokens, s.info.MinPrefill) {
		row = engine.Row{Seq: seq, Tokens: part, Sample: true}
		s.step(t, &row)
	}
	out = append(out, slices.Clone(row.Logits))
	for range n {
		row = engine.Row{Seq: seq, Tokens: []int32{best(row.Logits)}, Sample: true}
		s.step(t, &row)
		out = append(out, slices.Clone(row.Logits))
	}
	return out
}

// cut splits a prompt into parts of size tokens of which none is shorter than least.
func cut(prompt []int32, size, least int) (parts [][]int32) {
	for len(prompt) > size {
		n := size
		if rest := len(prompt) - n; rest < least {
			n -= least - rest
		}
		parts, prompt = append(parts, prompt[:n]), prompt[n:]
	}
	return append(parts, prompt)
}

// best is the most likely token, the lowest id of equals.
func best(logits []float32) int32 {
	at := 0
	for i, v := range logits {
		if v > logits[at] {
			at = i
		}
	}
	return int32(at)
}

// differ tells where two rows of logits are not the same bits, and by how much; of an engine that varies, where
// they are furthest apart when that is more than rounding.
func (s *suite) differ(a, b []float32) (at int, by float32, differs bool) {
	if len(a) != len(b) {
		return 0, 0, true
	}
	var apart, length float64
	for i := range a {
		d := a[i] - b[i]
		if d != d || d != 0 && !s.info.Varies {
			return i, d, true
		}
		if max(d, -d) > max(by, -by) {
			at, by = i, d
		}
		apart, length = apart+float64(d)*float64(d), length+float64(b[i])*float64(b[i])
	}
	return at, by, apart > s.opt.Rounding*s.opt.Rounding*length
}

// wantError checks one row's error.
func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if got == nil || want != nil && !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}
