// Package breaker takes out what does not work: a part of the broker that does not answer, a worker that fails
// or is slow, a class of a model whose first tokens come late whatever is shed.
//
// It belongs to steps 4 and 5 of the walk, behind dispatcher/ladder, which sheds by degrees where a breaker
// knows only all or nothing. Previous step: dispatcher/ladder and dispatcher/admission; next:
// dispatcher/publish.go. The breakers are gobreaker's, two-step:
//
//	closed ──────────too many failures─────────▶ open ──a while──▶ half-open ──probes went well──▶ closed
//	                                              ▲────────────a failure────────┘
//
// Of workers and classes the failures in rolling buckets of a second count. An outcome is known at the first
// token, not at the end of a stream, so none is older than the window. Of the broker those in a row count, however
// long each took: one whose disk is full is silent until the timeouts end. A probe that never says how it went is
// given up after [ProbeTime], and counts as a failure: a half-open breaker cannot wait for ever. All types are safe
// from any goroutine.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pelton-run/pelton/contracts"
)

const (
	window = 10 * time.Second // failures are counted over so long
	bucket = time.Second
	trips  = 5 // requests in a row without an answer open the breaker of a part of the broker
	open   = 2 * time.Second
	probes = 3 // requests that are let through to see whether the broker is back
	// ProbeTime is how long a half-open breaker waits for the outcome of what it let through.
	ProbeTime = 30 * time.Second
)

// errSilent is the outcome of a probe that never told one.
var errSilent = errors.New("a probe told nothing in time")

// Change is one step of one breaker.
type Change struct {
	Kind     string // broker, worker or class
	Of       string // which one
	From, To string // closed, open or half-open
	Reason   string
}

// ChangedFunc hears of every change. It runs under the lock of the breaker and must not ask it anything.
type ChangedFunc func(Change)

// step makes a gobreaker's settings report its changes; opened says why it opens.
func step(kind, of string, changed ChangedFunc, opened string) func(string, gobreaker.State, gobreaker.State) {
	return func(_ string, from, to gobreaker.State) {
		reason := opened
		switch {
		case to == gobreaker.StateHalfOpen:
			reason = "it was out long enough to be tried"
		case to == gobreaker.StateClosed:
			reason = "the probes went well"
		case from == gobreaker.StateHalfOpen:
			reason = "a probe failed"
		}
		changed(Change{kind, of, from.String(), to.String(), reason})
	}
}

type two = gobreaker.TwoStepCircuitBreaker[struct{}]

// allow is Allow whose done may come late or never while the breaker is half-open.
func allow(b *two) (done func(error), err error) {
	inner, err := b.Allow()
	if err != nil {
		return nil, err
	}
	if b.State() != gobreaker.StateHalfOpen {
		return inner, nil
	}
	var once sync.Once
	late := time.AfterFunc(ProbeTime, func() { once.Do(func() { inner(errSilent) }) })
	return func(err error) {
		late.Stop()
		once.Do(func() { inner(err) })
	}, nil
}

// Broker is a breaker for each part of the broker that a submit depends on. While a part does not answer, a
// submit would wait for its timeouts, and they would pile up; open, it is refused at once with a time to retry.
type Broker struct{ of map[string]*two }

// NewBroker makes closed breakers. away tells errors that mean that the broker did not answer; its refusal, of
// a full queue for example, is an answer.
func NewBroker(changed ChangedFunc, away func(error) bool, parts ...string) *Broker {
	b := &Broker{map[string]*two{}}
	for _, part := range parts {
		b.of[part] = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: part, Timeout: open, MaxRequests: probes,
			ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= trips },
			IsSuccessful:  func(err error) bool { return err == nil || !errors.Is(err, errSilent) && !away(err) },
			IsExcluded:    func(err error) bool { return errors.Is(err, context.Canceled) },
			OnStateChange: step("broker", part, changed, fmt.Sprintf("%d requests in a row got no answer", trips)),
		})
	}
	return b
}

// Closed tells whether nothing is known against a part of the broker.
func (b *Broker) Closed(part string) bool { return b.of[part].State() == gobreaker.StateClosed }

// Out tells whether a part of the broker does not answer: requests to it are refused without a try, or they are
// tried and none has been answered yet. It is false again when it is time for a try and nobody makes one.
func (b *Broker) Out(part string) bool {
	switch of := b.of[part]; of.State() {
	case gobreaker.StateOpen:
		return true
	case gobreaker.StateHalfOpen:
		return of.Counts().Requests > 0
	default:
		return false
	}
}

// Refusal is the error of what a part of the broker is not asked.
func Refusal(part string) error {
	return &contracts.Error{Code: contracts.CodeUnavailable, RetryAfterMS: open.Milliseconds(),
		Message: fmt.Sprintf("the broker does not answer (%s): retry under the same id after the time given", part)}
}

// Do runs f, which asks a part of the broker, unless its breaker is open; then the error is unavailable.
func (b *Broker) Do(part string, f func() error) error {
	done, err := allow(b.of[part])
	if err != nil {
		return Refusal(part)
	}
	outcome := context.Canceled // a panic passes by: it says nothing of the broker
	defer func() { done(outcome) }()
	err = f()
	outcome = err
	return err
}
