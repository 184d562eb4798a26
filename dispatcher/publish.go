package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/fleet"
	"github.com/pelton-run/pelton/dispatcher/gate"
	"github.com/pelton-run/pelton/dispatcher/state"
)

const (
	// headerRoom is what subject and headers of a published job may take of the largest message.
	headerRoom = 4 << 10
	// expiryGrace is how long a queued job outlives its deadline, so that a dispatcher, perhaps after a
	// restart of the whole fleet, ends it with a final record before the broker drops it without a word.
	expiryGrace = 24 * time.Hour
	// maxExpiry is the furthest deadline that the broker is told of.
	maxExpiry = 10 * 365 * 24 * time.Hour
	// publishTries bounds how often a submit follows a job that moves between the streams meanwhile.
	publishTries = 4
)

// enqueue publishes an admitted job and rings the model's bell. attached tells that the same request was
// submitted before under the same id; another request under it is a conflict.
func (d *Dispatcher) enqueue(ctx context.Context, decision *admission.Decision) (attached bool, err error) {
	a := decision.Admitted
	id := subject.Escape(a.Job.Tenant) + "." + subject.Escape(a.Job.ID)
	for try := 0; ; try++ {
		if try > 0 || !decision.Fresh { // somebody may have submitted the id since we looked, or we did and lost the answer
			digest, found, err := d.submitted(ctx, a)
			if err != nil {
				return false, err
			}
			if found {
				return true, sameRequest(digest, a)
			}
		}
		switch {
		case try == publishTries:
			return false, contracts.Errorf(contracts.CodeUnavailable, "job %q is being submitted elsewhere at this moment: retry", a.Job.ID)
		case try > 0:
			// The broker remembers the id, but neither stream has the job any more: it is as good as new, and
			// a submit that is answered with success must run.
			id = fmt.Sprintf("%s.%s.%d", subject.Escape(a.Job.Tenant), subject.Escape(a.Job.ID), time.Now().UnixNano()+int64(try))
		}
		if taken, err := d.offer(ctx, decision, id); err != nil || !taken {
			return false, err
		}
	}
}

// submitted is the digest of what was submitted before under the id of a, past the breaker.
func (d *Dispatcher) submitted(ctx context.Context, a *contracts.Admitted) (digest string, found bool, err error) {
	err = d.guard.Ask(partReads, func() error {
		digest, found, err = d.digest(ctx, a.Job.Tenant, a.Job.ID)
		return err
	})
	return digest, found, err
}

// offer puts a job into JOBS, or into SCHED when it asks for a later time or has to wait for its turn, past the
// breaker of the stream. taken tells that the broker knows the id, or has a job on the subject.
func (d *Dispatcher) offer(ctx context.Context, decision *admission.Decision, id string) (taken bool, err error) {
	part, publish := topology.StreamJobs, d.put
	switch {
	case d.later(decision.Admitted):
		part, publish = topology.StreamSched, d.schedule
	case decision.Hold:
		part, publish = topology.StreamSched, d.hold
	}
	err = d.guard.Ask(part, func() error {
		taken, err = publish(ctx, decision, id)
		return err
	})
	return taken, err
}

// later tells whether a job's time is still to come.
func (d *Dispatcher) later(a *contracts.Admitted) bool {
	return a.Job.NotBefore > d.clock.Now().UnixMilli()
}

// put puts a job into JOBS and rings the model's bell; taken is as offer says it.
func (d *Dispatcher) put(ctx context.Context, decision *admission.Decision, id string) (taken bool, err error) {
	a := decision.Admitted
	d.backlog.Adopt(a, 0, time.Time{}, true) // unless it was counted in before
	msg := nats.NewMsg(subject.Job{Model: a.Job.Model, Class: a.Job.Class, Size: decision.Size, Tenant: a.Job.Tenant, Job: a.Job.ID}.String())
	msg.Data = decision.Data
	setExpiry(msg, a.Job.Deadline)
	d.mayPreempt(decision) // its claim or its end may be heard before the broker's answer
	if _, taken, err = d.publishTwice(ctx, msg, id, decision.Fresh); taken || err != nil {
		d.urgent.Drop(a.Job.Tenant, a.Job.ID)
		return taken, err
	}
	d.deadlines.Add(a.Job.Tenant, a.Job.ID, d.latest(a, d.clock.Broker()))
	if err := d.cfg.Conn.Publish(subject.Bell(a.Job.Model), subject.Ring(a.Job.Class, decision.Size)); err != nil {
		d.log.Warn("bell not rung, the job waits for a sweep", "job", a.Job.ID, "tenant", a.Job.Tenant, "error", err)
	}
	return false, nil
}

// sweeps lets one worker of each model look at all of its queue once a second until ctx ends, in case a ring was
// missed. Each worker on its own would ask as much as they all do now.
func (d *Dispatcher) sweeps(ctx context.Context) {
	for range tick.After(ctx, fleet.SweepEvery) {
		for _, model := range d.catalog.Names() {
			_ = d.cfg.Conn.Publish(subject.Bell(model), subject.Ring("", "")) // the next one will do
		}
	}
}

// setExpiry makes the broker drop a message some time after the job's deadline; 0 is never, and so is one that
// is further away than maxExpiry, which the broker may not be able to count.
func setExpiry(msg *nats.Msg, deadline int64) {
	left := max(time.Until(time.UnixMilli(deadline)), 0)
	if deadline > 0 && left < maxExpiry {
		left += expiryGrace
		msg.Header.Set(jetstream.MsgTTLHeader, fmt.Sprintf("%ds", int64((left+time.Second-1)/time.Second)))
	}
}

// publishTwice repeats a publish whose answer was lost; the message id makes that safe. taken tells that the broker
// knows the id, or has a message on the subject; of a fresh id it is our own, which was stored the first time.
func (d *Dispatcher) publishTwice(ctx context.Context, msg *nats.Msg, id string, fresh bool, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, taken bool, err error) {
	for try := 0; ; try++ {
		once, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
		ack, err = d.js.PublishMsg(once, msg, append(opts, jetstream.WithMsgID(id))...)
		cancel()
		lost := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
		if lost && try == 0 && ctx.Err() == nil {
			continue
		}
		if isTaken(err) || err == nil && ack.Duplicate && !(fresh && try > 0) {
			return nil, true, nil
		}
		return ack, false, publishError(err)
	}
}

// isTaken tells whether the stream refused a second message on the job's subject.
func isTaken(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeWrongLast || strings.Contains(api.Description, "per subject"))
}

func publishError(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api) && strings.Contains(api.Description, "message size"), errors.Is(err, nats.ErrMaxPayload):
		return contracts.Errorf(contracts.CodePayloadTooLarge, "the admitted job is larger than the broker's limit: shorten the prompt")
	case errors.As(err, &api) && (strings.Contains(api.Description, "maximum") || strings.Contains(api.Description, "resource")):
		return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: gate.RetryAfterMS,
			Message: fmt.Sprintf("the queue is full (%s): retry later", api.Description)}
	case errors.Is(err, context.Canceled):
		return err
	}
	return &contracts.Error{Code: contracts.CodeUnavailable, RetryAfterMS: gate.RetryAfterMS,
		Message: fmt.Sprintf("the broker did not take it (%v): retry under the same id", err)}
}

// sameRequest is a conflict unless digest is the one of a's request. Records may have none.
func sameRequest(digest string, a *contracts.Admitted) error {
	if digest == "" || digest == a.Digest {
		return nil
	}
	return &contracts.Error{Code: contracts.CodeConflict, Param: "job",
		Message: fmt.Sprintf("job id %q was used before for another request: choose a new id", a.Job.ID)}
}

// digest is the digest of the request that was submitted under an id, wherever its job is. The streams
// are asked at the same time: the job may move on between the answers, but only from JOBS to OUT, so OUT
// is asked again when neither has it and somebody's message is known to have been there.
func (d *Dispatcher) digest(ctx context.Context, tenant, job string) (digest string, found bool, err error) {
	type answer struct {
		digest string
		found  bool
		err    error
	}
	queue := make(chan answer, 1)
	go func() {
		a, m, err := d.queued(ctx, tenant, job)
		if a != nil {
			queue <- answer{a.Digest, true, err}
			return
		}
		queue <- answer{"", m != nil, err}
	}()
	digest, found, err = d.digestInOut(ctx, tenant, job)
	q := <-queue
	if found && digest != "" || err != nil {
		return digest, found, err
	}
	return q.digest, found || q.found, q.err
}

// digestInOut is the digest of the request that a job's records are of.
func (d *Dispatcher) digestInOut(ctx context.Context, tenant, job string) (digest string, found bool, err error) {
	m, err := d.out.Last(ctx, subject.Out(tenant, job))
	if m == nil || err != nil {
		return "", false, err
	}
	claim, _, err := state.ClaimOf(ctx, d.out, m)
	if claim == nil || err != nil {
		return "", true, err
	}
	return claim.Digest, true, nil
}
