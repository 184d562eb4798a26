// Package gate bounds how many calls are inside a dispatcher, in all and of one tenant, and lets a drain wait
// for them.
//
// It stands at step 3 of the walk, in each door, before dispatcher/admission. It knows nothing of jobs.
package gate

import (
	"sync"

	"github.com/pelton-run/pelton/contracts"
)

// RetryAfterMS is what an overloaded dispatcher tells its callers to wait.
const RetryAfterMS = 1000

const (
	// share is how many times as many places a tenant may have as are left: one alone gets three quarters of
	// them, whoever comes next three quarters of the rest.
	share = 3
	// PlaceBytes is how many bytes one place is for: what a call brings is in memory while it is inside.
	PlaceBytes = 64 << 10
)

// Gate bounds how many calls are inside, and lets a drain wait until all have left. A tenant never has more than
// three times as many places as are left, so that one that asks as much as it can leaves room for others. Safe for
// concurrent use.
//
//	shut ──open──▶ open ──shut──▶ shut
type Gate struct {
	what  string
	limit int

	mu     sync.Mutex
	open   bool
	reason string // why it is shut
	inside int
	of     map[string]int // the places of tenants that have any
	empty  chan struct{}  // made by shutting, closed when the last one left
}

// New returns a shut gate for at most limit calls of what at once.
func New(what string, limit int) *Gate {
	return &Gate{what: what, limit: limit, of: map[string]int{}, reason: "the dispatcher has not started yet"}
}

// Open lets calls in.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.empty = true, nil
}

// Enter takes the places of a call of tenant that brings so many bytes, one at least; every nil must be followed
// by Leave with the same.
func (g *Gate) Enter(tenant string, bytes int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return &contracts.Error{Code: contracts.CodeUnavailable, Message: g.reason + ": retry, or use another one", RetryAfterMS: RetryAfterMS}
	}
	n := g.places(bytes)
	left := g.limit - g.inside - n
	if left < 0 {
		return overloaded("the dispatcher takes in as many " + g.what + " at once as it can: retry after a second")
	}
	if g.of[tenant]+n > share*(left+1) {
		return overloaded("the dispatcher takes in as many " + g.what + " of the tenant at once as leave room for others: retry after a second")
	}
	g.inside += n
	g.of[tenant] += n
	return nil
}

// places is how many a call takes, never more than half of them all.
func (g *Gate) places(bytes int) int { return max(1, min((bytes+PlaceBytes-1)/PlaceBytes, g.limit/2)) }

func overloaded(message string) error {
	return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: RetryAfterMS, Message: message}
}

// Leave gives the places of a call back.
func (g *Gate) Leave(tenant string, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.places(bytes)
	g.inside -= n
	if g.of[tenant] -= n; g.of[tenant] == 0 {
		delete(g.of, tenant)
	}
	if !g.open && g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// Shut lets nobody in any more; the channel is closed when all have left.
func (g *Gate) Shut(reason string) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.reason = false, reason
	if g.empty != nil {
		return g.empty // shut before, and somebody is still inside
	}
	empty := make(chan struct{})
	if g.inside == 0 {
		close(empty)
	} else {
		g.empty = empty
	}
	return empty
}
