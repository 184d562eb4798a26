package dispatcher

import (
	"context"
	"errors"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/state"
)

const (
	// cancelAgain is how often a cancel is repeated to the workers until the job ended: its holder may
	// have just changed.
	cancelAgain = 500 * time.Millisecond
	// maxLooks is how many cancels and questions ask the broker at once.
	maxLooks = 16
	// cancelPatience is how long a cancel waits for a job that no live worker says it holds, before it
	// ends the job itself: six heartbeats.
	cancelPatience = 3 * time.Second
)

// Cancel ends a job and returns its status after its slot is free: a queued job never starts, a running
// one stops at its next step, one that ended stays as it is. CodeNotFound: there is no such job. When
// ctx ends first the job may still end; asking again is safe.
func (d *Dispatcher) Cancel(ctx context.Context, tenant, job string) (contracts.Status, error) {
	if err := d.cancels.Enter(tenant, 0); err != nil {
		return contracts.Status{}, contracts.AsError(err)
	}
	defer d.cancels.Leave(tenant, 0)
	return d.cancel(ctx, tenant, job)
}

func (d *Dispatcher) cancel(ctx context.Context, tenant, job string) (s contracts.Status, err error) {
	asked := time.Now()
	defer func() {
		if err != nil {
			err = cancelError(ctx, job, err)
		}
	}()
	defer d.rescue(tenant, job, &err)
	var reader *relay.Reader
	for {
		var outcome settlement
		err := d.look(ctx, func() (err error) {
			outcome, err = d.settle(ctx, tenant, job, ending{contracts.FinishCancelled, contracts.CodeCanceled, "canceled before a worker finished it"},
				func(r state.Records) bool { return d.orphaned(tenant, job, r, asked) })
			return err
		})
		switch {
		case err != nil:
			return s, err
		case outcome == isGone:
			return s, unknownJob(tenant, job)
		case outcome == isHeld:
			if reader == nil { // it looks again at once: the job may have ended before it listens
				if reader, err = d.relay.Open(ctx, tenant, job, true); err != nil {
					return s, err
				}
				defer reader.Close()
			}
			if err := d.tellAndWait(ctx, tenant, job, reader); err != nil {
				return s, err
			}
			continue
		}
		s, err = d.Status(ctx, tenant, job)
		if err == nil {
			d.trace.Canceled(s, time.Since(asked))
		}
		return s, err
	}
}

// look lets f ask the broker for a producer when not many others do: hundreds at once would hold up everybody
// who uses the connection.
func (d *Dispatcher) look(ctx context.Context, f func() error) error {
	wait, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	select {
	case d.looks <- struct{}{}:
		defer func() { <-d.looks }()
		return f()
	case <-wait.Done():
		return contracts.Errorf(contracts.CodeOverloaded, "too many others ask about jobs: retry later")
	}
}

// orphaned tells whether a claimed job has no live holder: its worker is dead, or for a while no worker
// says that it holds the job (it was handed back and nobody took it yet).
func (d *Dispatcher) orphaned(tenant, job string, r state.Records, since time.Time) bool {
	if r.Claim != nil && d.fleet.Dead(r.Claim.Worker) {
		return true
	}
	return time.Since(since) > cancelPatience && time.Since(r.Last.Time) > cancelPatience && !d.fleet.Holds(tenant, job)
}

// tellAndWait tells the workers to end the job and waits until it ended, or until it is time to repeat.
func (d *Dispatcher) tellAndWait(ctx context.Context, tenant, job string, reader *relay.Reader) error {
	if err := d.cfg.Conn.Publish(subject.CtlCancel(tenant, job), nil); err != nil {
		return contracts.Errorf(contracts.CodeUnavailable, "the broker did not take the cancel (%v): retry", err)
	}
	return reader.AwaitFinal(ctx, cancelAgain)
}

func cancelError(ctx context.Context, job string, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return contracts.Errorf(contracts.CodeUnavailable, "the worker of job %q did not end it in time: ask again", job)
	}
	return contracts.AsError(err)
}
