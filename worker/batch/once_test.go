package batch

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/sampler"
	"github.com/pelton-run/pelton/runtime/sim"
)

type countingSink struct{ ended chan error }

func (countingSink) Prefilled(int, time.Time) {}
func (countingSink) Token(int, Token)         {}
func (s countingSink) Ended(_ int, e End)     { s.ended <- e.Err }

// An end that is asked for before Add is heard once, also when the loop has stopped by the time of Add.
func TestEndBeforeAddIsHeardOnce(t *testing.T) {
	t.Parallel()
	l, err := New(Config{Engine: sim.New(sim.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	sink := countingSink{make(chan error, 4)}
	s := NewSequence(Spec{Prompt: []int32{1}, MaxTokens: 1, Sampler: sampler.New(sampler.Params{}, nil), Sink: sink})
	l.End(s, errors.New("canceled"))
	<-sink.ended
	cancel()
	<-done
	l.Add(s)
	if len(sink.ended) != 0 {
		t.Errorf("heard again: %v", <-sink.ended)
	}
}
