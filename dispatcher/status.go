package dispatcher

import (
	"context"
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

// Status says where a job is, from the streams alone, so that every dispatcher knows it, also after a
// restart. CodeNotFound: the id was never accepted, or its records are past their retention.
func (d *Dispatcher) Status(ctx context.Context, tenant, job string) (contracts.Status, error) {
	s, err := d.status(ctx, tenant, job)
	if err != nil {
		return contracts.Status{}, d.shown("status", tenant, job, err)
	}
	return s, nil
}

func (d *Dispatcher) status(ctx context.Context, tenant, job string) (s contracts.Status, err error) {
	for range 2 { // a job that moves from the queue to its end between the two looks is found the second time
		last, err := d.out.Last(ctx, subject.Out(tenant, job))
		if err != nil {
			return s, err
		}
		if last != nil {
			claim, record, err := d.claimOf(ctx, last)
			return recordStatus(tenant, job, claim, record), err
		}
		a, m, err := d.queued(ctx, tenant, job)
		if err != nil {
			return s, err
		}
		if m != nil {
			return queuedStatus(m, a)
		}
	}
	return s, unknownJob(tenant, job)
}

// shown is err as a caller may see it; what that hides is logged.
func (d *Dispatcher) shown(what, tenant, job string, err error) error {
	e := contracts.AsError(err)
	if e.Code == contracts.CodeInternal {
		d.log.Error(what+" failed", "tenant", tenant, "job", job, "error", err)
	}
	return e
}

func unknownJob(tenant, job string) error {
	return contracts.Errorf(contracts.CodeNotFound, "job %q of tenant %q is not known: it was never accepted, or it ended too long ago", job, tenant)
}

// queuedStatus is the status of a job that only JOBS or SCHED has; a is nil when its message is damaged.
func queuedStatus(m *relay.Message, a *contracts.Admitted) (contracts.Status, error) {
	if !inJobs(m) {
		return scheduledStatus(m, a)
	}
	ref, err := subject.ParseJob(m.Subject)
	s := contracts.Status{Job: ref.Job, State: contracts.StateQueued, Class: ref.Class, Model: ref.Model, Tenant: ref.Tenant, Submitted: m.Time.UnixMilli()}
	if a != nil {
		s.Submitted = a.Job.Submitted
	}
	return s, err
}

// recordStatus is the status of a job of which record is the last one and claim a claim, or nil.
func recordStatus(tenant, job string, claim *contracts.Claim, record *contracts.Chunk) contracts.Status {
	s := contracts.Status{Job: job, State: contracts.StateRunning, Tenant: tenant}
	if claim != nil {
		s.Class, s.Model, s.Submitted, s.Worker, s.Attempt = claim.Class, claim.Model, claim.Submitted, claim.Worker, claim.Attempt
	}
	if record.Final() {
		s.State, s.Finish, s.Usage, s.Timings = contracts.FinalState(record), record.Finish, record.Usage, record.Timings
		s.Code, s.Message = record.Code, record.Message
	}
	return s
}

// claimOf is the claim that holds for a job's last record, nil when there is none, and the record
// decoded. A record without a claim has it in the first record; when a later worker took the job over,
// the fences differ and all records are read.
func (d *Dispatcher) claimOf(ctx context.Context, last *relay.Message) (*contracts.Claim, *contracts.Chunk, error) {
	record, err := decodeRecord(last)
	if err != nil || record.Claim != nil {
		return record.Claim, record, err
	}
	m, err := d.out.Next(ctx, last.Subject, 1)
	if m == nil || err != nil {
		return nil, record, err
	}
	first, err := decodeRecord(m)
	if err != nil || first.Fence == record.Fence {
		return first.Claim, record, err
	}
	claim := first.Claim
	err = d.out.Read(ctx, last.Subject, m.Seq+1, func(m *relay.Message) bool {
		if c, err := decodeRecord(m); err == nil && c.IsClaim() {
			claim = c.Claim
		}
		return m.Seq < last.Seq
	})
	return claim, record, err
}

func decodeRecord(m *relay.Message) (*contracts.Chunk, error) {
	var c contracts.Chunk
	if err := contracts.Decode(m.Data, &c); err != nil {
		return &c, contracts.Errorf(contracts.CodeInternal, "record %d on %s is damaged: %v", m.Seq, m.Subject, err)
	}
	return &c, nil
}

// queued is the message of a job that waits for its time, waits in the queue or is held by a worker, nil
// when there is none. SCHED is asked first: a job only moves from there to JOBS, so none is missed.
// The admitted job is nil when the message is damaged: then the worker that gets it ends it.
func (d *Dispatcher) queued(ctx context.Context, tenant, job string) (*contracts.Admitted, *relay.Message, error) {
	m, err := d.scheduled(ctx, tenant, job)
	if m == nil && err == nil {
		m, err = d.jobs.Last(ctx, subject.AnyJob(tenant, job))
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

// inJobs tells whether a message is one of JOBS, and not of SCHED.
func inJobs(m *relay.Message) bool { return strings.HasPrefix(m.Subject, "jobs.") }
