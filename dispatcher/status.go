package dispatcher

import (
	"context"
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/state"
)

// Status says where a job is, from the streams alone, so that every dispatcher knows it, also after a
// restart. CodeNotFound: the id was never accepted, or its records are past their retention.
func (d *Dispatcher) Status(ctx context.Context, tenant, job string) (contracts.Status, error) {
	s, err := d.status(ctx, tenant, job)
	return s, d.shown("status", tenant, job, err)
}

// where is Status, for a producer.
func (d *Dispatcher) where(ctx context.Context, tenant, job string) (s contracts.Status, err error) {
	err = d.look(ctx, func() (err error) { s, err = d.Status(ctx, tenant, job); return err })
	return s, err
}

func (d *Dispatcher) status(ctx context.Context, tenant, job string) (s contracts.Status, err error) {
	for range 2 { // a job that moves from the queue to its end between the two looks is found the second time
		last, err := d.out.Last(ctx, subject.Out(tenant, job))
		if err != nil {
			return s, err
		}
		if last != nil {
			claim, record, err := state.ClaimOf(ctx, d.out, last)
			return contracts.StatusOf(tenant, job, claim, record), err
		}
		a, m, err := d.queued(ctx, tenant, job)
		if err != nil {
			return s, err
		}
		if m != nil {
			return state.Queued(m, a)
		}
	}
	return s, unknownJob(tenant, job)
}

// List tells the jobs that f lets through, newest first: see [state.Lists]. For one job in particular ask
// Status.
func (d *Dispatcher) List(ctx context.Context, f contracts.Filter) ([]contracts.Status, error) {
	list, err := d.lists.List(ctx, f)
	return list, d.shown("list", f.Tenant, "", err)
}

// shown is err as a caller may see it; what that hides is logged. No error is none.
func (d *Dispatcher) shown(what, tenant, job string, err error) error {
	if err == nil {
		return nil
	}
	e := contracts.AsError(err)
	if e.Code == contracts.CodeInternal {
		d.log.Error(what+" failed", "tenant", tenant, "job", job, "error", err)
	}
	return e
}

func unknownJob(tenant, job string) error {
	return contracts.Errorf(contracts.CodeNotFound, "job %q of tenant %q is not known: it was never accepted, or it ended too long ago", job, tenant)
}

// queued is the message of a job that waits for its time, waits in the queue or is held by a worker, nil
// when there is none. SCHED is asked first: a job only moves from there to JOBS, so none is missed.
// The admitted job is nil when the message is damaged: then the worker that gets it ends it.
func (d *Dispatcher) queued(ctx context.Context, tenant, job string) (*contracts.Admitted, *relay.Message, error) {
	m, err := d.scheduled(ctx, tenant, job)
	if err == nil && (m == nil || strings.HasPrefix(m.Subject, "hold.")) {
		var in *relay.Message // a held job is in both for a moment, when it is let in
		if in, err = d.jobs.Last(ctx, subject.AnyJob(tenant, job)); in != nil {
			m = in
		}
	}
	if m == nil || err != nil {
		return nil, nil, err
	}
	var a contracts.Admitted
	if contracts.Decode(m.Data, &a) != nil {
		return nil, m, nil
	}
	return &a, m, nil
}
