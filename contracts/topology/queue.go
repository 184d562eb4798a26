package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// The broker keeps the state of a model's queue as the time until which each of the model's consumers is paused. So it
// is kept once, with what it stops, and outlives dispatchers and the broker. A time that is past stops nothing: that of
// a queue that drains is always the same, any other one is when the queue was opened last.
var (
	pausedUntil  = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	drainedUntil = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
)

const (
	// lookAgain is how long a consumer is left alone that does not have its new state yet.
	lookAgain = 10 * time.Millisecond
	// settleTime is how long a broker may take until all consumers of a model have a new state on all servers. What it
	// does not allow it does not answer.
	settleTime = 10 * time.Second
)

// Queue reads what a consumer of JOBS says of its model's queue: its state, and when it was opened last by the broker's
// clock, the zero time if it never was anything else, or is not open. told is false for a consumer that was never told
// any state.
func Queue(c *jetstream.ConsumerInfo) (state contracts.QueueState, opened time.Time, told bool) {
	until := c.Config.PauseUntil
	switch {
	case until == nil || until.IsZero():
		return contracts.QueueOpen, time.Time{}, false
	case until.Equal(drainedUntil):
		return contracts.QueueDraining, time.Time{}, true
	case c.Paused:
		return contracts.QueuePaused, time.Time{}, true
	}
	return contracts.QueueOpen, *until, true
}

// Depths tells how much waits and runs in every queue of the broker, in no order.
func Depths(ctx context.Context, js jetstream.JetStream) (out []contracts.QueueDepth, err error) {
	s, err := js.Stream(ctx, StreamJobs)
	if err != nil {
		return nil, err
	}
	consumers := s.ListConsumers(ctx)
	for info := range consumers.Info() {
		if model, class, size, err := subject.ParseConsumer(info.Name); err == nil { // else somebody else's
			state, _, _ := Queue(info)
			out = append(out, contracts.QueueDepth{Model: model, Class: class, Size: size, State: state, Pending: int(info.NumPending), Running: info.NumAckPending})
		}
	}
	return out, consumers.Err()
}

// QueueOf is the state of a model's queue, as [Queue] says it: that of the consumer that is told a new state last.
func QueueOf(ctx context.Context, js jetstream.JetStream, model string) (state contracts.QueueState, opened time.Time, told bool, err error) {
	c, err := js.Consumer(ctx, StreamJobs, subject.Consumer(model, contracts.Classes[0], contracts.Sizes[0]))
	if err != nil {
		return "", time.Time{}, false, err
	}
	state, opened, told = Queue(c.CachedInfo())
	return state, opened, told, nil
}

// SetQueue puts a model's queue into a state, and returns when all its consumers say that they are in it. After an error
// some may be: to repeat it is safe.
func SetQueue(ctx context.Context, js jetstream.JetStream, model string, state contracts.QueueState) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	consumers := Config{}.Consumers(model)
	var until time.Time
	switch state {
	case contracts.QueuePaused:
		until = pausedUntil
	case contracts.QueueDraining:
		until = drainedUntil
	default: // now by the broker's clock: to one that is behind ours, our now would be another pause
		c, err := js.Consumer(ctx, StreamJobs, consumers[0].Durable)
		if err != nil {
			return fmt.Errorf("consumer %s: %w", consumers[0].Durable, err)
		}
		until = c.CachedInfo().TimeStamp
	}
	slices.Reverse(consumers) // the one by which the state is known comes last
	for _, c := range consumers {
		if _, err := js.PauseConsumer(ctx, StreamJobs, c.Durable, until); err != nil {
			return fmt.Errorf("consumer %s: %w", c.Durable, err)
		}
	}
	for _, c := range consumers {
		if err := settled(ctx, js, c.Durable, until); err != nil {
			return fmt.Errorf("consumer %s: %w", c.Durable, err)
		}
	}
	return nil
}

// settled waits until a consumer is paused until a time: a cluster answers before its servers have it.
func settled(ctx context.Context, js jetstream.JetStream, name string, until time.Time) error {
	for {
		c, err := js.Consumer(ctx, StreamJobs, name)
		if err != nil {
			return err
		}
		if has := c.CachedInfo().Config.PauseUntil; has != nil && has.Equal(until) {
			return nil
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return fmt.Errorf("it has another state, perhaps by somebody who set one at the same time: %w", ctx.Err())
		}
	}
}

// KeepQueue gives the state of a model's queue to those of its consumers that were made again since it was set.
func KeepQueue(ctx context.Context, js jetstream.JetStream, model string, state contracts.QueueState) error {
	until := map[contracts.QueueState]time.Time{contracts.QueuePaused: pausedUntil, contracts.QueueDraining: drainedUntil}[state]
	if until.IsZero() {
		return nil // a new consumer is open
	}
	var errs []error
	for _, want := range (Config{}).Consumers(model) {
		c, err := js.Consumer(ctx, StreamJobs, want.Durable)
		if err == nil && c.CachedInfo().Config.PauseUntil == nil {
			_, err = js.PauseConsumer(ctx, StreamJobs, want.Durable, until)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
