package breaker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

const (
	classEnough = 20  // first tokens that are looked at before a class can be closed
	classLate   = 0.4 // of them late: burn 2, 4 and 8 of the 20, 10 and 5 % that may be in p3, p2 and p1
	classOut    = 5 * time.Second
	classProbes = 3
)

// errLate is the outcome of a job whose first token came late.
var errLate = errors.New("the first token came late")

// Classes closes a class of a model for a while when 40 % of its first tokens are late, whatever was shed: then
// most of what it computes is in vain. p0 is never closed. While all is well nobody takes a lock to ask.
type Classes struct {
	of map[[2]string]*class
}

type class struct {
	name string
	two  *two
	shut atomic.Bool // not closed

	mu     sync.Mutex
	probes map[priority.Key]func(error)
}

// NewClasses makes closed breakers for the classes of models.
func NewClasses(changed ChangedFunc, models ...string) *Classes {
	c := &Classes{map[[2]string]*class{}}
	for _, model := range models {
		for _, name := range contracts.Classes[1:] {
			k := &class{name: model + " " + string(name), probes: map[priority.Key]func(error){}}
			said := step("class", k.name, changed, fmt.Sprintf("%.0f %% of at least %d first tokens within %v were late", 100*classLate, classEnough, window))
			k.two = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
				Name: k.name, Interval: window, BucketPeriod: bucket, MaxRequests: classProbes,
				Timeout: classOut + rand.N(classOut/5), // so that dispatchers do not probe together
				ReadyToTrip: func(c gobreaker.Counts) bool {
					return c.Requests >= classEnough && float64(c.TotalFailures) >= classLate*float64(c.Requests)
				},
				IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
				OnStateChange: func(name string, from, to gobreaker.State) {
					k.shut.Store(to != gobreaker.StateClosed)
					said(name, from, to)
				},
			})
			c.of[[2]string{model, string(name)}] = k
		}
	}
	return c
}

func (c *Classes) at(model string, class contracts.Class) *class {
	return c.of[[2]string{model, string(class)}]
}

// Allow is an error while the class is out. A job that may pass to see whether it is well again must end with
// First or Gone.
func (c *Classes) Allow(model string, of contracts.Class, job priority.Key) error {
	k := c.at(model, of)
	if k == nil || !k.shut.Load() {
		return nil
	}
	done, err := allow(k.two)
	if err != nil {
		return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: classOut.Milliseconds() + rand.Int64N(classOut.Milliseconds()),
			Message: fmt.Sprintf("jobs of class %s are not taken for a while, most of them came late: retry after the time given", of)}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.probes[job] = done
	time.AfterFunc(ProbeTime, func() { k.take(job) })
	return nil
}

func (k *class) take(job priority.Key) func(error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	done := k.probes[job]
	delete(k.probes, job)
	return done
}

// First says whether the first token of a job came in time.
func (c *Classes) First(model string, of contracts.Class, job priority.Key, met bool) {
	k := c.at(model, of)
	if k == nil {
		return
	}
	var err error
	if !met {
		err = errLate
	}
	if k.shut.Load() {
		if done := k.take(job); done != nil {
			done(err)
		}
		return // what was begun before says nothing of how it is now
	}
	if done, no := k.two.Allow(); no == nil {
		done(err)
	}
}

// Others counts first tokens of which other dispatchers know.
func (c *Classes) Others(model string, of contracts.Class, good, late int64) {
	k := c.at(model, of)
	for i := range min(good+late, 1000) {
		if k == nil || k.shut.Load() {
			return
		}
		if done, no := k.two.Allow(); no == nil {
			if i < late {
				done(errLate)
			} else {
				done(nil)
			}
		}
	}
}

// Gone says that a job has no first token to tell of.
func (c *Classes) Gone(model string, of contracts.Class, job priority.Key) {
	if k := c.at(model, of); k != nil && k.shut.Load() {
		if done := k.take(job); done != nil {
			done(context.Canceled)
		}
	}
}
