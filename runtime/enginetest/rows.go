package enginetest

import (
	"context"
	"errors"
	"testing"

	"github.com/pelton-run/pelton/runtime/engine"
)

func (s *suite) badRows(t *testing.T) {
	seq := s.open(t, 8)
	defer s.e.Close(seq)
	long := s.open(t, min(s.info.ContextLength, s.info.MaxStepTokens+1))
	defer s.e.Close(long)
	closed := s.open(t, 8)
	s.e.Close(closed)
	for _, c := range []struct {
		name string
		row  engine.Row
		want error
	}{
		{"closed sequence", engine.Row{Seq: closed, Tokens: []int32{1, 2}}, engine.ErrUnknownSequence},
		{"handle zero", engine.Row{Seq: 0, Tokens: []int32{1, 2}}, engine.ErrUnknownSequence},
		{"handle never given", engine.Row{Seq: 1 << 60, Tokens: []int32{1, 2}}, engine.ErrUnknownSequence},
		{"no tokens", engine.Row{Seq: seq}, nil},
		{"negative token", engine.Row{Seq: seq, Tokens: []int32{1, -1}}, engine.ErrBadToken},
		{"token beyond the vocabulary", engine.Row{Seq: seq, Tokens: []int32{int32(s.info.Vocab)}}, engine.ErrBadToken},
		{"longer than the reservation", engine.Row{Seq: seq, Tokens: s.tokens(1, 9)}, engine.ErrTooLong},
		{"longer than a step", engine.Row{Seq: long, Tokens: s.tokens(1, s.info.MaxStepTokens+1)}, nil},
	} {
		c.row.Sample = true
		if err := s.e.Step(context.Background(), []*engine.Row{&c.row}); err != nil {
			t.Errorf("%s: Step = %v, want the row to carry the error", c.name, err)
		}
		wantError(t, c.name, c.row.Err, c.want)
		if len(c.row.Logits) != 0 {
			t.Errorf("%s: %d logits beside the error", c.name, len(c.row.Logits))
		}
	}
	if m := s.e.Memory(); m.Used != 0 {
		t.Errorf("after bad rows only, Memory() = %+v, want nothing used", m)
	}
}

func (s *suite) goodBesideBad(t *testing.T) {
	prompt := s.tokens(11, 6)
	want := s.generate(t, prompt, 0)[0]
	a := s.open(t, 8)
	defer s.e.Close(a)
	b := s.open(t, 8)
	defer s.e.Close(b)
	good := &engine.Row{Seq: a, Tokens: prompt, Sample: true}
	bad := &engine.Row{Seq: b, Tokens: []int32{-1}, Sample: true}
	twice := &engine.Row{Seq: a, Tokens: prompt[:2], Sample: true}
	stale := &engine.Row{Seq: b, Tokens: prompt, Sample: true, Err: errors.New("of an earlier step"), Logits: []float32{1}}
	if err := s.e.Step(context.Background(), []*engine.Row{bad, good, twice, stale}); err != nil {
		t.Fatalf("Step with two bad rows of four = %v, want nil", err)
	}
	wantError(t, "bad token", bad.Err, engine.ErrBadToken)
	wantError(t, "second row of a sequence", twice.Err, nil)
	for name, row := range map[string]*engine.Row{"good": good, "stale": stale} {
		if row.Err != nil {
			t.Errorf("%s row = %v, want nil", name, row.Err)
		}
		if at, by, bad := s.differ(row.Logits, want); bad {
			t.Errorf("%s row differs from the same prompt alone at logit %d by %g", name, at, by)
		}
	}
}

func (s *suite) overrun(t *testing.T) {
	seq := s.open(t, 4)
	defer s.e.Close(seq)
	s.step(t, &engine.Row{Seq: seq, Tokens: s.tokens(5, 3)})
	row := &engine.Row{Seq: seq, Tokens: s.tokens(5, 2)}
	if err := s.e.Step(context.Background(), []*engine.Row{row}); err != nil {
		t.Fatalf("Step = %v, want the row to carry the error", err)
	}
	wantError(t, "2 more tokens with 3 of 4 held", row.Err, engine.ErrTooLong)
	s.step(t, &engine.Row{Seq: seq, Tokens: s.tokens(5, 1), Sample: true})
}

func (s *suite) noRows(t *testing.T) {
	if err := s.e.Step(context.Background(), nil); err != nil {
		t.Errorf("Step of no rows = %v, want nil", err)
	}
	if err := s.e.Step(context.Background(), []*engine.Row{nil}); err == nil {
		t.Error("Step of a nil row = nil, want an error")
	}
}

func (s *suite) logitsMayBeOverwritten(t *testing.T) {
	prompt := s.tokens(12, 5)
	want := s.generate(t, prompt, 1)
	seq := s.open(t, 8)
	defer s.e.Close(seq)
	row := &engine.Row{Seq: seq, Tokens: prompt, Sample: true}
	s.step(t, row)
	token := best(row.Logits)
	clear(row.Logits)
	_ = append(row.Logits, 1, 2, 3) // must not reach a neighbor's
	row = &engine.Row{Seq: seq, Tokens: []int32{token}, Sample: true}
	s.step(t, row)
	if at, by, bad := s.differ(row.Logits, want[1]); bad {
		t.Errorf("after the caller overwrote logits, the next differ at %d by %g", at, by)
	}
}

func (s *suite) canceled(t *testing.T) {
	seq := s.open(t, 8)
	defer s.e.Close(seq)
	cause := errors.New("the worker drains")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	err := s.e.Step(ctx, []*engine.Row{{Seq: seq, Tokens: []int32{1, 2}}})
	if !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		t.Errorf("Step with a canceled context = %v, want %v or %v", err, cause, context.Canceled)
	}
	// The engine goes on.
	s.generate(t, s.tokens(2, 4), 1)
}

// canceledWhileRunning cancels at about the time a step runs: whichever wins, the engine stays sound.
func (s *suite) canceledWhileRunning(t *testing.T) {
	n := min(s.info.MaxStepTokens, s.info.ContextLength/2)
	prompt := s.tokens(21, n)
	want := s.generate(t, prompt, 1)
	for range 3 {
		seq := s.open(t, n+1)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.e.Step(ctx, []*engine.Row{{Seq: seq, Tokens: prompt, Sample: true}}) }()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Step canceled while running = %v, want nil or %v", err, context.Canceled)
		}
		s.e.Close(seq)
	}
	for i, got := range s.generate(t, prompt, 1) {
		if at, by, bad := s.differ(got, want[i]); bad {
			t.Errorf("after canceled steps, logits %d differ at %d by %g", i, at, by)
		}
	}
}

// likeliest asks for the likeliest token only, of a prompt and of a generated token beside a row that wants logits.
func likeliest(t *testing.T, s *suite) {
	prompt := s.tokens(95, 9)
	want := s.generate(t, prompt, 1)
	a, b := s.open(t, len(prompt)+1), s.open(t, len(prompt)+1)
	defer s.e.Close(a)
	defer s.e.Close(b)
	for i, tokens := range [][]int32{prompt, {best(want[0])}} {
		short, full := &engine.Row{Seq: a, Tokens: tokens, Sample: true, Likeliest: true}, &engine.Row{Seq: b, Tokens: tokens, Sample: true}
		if err := s.e.Step(t.Context(), []*engine.Row{short, full}); err != nil || short.Err != nil || full.Err != nil {
			t.Fatal(err, short.Err, full.Err)
		}
		if at, by, bad := s.differ(full.Logits, want[i]); bad {
			t.Errorf("logits %d of the row that wants them differ at %d by %g", i, at, by)
		}
		got := short.Token
		if short.Logits != nil {
			got = best(short.Logits)
		}
		if full.Logits[got] < full.Logits[best(full.Logits)] {
			t.Errorf("token %d is called the likeliest, its logit is %g; %d has %g", got, full.Logits[got], best(full.Logits), full.Logits[best(full.Logits)])
		}
	}
}
