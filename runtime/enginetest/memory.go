package enginetest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/pelton-run/pelton/runtime/engine"
)

func (s *suite) describes(t *testing.T) {
	i := s.info
	if i.Model == "" || i.Variant == "" || i.Backend == "" || i.Device == "" || i.Fingerprint == "" {
		t.Errorf("Info() = %+v, want every name set", i)
	}
	if i.Vocab < 2 || i.ContextLength < 2 || i.KVBytesPerToken <= 0 || i.BlockTokens < 1 || i.MaxSequences < 1 || i.MaxStepTokens < 2 || i.MinPrefill < 1 || i.MinPrefill > 2 {
		t.Errorf("Info() = %+v, want positive sizes, MaxStepTokens of at least 2, MinPrefill 1 or 2", i)
	}
	if again := s.e.Info(); again != i {
		t.Errorf("second Info() = %+v, want %+v", again, i)
	}
}

func (s *suite) openRefuses(t *testing.T) {
	for _, c := range []struct {
		tokens int
		want   error
	}{{0, nil}, {-5, nil}, {s.info.ContextLength + 1, engine.ErrTooLong}, {int(^uint(0) >> 1), engine.ErrTooLong}} {
		seq, err := s.e.Open(c.tokens)
		wantError(t, "Open", err, c.want)
		s.e.Close(seq)
	}
	s.e.Close(0)
	s.e.Close(1 << 40)
}

// budget is invariant 3 with sequences of different lengths.
func (s *suite) budget(t *testing.T) {
	block := s.info.KVBytes(1)
	s.opt.SetBudget(s.e, 4*block)
	defer s.opt.SetBudget(s.e, 0)
	n := s.info.BlockTokens
	_, err := s.e.Open(4*n + 1)
	wantError(t, "Open of more than the whole budget", err, engine.ErrTooLong)
	a := s.open(t, 3*n)
	_, err = s.e.Open(n + 1)
	wantError(t, "Open of two blocks with one free", err, engine.ErrNoMemory)
	b := s.open(t, 1)
	_, err = s.e.Open(1)
	wantError(t, "Open with nothing free", err, engine.ErrNoMemory)
	if m, want := s.e.Memory(), (engine.Memory{Budget: 4 * block, Reserved: 4 * block}); m != want {
		t.Errorf("Memory() = %+v, want %+v", m, want)
	}
	s.e.Close(a)
	s.e.Close(a)
	if m := s.e.Memory(); m.Reserved != block {
		t.Errorf("after Close (twice) Memory() = %+v, want %d reserved", m, block)
	}
	c := s.open(t, 3*n)
	s.e.Close(b)
	s.e.Close(c)
}

func (s *suite) sequences(t *testing.T) {
	var open []engine.Seq
	seen := map[engine.Seq]bool{}
	for range s.info.MaxSequences {
		seq := s.open(t, 1)
		if seen[seq] {
			t.Errorf("Open gave the handle %d twice", seq)
		}
		seen[seq] = true
		open = append(open, seq)
	}
	_, err := s.e.Open(1)
	wantError(t, "Open of one more than MaxSequences", err, engine.ErrNoMemory)
	rows := make([]*engine.Row, len(open))
	for i, seq := range open {
		rows[i] = &engine.Row{Seq: seq, Tokens: s.tokens(7, 1), Sample: true}
	}
	s.step(t, rows...)
	for i, r := range rows {
		if at, by, bad := s.differ(r.Logits, rows[0].Logits); bad {
			t.Errorf("row %d of %d equal rows differs at logit %d by %g", i, len(rows), at, by)
		}
	}
	for _, seq := range open {
		s.e.Close(seq)
	}
	seq := s.open(t, 1)
	if seen[seq] {
		t.Errorf("Open after Close gave the handle %d again", seq)
	}
	s.e.Close(seq)
}

func (s *suite) account(t *testing.T) {
	n := s.info.BlockTokens
	seq := s.open(t, 3*n)
	check := func(held int) {
		t.Helper()
		m := s.e.Memory()
		if m.Reserved != s.info.KVBytes(3*n) || m.Used != s.info.KVBytes(held) || m.Budget < m.Reserved {
			t.Errorf("with %d tokens Memory() = %+v, want %d reserved and %d used", held, m, s.info.KVBytes(3*n), s.info.KVBytes(held))
		}
	}
	check(0)
	s.step(t, &engine.Row{Seq: seq, Tokens: s.tokens(1, 2)})
	check(2)
	for held := 3; held <= n+1; held++ {
		s.step(t, &engine.Row{Seq: seq, Tokens: s.tokens(1, 1)})
		check(held)
	}
	s.e.Close(seq)
}

// memoryWhileRunning is for the race detector: Info and Memory are called beside the driver.
func (s *suite) memoryWhileRunning(t *testing.T) {
	stop := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if m := s.e.Memory(); m.Used > m.Reserved || s.e.Info().Vocab != s.info.Vocab {
					t.Errorf("Memory() = %+v while a step runs", m)
					return
				}
			}
		}
	})
	for range 3 {
		s.generate(t, s.tokens(3, 4), 2)
	}
	close(stop)
	beside.Wait()
}

// shutdown is last: the engine is of no use behind it.
func (s *suite) shutdown(t *testing.T) {
	seq := s.open(t, 4)
	if err := s.e.Shutdown(); err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
	if err := s.e.Shutdown(); err != nil {
		t.Errorf("second Shutdown() = %v, want nil", err)
	}
	_, err := s.e.Open(4)
	wantError(t, "Open after Shutdown", err, nil)
	err = s.e.Step(context.Background(), []*engine.Row{{Seq: seq, Tokens: []int32{1, 2}}})
	wantError(t, "Step after Shutdown", err, nil)
	if errors.Is(err, engine.ErrNoMemory) {
		t.Errorf("Step after Shutdown = %v, want another error", err)
	}
	s.e.Close(seq)
}
