package dispatcher

import "context"

// Leave says that a reader of a job's stream has gone. A job with cancel_on_leave is canceled when a
// dispatcher, whichever it is, has no reader of it left; readers at other dispatchers do not hold it. All
// other jobs go on. It blocks as Cancel does.
func (d *Dispatcher) Leave(ctx context.Context, tenant, job string) error {
	if d.relay.Reading(tenant, job) {
		return nil
	}
	a, _, err := d.queued(ctx, tenant, job)
	if err != nil || a == nil || !a.Job.CancelOnLeave {
		return err
	}
	_, err = d.Cancel(ctx, tenant, job)
	return err
}
