package breaker

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	sickAfter   = 5    // outcomes of a worker that are looked at before it can be called sick
	sickShare   = 0.5  // of them failed
	sickProbes  = 3    // outcomes after a rest that decide whether the worker is well
	mostResting = 0.3  // of the live workers: when more fail, they are not what is sick
	maxWorkers  = 4096 // that are remembered
	// Rest is how long a sick worker takes no jobs.
	Rest = 10 * time.Second
)

// errFault is the outcome of a job that its worker failed with.
var errFault = errors.New("the worker failed")

// Workers takes sick workers out of the fleet for a while: those that fail with half of what they run.
// Every dispatcher hears every outcome, so all of them come to the same state without a word between
// them. Safe from any goroutine.
//
//	closed ──half of 5 or more within 10 s failed──▶ open (the worker rests) ──Rest──▶ half-open
//	   ▲──────────────3 good outcomes───────────────────────────────────────────────────┘ │
//	                                 open ◀──────────────a fault──────────────────────────┘
//
// The outcomes themselves are the probes, reported as they come, so a half-open breaker never waits.
type Workers struct {
	log  *slog.Logger
	live func() int
	rest func(worker string)

	mu      sync.Mutex
	of      map[string]*gobreaker.TwoStepCircuitBreaker[struct{}]
	resting map[string]time.Time // until when
}

// NewWorkers returns one that knows of no outcome. live is how many workers there are, rest tells one to
// take no jobs for the time of [Rest].
func NewWorkers(log *slog.Logger, live func() int, rest func(worker string)) *Workers {
	return &Workers{log: log, live: live, rest: rest, of: map[string]*gobreaker.TwoStepCircuitBreaker[struct{}]{}, resting: map[string]time.Time{}}
}

// Outcome says how a worker did with a job: fault tells that it failed by its own doing.
func (w *Workers) Outcome(worker string, fault bool) {
	if worker == "" {
		return
	}
	done, err := w.breaker(worker).Allow()
	if err != nil {
		return // it rests: what it still does was begun before
	}
	if fault {
		done(errFault)
	} else {
		done(nil)
	}
}

func (w *Workers) breaker(worker string) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.of[worker]
	if b != nil {
		return b
	}
	if len(w.of) >= maxWorkers {
		clear(w.of)
	}
	b = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: worker, Interval: window, BucketPeriod: bucket, Timeout: Rest, MaxRequests: sickProbes,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.Requests >= sickAfter && float64(c.TotalFailures) >= sickShare*float64(c.Requests)
		},
		OnStateChange: w.changed,
	})
	w.of[worker] = b
	return b
}

// changed runs under the lock of the worker's breaker.
func (w *Workers) changed(worker string, from, to gobreaker.State) {
	w.log.Warn("breaker changed", "breaker", "worker", "worker", worker, "from", from.String(), "to", to.String())
	if to != gobreaker.StateOpen {
		return
	}
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
		w.log.Warn("too many workers fail: none is taken out", "worker", worker)
		return
	}
	w.rest(worker)
}
