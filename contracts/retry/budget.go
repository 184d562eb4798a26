// Package retry bounds how many requests are repeats, so that an overload is not made of them.
//
// It stands beside step 2 of the walk: contracts/client asks a [Budget] before it submits a refused job again,
// and a dispatcher keeps one for each tenant to tell clients that overdo it not to come back. Pure: no clock.
package retry

import "sync"

const (
	// Share of requests that may be repeats.
	Share = 0.1
	// Burst is how many repeats may come without requests before them.
	Burst = 10
)

// Label is the label of a job that says how often it was refused before, as a number.
const Label = "retries"

// Budget is a bucket of repeats: each first request adds [Share], each repeat takes one. Safe for concurrent use.
type Budget struct {
	mu   sync.Mutex
	left float64
}

// NewBudget returns a full one.
func NewBudget() *Budget { return &Budget{left: Burst} }

// First counts a request that is no repeat.
func (b *Budget) First() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(Burst, b.left+Share)
}

// Take tells whether one more repeat is within the budget, and counts it.
func (b *Budget) Take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
