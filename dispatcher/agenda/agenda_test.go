package agenda_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/pelton-run/pelton/dispatcher/agenda"
)

// TestFullOfFarDeadlines: jobs with deadlines far away (which may have ended long ago) must not keep the
// deadline of another tenant's job from being watched.
func TestFullOfFarDeadlines(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	a := agenda.New(time.Now, func(_ context.Context, _, job string) bool { got <- job; return false })
	far := time.Now().Add(240 * time.Hour).UnixMilli()
	for i := range 200_000 {
		a.Add("ann", strconv.Itoa(i), far)
	}
	a.Add("bob", "near", time.Now().Add(50*time.Millisecond).UnixMilli())
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	go a.Run(ctx)
	select {
	case <-got:
	case <-ctx.Done():
		t.Error("bob's job was not ended at its deadline")
	}
}

// TestRemoved: a job that ended is not heard of, and one that is noted twice at the earlier time.
func TestRemoved(t *testing.T) {
	t.Parallel()
	got := make(chan string, 3)
	a := agenda.New(time.Now, func(_ context.Context, _, job string) bool { got <- job; return false })
	soon := time.Now().Add(50 * time.Millisecond)
	a.Add("t", "ended", soon.UnixMilli())
	a.Add("t", "moved", soon.Add(time.Hour).UnixMilli())
	a.Add("t", "moved", soon.Add(20*time.Millisecond).UnixMilli())
	a.Add("t", "moved", soon.Add(2*time.Hour).UnixMilli())
	a.Remove("t", "ended")
	a.Remove("t", "unknown")
	go a.Run(t.Context())
	if job := <-got; job != "moved" {
		t.Errorf("heard of %q first", job)
	}
}
