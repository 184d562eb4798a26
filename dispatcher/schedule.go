package dispatcher

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/state"
)

const (
	// dueAtOnce is how many due jobs a dispatcher asks for ahead.
	dueAtOnce = 64
	// dueEarly is how much before its time a job leaves the broker, whose timer fires at most every 250 ms;
	// a delayed negative acknowledgement, which is exact to a millisecond or two, keeps it for the rest.
	dueEarly = 300 * time.Millisecond
	// dueAgain is when a due job is tried again at the latest.
	dueAgain = time.Second
)

// schedule stores a job until its time. The broker then moves it from sched.… to due.…; the header is
// written by hand because nats.go's cuts the time to whole seconds. taken is as offer says it.
func (d *Dispatcher) schedule(ctx context.Context, decision *admission.Decision, id string) (taken bool, err error) {
	j := decision.Admitted.Job
	if err := d.room.Take(ctx, j.Tenant, len(decision.Data)+headerRoom); err != nil {
		return false, err
	}
	msg := nats.NewMsg(subject.Sched(j.Tenant, j.ID))
	msg.Data = decision.Data
	msg.Header.Set("Nats-Schedule", "@at "+time.UnixMilli(j.NotBefore).Add(-dueEarly).UTC().Format(time.RFC3339Nano))
	msg.Header.Set("Nats-Schedule-Target", subject.Due(j.Tenant, j.ID))
	_, taken, err = d.publishTwice(ctx, msg, id, decision.Fresh, jetstream.WithExpectLastSequencePerSubject(0)) // a second schedule would replace the first
	return taken, err
}

// scheduled is the message of a job that waits for its time, or whose time has just come; nil when there
// is none.
func (d *Dispatcher) scheduled(ctx context.Context, tenant, job string) (*relay.Message, error) {
	return d.sched.Last(ctx, subject.AnySched(tenant, job))
}

// serveDue puts jobs into the queue whose time has come, until ctx ends. All dispatchers share the work.
func (d *Dispatcher) serveDue(ctx context.Context) {
	for ctx.Err() == nil {
		if err := d.consumeDue(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("due jobs not served, trying again", "error", err)
		}
		select {
		case <-time.After(dueAgain):
		case <-ctx.Done():
		}
	}
}

// consumeDue returns when ctx ends, or when the consumer is gone.
func (d *Dispatcher) consumeDue(ctx context.Context) error {
	c, err := d.js.Consumer(ctx, topology.StreamSched, topology.ConsumerDue)
	if err != nil {
		return err
	}
	jobs, err := c.Consume(func(m jetstream.Msg) { d.onDue(ctx, m) }, jetstream.PullMaxMessages(dueAtOnce),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { d.log.Debug("due jobs", "error", err) }))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, jobs.Drain)
	defer stop()
	<-jobs.Closed()
	return nil
}

// onDue puts one job into the queue and then takes it out of SCHED. A crash between the two repeats the
// publish under the same message id.
func (d *Dispatcher) onDue(ctx context.Context, m jetstream.Msg) {
	wait, err := d.release(ctx, m)
	switch {
	case ctx.Err() != nil:
		err = m.Nak() // another dispatcher goes on at once
	case err != nil:
		d.log.Warn("due job not queued, trying again", "subject", m.Subject(), "error", err)
		err = m.NakWithDelay(dueAgain)
	case wait > 0:
		err = m.NakWithDelay(min(wait, dueAgain)) // longer by our clock only, which may be set meanwhile
	default:
		err = m.Ack()
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("due job not acknowledged", "subject", m.Subject(), "error", err)
	}
}

// release queues a due job, or ends it when it can no longer run, or says how long to wait for its time.
func (d *Dispatcher) release(ctx context.Context, m jetstream.Msg) (wait time.Duration, err error) {
	tenant, job, err := subject.ParseJobRef("due", m.Subject())
	if err != nil {
		d.log.Error("due message dropped", "subject", m.Subject(), "error", err)
		return 0, nil
	}
	defer d.rescue(tenant, job, &err)
	last, err := d.out.Last(ctx, subject.Out(tenant, job))
	if err != nil || state.Ended(last) {
		return 0, err
	}
	a := new(contracts.Admitted)
	switch err := contracts.Decode(m.Data(), a); {
	case contracts.CodeOf(err) == contracts.CodeUnimplemented:
		return 0, err // of a later version: a dispatcher that can read it gets it in turn
	case err != nil:
		return 0, d.endDue(ctx, tenant, job, ending{contracts.FinishError, contracts.CodeInternal, "the scheduled job is damaged"})
	}
	// One that has begun was queued before, and our acknowledgement was lost: then the queue knows it. Or it comes
	// from a backup, in which the records are younger than the queue.
	if last == nil {
		if wait := time.UnixMilli(a.Job.NotBefore).Sub(d.clock.Now()); wait > 0 {
			return wait, nil
		}
		if _, err := d.catalog.Find(a.Job.Model); err != nil {
			e := contracts.AsError(err)
			return 0, d.endDue(ctx, tenant, job, ending{contracts.FinishError, e.Code, e.Message})
		}
		if a.Job.Deadline > 0 && a.Job.Deadline <= d.clock.Now().UnixMilli() {
			return 0, d.endDue(ctx, tenant, job, ending{contracts.FinishError, contracts.CodeDeadlineExceeded, "the deadline passed before the scheduled job could be queued"})
		}
	}
	meta, err := m.Metadata()
	if err != nil {
		return 0, err
	}
	id := fmt.Sprintf("%s.%s.due.%d", subject.Escape(tenant), subject.Escape(job), meta.Sequence.Stream)
	_, err = d.put(ctx, &admission.Decision{Admitted: a, Size: contracts.SizeFor(a.KVTokens), Data: m.Data()}, id)
	return 0, err
}

// endDue ends a scheduled job that no worker has. One that a worker has, for it was queued before, is looked at again.
func (d *Dispatcher) endDue(ctx context.Context, tenant, job string, e ending) error {
	s, err := d.settle(ctx, tenant, job, e, func(r state.Records) bool { return d.orphaned(tenant, job, r, r.Last.Time) })
	if err == nil && s == isHeld {
		return errRaced
	}
	return err
}
