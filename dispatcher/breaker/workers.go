package breaker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	sickAfter   = 5    // outcomes of a worker that are looked at before it can be called sick
	sickShare   = 0.5  // of them failed
	sickProbes  = 3    // outcomes after a rest that decide whether the worker is well
	slowAfter   = 20   // first tokens of a worker that are looked at before it can be called slow
	slowShare   = 0.05 // of them took longer than slowLimit: its p95 does
	slowLimit   = 1.5  // objectives
	slowFactor  = 2    // and on average it takes so many times as long as the worker in the middle
	slowGain    = 0.1  // weight of the newest first token in that average
	mostResting = 0.3  // of the live workers: when more fail, they are not what is sick
	maxWorkers  = 4096 // that are remembered
	// Rest is how long a sick or slow worker takes no jobs.
	Rest = 10 * time.Second
)

var (
	errFault = errors.New("the worker failed")
	errSlow  = errors.New("the worker was slow")
)

// Workers takes sick and slow workers out of the fleet for a while: those that fail with half of what they run,
// and those whose first tokens come 1.5 objectives after they took the job, 5 % of them or more, while others
// take half the time. How long a job waited before is no worker's fault and does not count. When more than 30 %
// of a fleet would be out, it is overload that makes them slow, or something that they share, and no more are.
//
// Every dispatcher hears every outcome, so all of them come to the same state without a word between them.
// The outcomes themselves are the probes, reported as they come, so a half-open breaker never waits.
type Workers struct {
	changed ChangedFunc
	live    func() int
	rest    func(worker string)

	mu      sync.Mutex
	of      map[string]*health
	resting map[string]time.Time // until when
}

// health is one worker's.
type health struct {
	model        string
	mean         float64 // seconds from taking a job to its first token
	faults, slow *two
}

// NewWorkers returns one that knows of no outcome. live is how many workers there are, rest tells one to
// take no jobs for the time of [Rest].
func NewWorkers(changed ChangedFunc, live func() int, rest func(worker string)) *Workers {
	return &Workers{changed: changed, live: live, rest: rest, of: map[string]*health{}, resting: map[string]time.Time{}}
}

// Outcome says how a worker did with a job: fault tells that it failed by its own doing.
func (w *Workers) Outcome(worker string, fault bool) {
	if worker == "" {
		return
	}
	w.mu.Lock()
	b := w.health(worker).faults
	w.mu.Unlock()
	tell(b, fault, errFault)
}

// First says how long after it took a job a worker of a model had its first token, which is wanted within want.
func (w *Workers) First(worker, model string, took, want time.Duration) {
	if worker == "" || want <= 0 {
		return
	}
	w.mu.Lock()
	h := w.health(worker)
	h.model = model
	if h.mean == 0 {
		h.mean = took.Seconds()
	}
	h.mean += slowGain * (took.Seconds() - h.mean)
	b := h.slow
	w.mu.Unlock()
	tell(b, took.Seconds() > slowLimit*want.Seconds(), errSlow)
}

func tell(b *two, bad bool, err error) {
	done, no := b.Allow()
	if no != nil {
		return // it rests: what it still does was begun before
	}
	if bad {
		done(err)
	} else {
		done(nil)
	}
}

// health is a worker's; the lock is held.
func (w *Workers) health(worker string) *health {
	if h := w.of[worker]; h != nil {
		return h
	}
	if len(w.of) >= maxWorkers {
		clear(w.of)
	}
	h := &health{}
	h.faults = w.breaker(worker, fmt.Sprintf("%.0f %% of at least %d jobs within %v failed there", 100*sickShare, sickAfter, window),
		func(c gobreaker.Counts) bool {
			return c.Requests >= sickAfter && float64(c.TotalFailures) >= sickShare*float64(c.Requests)
		})
	h.slow = w.breaker(worker, fmt.Sprintf("the p95 of at least %d first tokens within %v is above %g objectives, and others are %d times as fast", slowAfter, window, slowLimit, slowFactor),
		func(c gobreaker.Counts) bool {
			return c.Requests >= slowAfter && float64(c.TotalFailures) > slowShare*float64(c.Requests) && w.straggles(worker)
		})
	w.of[worker] = h
	return h
}

func (w *Workers) breaker(worker, why string, trip func(gobreaker.Counts) bool) *two {
	said := step("worker", worker, w.changed, why)
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: worker, Interval: window, BucketPeriod: bucket, Timeout: Rest, MaxRequests: sickProbes, ReadyToTrip: trip,
		OnStateChange: func(name string, from, to gobreaker.State) {
			said(name, from, to)
			if to == gobreaker.StateOpen {
				w.takeOut(worker)
			}
		},
	})
}

// straggles tells whether a worker is much slower than the one in the middle of its model's.
func (w *Workers) straggles(worker string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := w.of[worker]
	if own == nil {
		return false
	}
	var means []float64
	for _, h := range w.of {
		if h.model == own.model && h.mean > 0 {
			means = append(means, h.mean)
		}
	}
	slices.Sort(means)
	return len(means) > 1 && own.mean > slowFactor*means[(len(means)-1)/2]
}

// takeOut tells a worker to rest, unless too many do. It runs under the lock of the worker's breaker.
func (w *Workers) takeOut(worker string) {
	now := time.Now()
	w.mu.Lock()
	for name, until := range w.resting {
		if now.After(until) {
			delete(w.resting, name)
		}
	}
	some := float64(len(w.resting)+1) <= mostResting*float64(w.live())
	if some {
		w.resting[worker] = now.Add(Rest)
	}
	w.mu.Unlock()
	if !some {
		w.changed(Change{"worker", worker, "open", "ignored", "more than 30 % of the fleet would rest: it is overload, or something that they share"})
		return
	}
	w.rest(worker)
}
