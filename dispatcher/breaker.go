package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pelton-run/pelton/contracts"
)

// Settings of the breaker in front of the broker.
const (
	breakerWindow = 10 * time.Second // failures are counted over so long
	breakerBucket = time.Second
	breakerTrips  = 5 // submits in a row without an answer open it
	breakerOpen   = 2 * time.Second
	breakerProbes = 3 // submits that are let through to see whether the broker is back
)

// newBreaker makes the breaker that every submit passes. While the broker does not answer, a submit
// would wait for its timeouts, and they would pile up; open, it is refused at once with a time to
// retry. A refusal by the broker, a full queue for example, is an answer.
func newBreaker(log *slog.Logger) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "broker", Interval: breakerWindow, BucketPeriod: breakerBucket, Timeout: breakerOpen, MaxRequests: breakerProbes,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerTrips },
		IsSuccessful: func(err error) bool {
			return err == nil || !transient(err) && contracts.CodeOf(err) != contracts.CodeUnavailable
		},
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(name string, from, to gobreaker.State) {
			log.Warn("breaker changed", "breaker", name, "from", from.String(), "to", to.String())
		},
	})
}

// guarded runs f, which asks the broker, unless the breaker is open. f must end by itself: a half-open
// breaker waits for what it let through.
func (d *Dispatcher) guarded(f func() error) error {
	done, err := d.breaker.Allow()
	if err != nil {
		return &contracts.Error{Code: contracts.CodeUnavailable, RetryAfterMS: breakerOpen.Milliseconds(),
			Message: "the broker does not answer: retry under the same id after the time given"}
	}
	settled := false
	defer func() {
		if !settled { // a panic passes by: it says nothing of the broker
			done(context.Canceled)
		}
	}()
	err = f()
	settled = true
	done(err)
	return err
}
