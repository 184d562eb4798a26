package loadgen_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/ops/loadgen"
)

// server is a target in virtual time: the first token after first, the others each gap. One of queue
// places is taken by each request; 0 is no bound.
type server struct {
	first, gap time.Duration
	places     chan struct{}
}

func (s *server) Send(ctx context.Context, r loadgen.Request, _ string, got func()) loadgen.Answer {
	if s.places != nil {
		s.places <- struct{}{}
		defer func() { <-s.places }()
	}
	for i := range r.Output {
		d := s.gap
		if i == 0 {
			d = s.first
		}
		select {
		case <-ctx.Done():
			return loadgen.Answer{Outcome: loadgen.Failed, Message: ctx.Err().Error()}
		case <-time.After(d):
			got()
		}
	}
	return loadgen.Answer{Outcome: loadgen.Completed, InputTokens: r.Input, OutputTokens: r.Output}
}

func evenly(n int, gap time.Duration) loadgen.Plan {
	p := make(loadgen.Plan, n)
	for i := range p {
		p[i] = loadgen.Request{At: time.Duration(i) * gap, Input: 10, Output: 5}
	}
	return p
}

func run(t *testing.T, cfg loadgen.Config) []loadgen.Sample {
	t.Helper()
	cfg.Prompter = loadgen.Prompter{PerToken: 4}
	samples, err := loadgen.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return samples
}

// TestOpenLoop: a server that takes one request at a time and 100 ms for each is asked each 50 ms. The
// open loop must show the queue that builds up: request i waits 50 ms more than the one before.
func TestOpenLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		samples := run(t, loadgen.Config{Plan: evenly(20, 50*time.Millisecond), Target: &server{first: 60 * time.Millisecond, gap: 10 * time.Millisecond, places: make(chan struct{}, 1)}})
		for i, s := range samples {
			if want := 60*time.Millisecond + time.Duration(i)*50*time.Millisecond; s.Sent != s.At || s.Pieces[0]-s.At != want || s.End-s.At != want+40*time.Millisecond {
				t.Errorf("request %d: sent %v late, first token after %v, want 0 and %v", i, s.Sent-s.At, s.Pieces[0]-s.At, want)
			}
		}
		if len(samples) != 20 {
			t.Errorf("%d samples, want 20", len(samples))
		}
	})
}

// TestBottleneck: what does not fit into MaxInFlight is not sent and said so, never sent late.
func TestBottleneck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		samples := run(t, loadgen.Config{Plan: evenly(9, 10*time.Millisecond), MaxInFlight: 3, Target: &server{first: 55 * time.Millisecond, gap: 0}})
		r := loadgen.Reduce(samples, loadgen.Measured{})
		// 0, 10, 20 are sent; 30, 40, 50 find no place; 60, 70, 80 find one again (free from 55, 65, 75)
		if r.All.Outcomes[loadgen.Completed] != 6 || r.All.Outcomes[loadgen.Unsent] != 3 || r.Warning() == "" {
			t.Errorf("outcomes %v, warning %q, want 6 completed, 3 unsent and a warning", r.All.Outcomes, r.Warning())
		}
		if a := r.All.Attainment(); a != 1 {
			t.Errorf("attainment %v: unsent requests say nothing of the server", a)
		}
	})
}

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		target := &server{first: 60 * time.Millisecond, gap: 10 * time.Millisecond}
		samples := run(t, loadgen.Config{Plan: evenly(10, 0), Concurrency: 2, Target: target})
		for i, s := range samples {
			if want := time.Duration(i/2) * 100 * time.Millisecond; s.At != want || s.End != want+100*time.Millisecond {
				t.Errorf("request %d at %v to %v, want from %v", i, s.At, s.End, want)
			}
		}
		samples = run(t, loadgen.Config{Plan: evenly(1000, 0), Concurrency: 2, Until: 350 * time.Millisecond, Target: target})
		if n := len(samples); n != 8 || samples[7].At >= 350*time.Millisecond { // 2 at 0, 100, 200, 300 ms
			t.Errorf("%d requests in 350 ms, the last at %v, want 8", n, samples[n-1].At)
		}
	})
}

// TestGivingUp: planned cancellations, our time limit and the end of the run are told apart.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := evenly(3, time.Millisecond)
		p[0].CancelAfter = 75 * time.Millisecond
		p[1].Output = 100
		samples := run(t, loadgen.Config{Plan: p, Timeout: 505 * time.Millisecond, Target: &server{first: 60 * time.Millisecond, gap: 10 * time.Millisecond}})
		want := []loadgen.Outcome{loadgen.Canceled, loadgen.Expired, loadgen.Completed}
		for i, s := range samples {
			if s.Outcome != want[i] {
				t.Errorf("request %d: %s, want %s", i, s.Outcome, want[i])
			}
		}
		r := loadgen.Reduce(samples, loadgen.Measured{})
		// tokens at 60, 70 ms; at 60 to 500 ms; and 5 good ones
		if r.All.WastedTokens != 2+45 || r.All.GoodTokens != 5 || math.Abs(r.All.Attainment()-1.0/3) > 1e-9 {
			t.Errorf("wasted %d, good %d, attainment %v, want 47, 5 and 1/3", r.All.WastedTokens, r.All.GoodTokens, r.All.Attainment())
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(130*time.Millisecond, cancel)
		samples, err := loadgen.Run(ctx, loadgen.Config{Plan: evenly(50, 25*time.Millisecond), Target: &server{first: 100 * time.Millisecond}, Prompter: loadgen.Prompter{PerToken: 4}})
		if err != nil || len(samples) != 2 {
			t.Errorf("an interrupted run has %d samples (%v), want the 2 that were answered", len(samples), err)
		}
	})
}

func TestGauge(t *testing.T) {
	t.Parallel()
	p, err := loadgen.Gauge(t.Context(), counter{per: 5, overhead: 12}, "")
	if err != nil || p.PerToken != 5 || p.Overhead != 12 {
		t.Errorf("gauge %+v, %v, want 5 characters a token and 12 tokens over", p, err)
	}
	if p, err := loadgen.Gauge(t.Context(), counter{per: math.Inf(1)}, ""); err != nil || p.PerToken != 4 {
		t.Errorf("gauge of a server that does not count: %+v, %v, want 4 characters a token", p, err)
	}
}

// counter answers with the tokens of the prompt.
type counter struct{ per, overhead float64 }

func (c counter) Send(_ context.Context, _ loadgen.Request, prompt string, got func()) loadgen.Answer {
	got()
	return loadgen.Answer{Outcome: loadgen.Completed, InputTokens: int(float64(len(prompt))/c.per + c.overhead), OutputTokens: 1}
}

// breaksOff answers with a piece and then as a server that is not there.
type breaksOff struct{}

func (breaksOff) Send(_ context.Context, _ loadgen.Request, _ string, got func()) loadgen.Answer {
	got()
	return loadgen.FailureOf(contracts.Errorf(contracts.CodeUnavailable, "the broker is away"))
}

// TestBrokenOff: who got a piece was not turned away.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	if s := run(t, loadgen.Config{Plan: evenly(1, 0), Target: breaksOff{}}); s[0].Outcome != loadgen.Failed {
		t.Errorf("a stream that broke off counts as %s, want failed", s[0].Outcome)
	}
}
