package tick_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/contracts/tick"
)

func TestRounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		begun := time.Now()
		var at []time.Duration
		for round := range tick.Now(ctx, time.Second) {
			if len(at) != round {
				t.Errorf("round %d after %d rounds", round, len(at))
			}
			at = append(at, time.Since(begun))
		}
		if len(at) != 3 || at[0] != 0 || at[2] != 2*time.Second {
			t.Errorf("rounds at %v, want 0s, 1s, 2s", at)
		}
		for round := range tick.After(t.Context(), time.Second) {
			if round != 1 || time.Since(begun) != 3500*time.Millisecond {
				t.Errorf("round %d after %v, want 1 after 3.5s", round, time.Since(begun))
			}
			break
		}
		for range tick.After(ctx, time.Second) {
			t.Error("a round after ctx has ended")
		}
	})
}
