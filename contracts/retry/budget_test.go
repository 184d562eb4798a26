package retry_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts/retry"
)

// Whatever comes in whatever order: repeats are at most a tenth of the requests and a burst.
func TestBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := retry.NewBudget()
		first, again := 0, 0
		for range rapid.IntRange(0, 500).Draw(t, "requests") {
			if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
				b.First()
				first++
			} else if b.Take() {
				again++
			}
			if float64(again) > retry.Share*float64(first)+retry.Burst {
				t.Fatalf("%d repeats of %d requests", again, first)
			}
		}
		for range 110 {
			b.First()
		}
		for n := range retry.Burst {
			if !b.Take() {
				t.Fatalf("repeat %d is refused after 110 requests", n)
			}
		}
	})
}
