// Package fleet is the dispatcher's live view of the workers, built from their heartbeats.
//
// It belongs to step 4 of the walk: dispatcher/admission asks it what the largest worker can hold, the
// doors ask it who serves a model. Previous step: dispatcher/admission; next: dispatcher/publish.go.
// It also tells which jobs dead workers left behind, and which jobs should give way to urgent ones. It
// only knows what workers say on hb.<worker>, the records that it is shown, and from the broker whether a
// silent one is connected; it says nothing to a worker but that an operator wants it to leave. [Registry], [Book] and [Preemptor] are the pure parts, with time as an argument and no lock;
// [Watch] and [Urgent] are the thin shells around them, safe for concurrent use.
package fleet

import (
	"sort"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// MaxWorkers bounds the workers that a registry remembers; heartbeats of further ones are ignored.
const MaxWorkers = 65_536

// Registry remembers the last heartbeat of each worker. Not safe for concurrent use.
type Registry struct {
	ttl  time.Duration
	seen map[string]sighting
}

type sighting struct {
	heartbeat contracts.Heartbeat
	at        time.Time
	slow      time.Time // when it last came back after it was silent for the TTL
	gone      bool      // the broker says since then that it is not connected
}

const (
	// patience is how many TTLs a worker may be silent that has been slow lately, or when so many fall
	// silent at once that the cause is more likely elsewhere.
	patience = 5
	// slowFor is how many TTLs a worker counts as slow.
	slowFor = 30
	// suspects bounds how many silent workers are asked about at once.
	suspects = 64
)

// NewRegistry returns an empty registry in which a worker that is silent for ttl is gone.
func NewRegistry(ttl time.Duration) *Registry {
	return &Registry{ttl: ttl, seen: map[string]sighting{}}
}

// Observe takes a heartbeat that arrived at now. A worker's last one (state stopped) removes it. A
// heartbeat that was sent before the one already known is ignored, unless the worker started anew.
func (r *Registry) Observe(h contracts.Heartbeat, now time.Time) {
	old, known := r.seen[h.Worker]
	switch {
	case h.Worker == "":
	case known && h.Started == old.heartbeat.Started && h.Sent < old.heartbeat.Sent && now.Sub(old.at) < r.ttl/2: // overtaken; later it is its clock that was set back
	case known && h.Started < old.heartbeat.Started && now.Sub(old.at) < r.ttl:
	case h.State == contracts.WorkerStopped:
		delete(r.seen, h.Worker)
	case !known && len(r.seen) >= MaxWorkers:
	default:
		slow := old.slow
		if known && h.Started == old.heartbeat.Started && now.Sub(old.at) >= r.ttl {
			slow = now
		}
		possible(&h)
		r.seen[h.Worker] = sighting{heartbeat: h, at: now, slow: slow}
	}
}

// Bounds of what is believed of a worker, so that no sum or product over a fleet is more than a number holds.
const (
	maxBytes   = 1 << 48 // of a worker, or a job
	maxToken   = 1 << 30 // bytes of a token
	maxTokens  = 1 << 30 // of a context
	maxSlots   = 1 << 20
	maxRounded = 1 << 20 // tokens of a block
)

// possible brings what a heartbeat says within what can be.
func possible(h *contracts.Heartbeat) {
	bound(&h.ContextLength, maxTokens)
	bound(&h.Slots, maxSlots)
	bound(&h.KV.Block, maxRounded)
	for _, n := range []*int64{&h.KV.Total, &h.KV.Reserved, &h.KV.Used} {
		bound(n, maxBytes)
	}
	bound(&h.KV.PerToken, maxToken)
	for i := range h.Jobs {
		bound(&h.Jobs[i].Slots, maxSlots)
		bound(&h.Jobs[i].KV, maxBytes)
	}
}

func bound[N int | int64](n *N, most N) {
	if *n < 0 || *n > most { // others may read what is all right
		*n = max(0, min(*n, most))
	}
}

// Expire forgets the workers that are dead in any case and returns how many.
func (r *Registry) Expire(now time.Time) int {
	gone := 0
	for name, s := range r.seen {
		if now.Sub(s.at) >= patience*r.ttl {
			delete(r.seen, name)
			gone++
		}
	}
	return gone
}

// Live lists the workers heard of within the TTL, by name.
func (r *Registry) Live(now time.Time) []contracts.Heartbeat {
	var live []contracts.Heartbeat
	for _, s := range r.seen {
		if now.Sub(s.at) < r.ttl {
			live = append(live, s.heartbeat)
		}
	}
	sort.Slice(live, func(i, k int) bool { return live[i].Worker < live[k].Worker })
	return live
}

// Dead tells which workers count as dead: those that nobody heard of, or that were silent for the TTL.
// A worker that was slow lately has five TTLs as long as it is connected; so has one that fell silent
// together with others, more than 30 % of four workers or more. Workers that died one after the other are
// no storm.
func (r *Registry) Dead(now time.Time) func(worker string) bool {
	return func(worker string) bool {
		s, known := r.seen[worker]
		silence := now.Sub(s.at)
		switch {
		case !known || silence >= patience*r.ttl:
			return true
		case silence < r.ttl:
			return false
		}
		return (s.gone || !r.slow(s, now)) && !r.storm(s.at, now)
	}
}

func (r *Registry) slow(s sighting, now time.Time) bool { return now.Sub(s.slow) < slowFor*r.ttl }

// Suspects lists workers, at most as many as suspects, that are silent for the TTL and were slow lately:
// dead if they are not connected.
func (r *Registry) Suspects(now time.Time) []string {
	var names []string
	for name, s := range r.seen {
		if now.Sub(s.at) >= r.ttl && !s.gone && r.slow(s, now) && len(names) < suspects {
			names = append(names, name)
		}
	}
	return names
}

// Gone says that a worker, if it is silent, is not connected to the broker; its next heartbeat says that it is.
func (r *Registry) Gone(worker string, now time.Time) {
	if s, known := r.seen[worker]; known && now.Sub(s.at) >= r.ttl {
		s.gone = true
		r.seen[worker] = s
	}
}

// storm tells whether the worker that was last heard at that time fell silent with so many others that
// the cause is more likely elsewhere.
func (r *Registry) storm(at, now time.Time) bool {
	together, live := 0, 0
	for _, s := range r.seen {
		switch {
		case now.Sub(s.at) < r.ttl:
			live++
		case s.at.Sub(at).Abs() < r.ttl/2:
			together++
		}
	}
	return together > 1 && together+live >= 4 && 10*together > 3*(together+live)
}

// Holds tells whether a live worker said in its last heartbeat that it holds the job.
func (r *Registry) Holds(tenant, job string, now time.Time) bool {
	for _, s := range r.seen {
		if now.Sub(s.at) >= r.ttl {
			continue
		}
		for _, j := range s.heartbeat.Jobs {
			if j.Job == job && j.Tenant == tenant {
				return true
			}
		}
	}
	return false
}

// Offer is what the live workers of one model offer.
type Offer struct {
	Ready         int   // workers that take jobs
	KVBytes       int64 // largest KV cache of one worker
	KVPerToken    int64 // bytes a token takes on that worker
	KVBlock       int   // tokens to whose multiple that worker rounds a sequence's up; 0 is 1
	Slots         int   // most sequences of one worker
	ContextLength int   // longest context of one worker
}

// Offer sums up the workers of a model that take jobs.
func (r *Registry) Offer(model string, now time.Time) Offer {
	var o Offer
	for _, s := range r.seen {
		h := s.heartbeat
		if h.Model != model || h.State != contracts.WorkerReady || now.Sub(s.at) >= r.ttl {
			continue
		}
		o.Ready++
		if h.KV.Total > o.KVBytes {
			o.KVBytes, o.KVPerToken, o.KVBlock = h.KV.Total, h.KV.PerToken, h.KV.Block
		}
		o.Slots = max(o.Slots, h.Slots)
		o.ContextLength = max(o.ContextLength, h.ContextLength)
	}
	return o
}
