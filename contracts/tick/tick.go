// Package tick is the loop of everything that is looked at again and again.
//
// It stands beside the walk: dispatcher, its parts and the ops programs run their looks with it.
package tick

import (
	"context"
	"iter"
	"time"
)

// Now yields 0 at once, and then 1, 2 and so on each span until ctx ends. Rounds that take longer than span are not
// made up for.
func Now(ctx context.Context, span time.Duration) iter.Seq[int] {
	return func(yield func(int) bool) {
		tick := time.NewTicker(span)
		defer tick.Stop()
		for round := 0; yield(round); round++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// After is Now without the 0: the first round is a span away.
func After(ctx context.Context, span time.Duration) iter.Seq[int] {
	return func(yield func(int) bool) {
		for round := range Now(ctx, span) {
			if round > 0 && !yield(round) {
				return
			}
		}
	}
}
