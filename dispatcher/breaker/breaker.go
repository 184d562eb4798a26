// Package breaker stands between submits and a broker that does not answer.
//
// It belongs to step 5 of the walk: every submit passes it on its way to the streams. Previous step:
// dispatcher/admission; next: dispatcher/publish.go. It decides nothing about a job, only whether it is
// worth asking the broker now.
package breaker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pelton-run/pelton/contracts"
)

const (
	window = 10 * time.Second // failures are counted over so long
	bucket = time.Second
	trips  = 5 // submits in a row without an answer open it
	open   = 2 * time.Second
	probes = 3 // submits that are let through to see whether the broker is back
)

// Breaker lets submits through while the broker answers. While it does not, a submit would wait for its
// timeouts, and they would pile up; open, it is refused at once with a time to retry. Safe from any
// goroutine.
type Breaker struct {
	two *gobreaker.TwoStepCircuitBreaker[struct{}]
}

// New makes a closed breaker. away tells errors that mean that the broker did not answer; its refusal,
// of a full queue for example, is an answer.
func New(log *slog.Logger, away func(error) bool) *Breaker {
	return &Breaker{gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "broker", Interval: window, BucketPeriod: bucket, Timeout: open, MaxRequests: probes,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= trips },
		IsSuccessful: func(err error) bool { return err == nil || !away(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(name string, from, to gobreaker.State) {
			log.Warn("breaker changed", "breaker", name, "from", from.String(), "to", to.String())
		},
	})}
}

// Do runs f, which asks the broker, unless the breaker is open; then the error is unavailable. f must
// end by itself: a half-open breaker waits for what it let through.
func (b *Breaker) Do(f func() error) error {
	done, err := b.two.Allow()
	if err != nil {
		return &contracts.Error{Code: contracts.CodeUnavailable, RetryAfterMS: open.Milliseconds(),
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
