package dispatcher

import (
	"sync"

	"github.com/pelton-run/pelton/contracts"
)

// retryAfterMS is what an overloaded dispatcher tells its callers to wait.
const retryAfterMS = 1000

// gate bounds how many calls are inside, and lets a drain wait until all have left.
//
//	shut ──open──▶ open ──shut──▶ shut
type gate struct {
	what  string
	limit int

	mu     sync.Mutex
	open   bool
	reason string // why it is shut
	inside int
	empty  chan struct{} // made by shutting, closed when the last one left
}

func newGate(what string, limit int) *gate {
	return &gate{what: what, limit: limit, reason: "the dispatcher has not started yet"}
}

func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.empty = true, nil
}

// enter takes a place; every nil must be followed by leave.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return &contracts.Error{Code: contracts.CodeUnavailable, Message: g.reason + ": retry, or use another one", RetryAfterMS: retryAfterMS}
	}
	if g.inside >= g.limit {
		return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: retryAfterMS,
			Message: "the dispatcher takes in as many " + g.what + " at once as it can: retry after a second"}
	}
	g.inside++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if !g.open && g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// shut lets nobody in any more; the channel is closed when all have left.
func (g *gate) shut(reason string) <-chan struct{} {
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
