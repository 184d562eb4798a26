package intake_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/worker/intake"
)

func canceledContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestFitWaitsForRoom(t *testing.T) {
	t.Parallel()
	r := intake.NewRoom(memory.NewBudget(100), 4)
	a, b := r.Reserve(60, 1), r.Reserve(30, 1)
	if err := b.Fit(t.Context(), 101, 1); !errors.Is(err, intake.ErrNeverFits) {
		t.Errorf("Fit(101 of 100) = %v, want %v", err, intake.ErrNeverFits)
	}
	done := make(chan error)
	go func() { done <- b.Fit(t.Context(), 70, 3) }()
	a.Close()
	if err := <-done; err != nil {
		t.Fatalf("Fit after room was freed: %v", err)
	}
	if free, slots := r.Free(); free != 30 || slots != 1 {
		t.Errorf("%d bytes and %d slots free, want 30 and 1", free, slots)
	}
	cause := errors.New("canceled")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := r.Reserve(10, 0)
	go func() { done <- c.Fit(ctx, 90, 0) }()
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("canceled Fit = %v, want %v", err, cause)
	}
}

// A room whose prompts wait takes nothing, and says so when it does again. A prompt of several steps counts as
// one.
func TestPromptsBoundTheRoom(t *testing.T) {
	t.Parallel()
	r := intake.NewRoom(memory.NewBudget(100), 4)
	r.Bound(10)
	a, b := r.Reserve(10, 1), r.Reserve(10, 1)
	a.Feed(6)
	b.Feed(10)
	b.Feed(1000)
	b.Feed(10)
	if _, slots := r.Takes(time.Now()); slots != 2 {
		t.Errorf("with 36 of %d prompt tokens waiting %d slots may be taken, want 2", 10*intake.StepsAhead, slots)
	}
	a.Feed(6)
	if _, slots := r.Takes(time.Now()); slots != 0 {
		t.Errorf("with 42 of %d prompt tokens waiting %d slots may be taken, want none", 10*intake.StepsAhead, slots)
	}
	b.Fed(1000)
	select {
	case <-r.Fed():
	default:
		t.Error("nobody was told that there is room again")
	}
	b.Close()
	if free, slots := r.Free(); free != 90 || slots != 3 {
		t.Errorf("%d bytes and %d slots free after one is closed, want 90 and 3", free, slots)
	}
	r.Rest(time.Now().Add(time.Hour))
	if _, slots := r.Takes(time.Now()); slots != 0 {
		t.Errorf("at rest %d slots may be taken, want none", slots)
	}
	r.Rest(time.Now())
	if _, slots := r.Takes(time.Now()); slots != 3 {
		t.Errorf("with 12 of %d prompt tokens waiting %d slots may be taken, want 3", 10*intake.StepsAhead, slots)
	}
}
