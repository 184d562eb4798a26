// Package gate bounds how many calls are inside a dispatcher, and lets a drain wait for them.
//
// It stands at step 3 of the walk, in each door, before dispatcher/admission. It knows nothing of jobs.
package gate

import (
	"sync"

	"github.com/pelton-run/pelton/contracts"
)

// RetryAfterMS is what an overloaded dispatcher tells its callers to wait.
const RetryAfterMS = 1000

// Gate bounds how many calls are inside, and lets a drain wait until all have left. Safe for concurrent
// use.
//
//	shut ──open──▶ open ──shut──▶ shut
type Gate struct {
	what  string
	limit int

	mu     sync.Mutex
	open   bool
	reason string // why it is shut
	inside int
	empty  chan struct{} // made by shutting, closed when the last one left
}

// New returns a shut gate for at most limit calls of what at once.
func New(what string, limit int) *Gate {
	return &Gate{what: what, limit: limit, reason: "the dispatcher has not started yet"}
}

// Open lets calls in.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.empty = true, nil
}

// Enter takes a place; every nil must be followed by Leave.
func (g *Gate) Enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return &contracts.Error{Code: contracts.CodeUnavailable, Message: g.reason + ": retry, or use another one", RetryAfterMS: RetryAfterMS}
	}
	if g.inside >= g.limit {
		return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: RetryAfterMS,
			Message: "the dispatcher takes in as many " + g.what + " at once as it can: retry after a second"}
	}
	g.inside++
	return nil
}

// Leave gives the place back.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
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
