package simulate_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/ops/simulate"
	"github.com/pelton-run/pelton/runtime/sampler"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/worker/batch"
)

// listener is a sequence's sink that notes when tokens came, and its sampler.
type listener struct {
	start time.Time
	times []time.Duration
	ended bool
}

func (*listener) Sample([]float32, int) sampler.Choice { return sampler.Choice{Token: 'a'} }
func (*listener) Accept(int32)                         {}
func (*listener) Prefilled(int, time.Time)             {}
func (l *listener) Token(_ int, t batch.Token)         { l.times = append(l.times, t.At.Sub(l.start)) }
func (l *listener) Ended(int, batch.End)               { l.ended = true }

// A simulated worker's tokens come when those of the real batch loop on the same device come, to the
// nanosecond.
func TestStepsAreTheLoops(t *testing.T) {
	t.Parallel()
	profile := device(t, "a100")
	profile.Jitter = 0
	plan := load(25, 20*time.Second, loadgen.Mix{Input: loadgen.Lengths{Low: 2, High: 200}, Output: loadgen.Lengths{Low: 1, High: 60}})
	plan[len(plan)/2].Input = 900 // more than one step
	samples, _ := run(t, simulate.Config{Plan: plan, Workers: 1, Profile: profile, FlushTokens: 1, Overload: backlog.Settings{FIFO: true}})
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		loop, err := batch.New(batch.Config{Engine: sim.New(sim.Config{Profile: profile}), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- loop.Run(ctx) }()
		start := time.Now()
		heard := make([]*listener, len(plan))
		for i, r := range plan {
			time.Sleep(time.Until(start.Add(r.At)))
			heard[i] = &listener{start: start}
			loop.Add(batch.NewSequence(batch.Spec{Rank: 2, Prompt: slices.Repeat([]int32{'a'}, r.Input), MaxTokens: r.Output, Sampler: heard[i], Sink: heard[i]}))
		}
		time.Sleep(time.Minute)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for i, l := range heard {
			if !l.ended || !slices.Equal(l.times, samples[i].Pieces) {
				t.Fatalf("request %d of %v, %d tokens in, %d out: the loop gave tokens at %v, the simulation at %v", i, plan[i].At, plan[i].Input, plan[i].Output, l.times, samples[i].Pieces)
			}
		}
	})
}
