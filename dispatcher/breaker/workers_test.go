package breaker_test

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/dispatcher/breaker"
)

func TestSickWorkersRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var rested []string
		w := breaker.NewWorkers(slog.New(slog.DiscardHandler), func() int { return 7 }, func(worker string) { rested = append(rested, worker) })
		fail := func(worker string, n int) {
			for range n {
				w.Outcome(worker, true)
			}
		}
		fail("few", 4)
		for range 20 {
			w.Outcome("well", false)
		}
		fail("well", 3)
		if len(rested) != 0 {
			t.Fatalf("%v rest: one failed four times, one with 3 of 23 jobs", rested)
		}
		fail("a", 5)
		fail("a", 50) // what it had begun before
		fail("b", 5)
		if !slices.Equal(rested, []string{"a", "b"}) {
			t.Fatalf("%v rest, want a and b, once", rested)
		}
		fail("c", 5)
		if len(rested) != 2 {
			t.Errorf("%v rest: more than 30 %% of 7 workers", rested)
		}
		time.Sleep(breaker.Rest + time.Second)
		w.Outcome("a", true) // not better
		for range 3 {
			w.Outcome("b", false)
		}
		w.Outcome("b", true)
		if !slices.Equal(rested, []string{"a", "b", "a"}) {
			t.Errorf("%v rest, want a again", rested)
		}
	})
}
