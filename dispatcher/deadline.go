package dispatcher

import (
	"context"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/state"
)

// fullScan is how many scans go on where the one before stopped until one begins at the first job.
const fullScan = 20

// clockOff is how far the clocks of a dispatcher and the broker may differ before that is logged.
const clockOff = 5 * time.Second

// expire ends a job that no worker took before its deadline, or whose worker is gone. A running job is
// its worker's to end; it is looked at again in case that worker dies.
func (d *Dispatcher) expire(ctx context.Context, tenant, job string) (again bool) {
	last, err := d.out.Last(ctx, subject.Out(tenant, job))
	if err == nil && state.Ended(last) {
		return false
	}
	e := ending{contracts.FinishError, contracts.CodeDeadlineExceeded, "the deadline passed before a worker finished the job"}
	var s settlement
	if err == nil {
		var a *contracts.Admitted
		if a, _, err = d.queued(ctx, tenant, job); a != nil && (a.Job.Deadline == 0 || d.clock.Now().UnixMilli() < a.Job.Deadline) {
			e = ending{contracts.FinishError, contracts.CodeUnavailable, "no worker took the job for as long as the queue keeps jobs: submit it again under a new id"}
		}
	}
	if err == nil {
		s, err = d.settle(ctx, tenant, job, e,
			func(r state.Records) bool { return d.orphaned(tenant, job, r, r.Last.Time) })
	}
	if err != nil {
		if ctx.Err() == nil {
			d.log.Warn("expired job not ended, trying again", "tenant", tenant, "job", job, "error", err)
		}
		return true
	}
	return s == isHeld
}

// latest is when a job that is stored in JOBS ends at the latest if no worker has it, in Unix milliseconds: at its
// deadline, or before the broker drops it for its age.
func (d *Dispatcher) latest(a *contracts.Admitted, stored time.Time) int64 {
	age := time.Duration(d.keeps.Load())
	if age == 0 {
		return a.Job.Deadline
	}
	last := d.clock.Now().Add(age - age/24 - d.clock.Broker().Sub(stored)).UnixMilli()
	if a.Job.Deadline > 0 {
		last = min(last, a.Job.Deadline)
	}
	return last
}

// rescan looks for deadlines of queued jobs that other dispatchers took in, or this one before a restart: at once and
// then every Rescan, from where it stopped, now and then from the first job. Consumers that are gone are made again.
func (d *Dispatcher) rescan(ctx context.Context) {
	seq := uint64(1)
	for round := range tick.Now(ctx, d.cfg.Rescan) {
		if round%fullScan == 0 {
			seq = 1
		}
		if round > 0 { // Run has just asked
			d.askTime(ctx)
		}
		err := d.jobs.Read(ctx, subject.AllJobs, seq, func(m *relay.Message) bool {
			var a contracts.Admitted
			if contracts.Decode(m.Data, &a) == nil {
				d.deadlines.Add(a.Job.Tenant, a.Job.ID, d.latest(&a, m.Time))
				if round == 0 {
					d.backlog.Adopt(&a, 0, m.Time, false)
				}
			}
			seq = m.Seq + 1
			return ctx.Err() == nil
		})
		if round > 0 { // Run has just looked
			d.mend(ctx)
		}
		if err == nil {
			err = d.turns.Adopt(ctx, round == 0)
		}
		if err != nil && ctx.Err() == nil {
			d.log.Warn("queue not searched for deadlines", "error", err)
		}
	}
}

// askTime asks how long JOBS keeps messages, and what time the broker has.
func (d *Dispatcher) askTime(ctx context.Context) {
	asked := time.Now()
	s, err := d.js.Stream(ctx, topology.StreamJobs)
	if err != nil {
		return // the next time
	}
	info := s.CachedInfo()
	d.keeps.Store(int64(info.Config.MaxAge))
	if info.TimeStamp.IsZero() {
		return
	}
	ahead := d.clock.Tell(info.TimeStamp, asked)
	d.trace.Clock(ahead)
	if ahead.Abs() > clockOff+time.Since(asked) {
		d.log.Warn("the clock of this machine or of the broker is wrong: jobs end, and begin at their time, by the one that is behind", "ahead", ahead)
	}
}

// mend makes consumers again that are gone, in the state of their queue.
func (d *Dispatcher) mend(ctx context.Context) {
	if made, err := topology.Mend(ctx, d.js, d.cfg.Topology, d.catalog.Names()...); (err != nil || len(made) > 0) && ctx.Err() == nil {
		d.log.Warn("the broker lacks what the fleet needs", "made", made, "error", err)
	}
	for _, model := range d.catalog.Names() {
		if err := topology.KeepQueue(ctx, d.js, model, d.backlog.Operated(model)); err != nil && ctx.Err() == nil {
			d.log.Warn("state of the queue not kept", "model", model, "error", err)
		}
	}
}
