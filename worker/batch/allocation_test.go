package batch_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sampler"
	"github.com/pelton-run/pelton/worker/batch"
)

// turnstile is an engine that lets one step through for each value in forth.
type turnstile struct {
	*fakeEngine
	forth, back chan struct{}
	logits      []float32
}

func (e *turnstile) Step(ctx context.Context, rows []*engine.Row) error {
	e.back <- struct{}{} // the step before is over, with everything that the loop did about it
	select {
	case <-e.forth:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, r := range rows {
		r.Logits = e.logits
	}
	return nil
}

// first is a sampler and a sink that allocate nothing.
type first struct{}

func (first) Sample([]float32, int) sampler.Choice { return sampler.Choice{} }
func (first) Accept(int32)                         {}
func (first) Prefilled(int, time.Time)             {}
func (first) Token(int, batch.Token)               {}
func (first) Ended(int, batch.End)                 {}

// A step in which sequences decode allocates nothing, with a limit on its time and without. The test is
// not parallel: the allocations of others would count.
func TestStepsAllocateNothing(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		e := &turnstile{newFake(), make(chan struct{}), make(chan struct{}, 1), make([]float32, 64)}
		e.info.ContextLength, e.budget = 1<<20, 1<<40
		l, err := batch.New(batch.Config{Engine: e, StepTimeout: timeout, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(i, 5), MaxTokens: 1 << 19, Sampler: first{}, Sink: first{}}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		step := func() { <-e.back; e.forth <- struct{}{} }
		for range 20 {
			step() // the prompts, and the first tokens
		}
		if n := testing.AllocsPerRun(200, step); n != 0 {
			t.Errorf("with a time limit of %v a step allocates %v times, want none", timeout, n)
		}
		cancel()
		for {
			select {
			case <-e.back:
				continue
			case err = <-done:
			}
			break
		}
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}
