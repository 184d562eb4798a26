package dispatcher

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/state"
	"github.com/pelton-run/pelton/dispatcher/turn"
)

// hold stores an admitted job until its turn; taken is as offer says it.
func (d *Dispatcher) hold(ctx context.Context, decision *admission.Decision, id string) (taken bool, err error) {
	j := decision.Admitted.Job
	if err := d.room.Take(ctx, j.Tenant, len(decision.Data)+headerRoom); err != nil {
		return false, err
	}
	msg := nats.NewMsg(subject.Held(j.Tenant, j.ID))
	msg.Data = decision.Data
	setExpiry(msg, j.Deadline)
	ack, taken, err := d.publishTwice(ctx, msg, id+".hold", decision.Fresh, jetstream.WithExpectLastSequencePerSubject(0))
	if taken || err != nil {
		return taken, err
	}
	d.deadlines.Add(j.Tenant, j.ID, j.Deadline)
	d.backlog.Stored(priority.Key{Tenant: j.Tenant, Job: j.ID}, ack.Sequence)
	d.turns.Next()
	return false, nil
}

// newTurns is what lets held jobs in.
func (d *Dispatcher) newTurns() *turn.Turns {
	return turn.New(turn.Config{
		Backlog: d.backlog, Sched: d.sched, Jobs: d.jobs, Out: d.out, Logger: d.log, Name: d.name, Remove: d.remove, Deadline: d.deadlines.Add,
		Put: func(ctx context.Context, a *contracts.Admitted, data []byte, id string) error {
			_, err := d.put(ctx, &admission.Decision{Admitted: a, Size: contracts.SizeFor(a.KVTokens), Data: data}, id)
			return err
		},
		Evict: func(ctx context.Context, tenant, job string) error {
			s, err := d.settle(ctx, tenant, job, ending{contracts.FinishError, contracts.CodeOverloaded, "the fleet is overloaded: the first token could not come within its objective any more; submit the job again under a new id"},
				func(state.Records) bool { return false })
			if err == nil && s == isHeld {
				return turn.ErrBegun
			}
			return err
		},
		Damaged: func(ctx context.Context, tenant, job string) error {
			return d.endDue(ctx, tenant, job, ending{contracts.FinishError, contracts.CodeInternal, "the held job is damaged"})
		},
		Final: d.onRecord,
		Say:   func(share []byte) error { return d.cfg.Conn.Publish(subject.SLOLoad(d.name), share) },
		Age:   func(stored time.Time) time.Duration { return d.clock.Broker().Sub(stored) },
		Keep:  func(ctx context.Context, day []byte) error { return d.write(ctx, subject.Day(d.name), day) },
	})
}

// onShare takes what another dispatcher has waiting.
func (d *Dispatcher) onShare(m *nats.Msg) {
	if name := strings.TrimPrefix(m.Subject, "slo.load."); name != d.name {
		d.turns.Hear(name, m.Data)
	}
}
