package intake_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
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
	r.Bound(200)
	a, b := r.Reserve(10, 1), r.Reserve(10, 1)
	a.Feed(120)
	b.Feed(1000)
	if _, slots := r.Takes(time.Now()); slots != 2 {
		t.Errorf("with 320 of 400 prompt tokens waiting %d slots may be taken, want 2", slots)
	}
	a.Feed(120)
	if _, slots := r.Takes(time.Now()); slots != 0 {
		t.Errorf("with 440 of 400 prompt tokens waiting %d slots may be taken, want none", slots)
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
		t.Errorf("with 240 of 400 prompt tokens waiting %d slots may be taken, want 3", slots)
	}
	r.Bound(16) // of a CPU: 256 tokens are enough
	if _, slots := r.Takes(time.Now()); slots != 3 {
		t.Errorf("with 240 of 256 prompt tokens waiting %d slots may be taken, want 3", slots)
	}
	a.Feed(1000)
	if _, slots := r.Takes(time.Now()); slots != 0 {
		t.Errorf("with 256 of 256 prompt tokens waiting %d slots may be taken, want none", slots)
	}
}

// A job that fits what the memory comes back to waits for that.
func TestFitWaitsForMemoryThatComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, fitWaitsForMemoryThatComesBack)
}

func fitWaitsForMemoryThatComesBack(t *testing.T) {
	b := memory.NewBudget(100)
	r := intake.NewRoom(b, 4)
	v := r.Reserve(10, 1)
	if v == nil {
		t.Fatal("an empty room has no place")
	}
	b.SetTotal(50, 100)
	fits := make(chan error, 1)
	go func() { fits <- v.Fit(t.Context(), 80, 1) }()
	synctest.Wait()
	select {
	case err := <-fits:
		t.Fatalf("Fit of 80 into 50 of 100 = %v at once", err)
	default:
	}
	b.SetTotal(100, 100)
	if err := <-fits; err != nil {
		t.Fatalf("Fit = %v when the memory was back", err)
	}
	b.SetTotal(50, 50)
	if err := v.Fit(t.Context(), 90, 1); !errors.Is(err, intake.ErrNeverFits) {
		t.Errorf("Fit of 90 into 50 = %v, want %v", err, intake.ErrNeverFits)
	}
}

// The governor took memory for a while (Total), and then says that it is gone for good (Size). A job that waited hears of it.
func TestFitHearsThatMemoryIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, fitHearsThatMemoryIsGone)
}

func fitHearsThatMemoryIsGone(t *testing.T) {
	b := memory.NewBudget(100)
	r := intake.NewRoom(b, 4)
	b.SetTotal(60, 100)
	j := r.Reserve(60, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- j.Fit(ctx, 80, 1) }()
	synctest.Wait()    // it waits
	b.SetTotal(60, 60) // what Governor.Observe says after a minute
	if err := <-done; !errors.Is(err, intake.ErrNeverFits) {
		t.Errorf("Fit = %v, want %v", err, intake.ErrNeverFits)
	}
}

// What is lent stays while a worker only asks for a job, and goes when one has come that needs it.
func TestAskingLeavesWhatIsLent(t *testing.T) {
	t.Parallel()
	b := memory.NewBudget(100)
	var lent int64
	b.Lend(func(bytes int64) { lent = bytes })
	room := intake.NewRoom(b, 4)
	ask := room.Reserve(100, 1)
	if free, slots := room.Free(); free != 0 || slots != 3 || lent != 100 {
		t.Errorf("while it asks: %d bytes and %d slots are free, %d lent, want 0, 3 and 100", free, slots, lent)
	}
	if ask.Close(); lent != 100 {
		t.Errorf("after no answer %d are lent, want 100", lent)
	}
	came := room.Reserve(100, 1)
	if !came.Try(30, 1) || lent != 70 {
		t.Errorf("beside a job of 30 bytes %d are lent, want 70", lent)
	}
	came.Close()
	if free, slots := room.Free(); free != 100 || slots != 4 || lent != 100 {
		t.Errorf("at the end: %d bytes and %d slots are free, %d lent", free, slots, lent)
	}
}
