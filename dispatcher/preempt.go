package dispatcher

import (
	"context"

	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

// mayPreempt notes a job that is about to be published, if others may have to give way to it.
func (d *Dispatcher) mayPreempt(decision *admission.Decision) {
	if w, urgent := fleet.WaitingFor(decision.Admitted); urgent {
		d.urgent.Wait(w)
	}
}

// preempt makes room for urgent jobs until ctx ends. It looks only while some wait.
func (d *Dispatcher) preempt(ctx context.Context) {
	for {
		select {
		case <-d.urgent.Waiting():
		case <-ctx.Done():
			return
		}
		for range tick.Now(ctx, fleet.PreemptEvery) {
			victims, idle := d.urgent.Victims(d.unpaused())
			for _, v := range victims {
				d.askToYield(v)
			}
			if idle {
				break
			}
		}
	}
}

func (d *Dispatcher) askToYield(v fleet.Holding) {
	if err := d.cfg.Conn.Publish(subject.CtlPreempt(v.Tenant, v.Job), nil); err != nil {
		d.log.Warn("job not asked to give way", "tenant", v.Tenant, "job", v.Job, "worker", v.Worker, "error", err)
		return
	}
	d.log.Info("job asked to give way", "tenant", v.Tenant, "job", v.Job, "worker", v.Worker)
	d.trace.Preempted(v.Tenant, v.Job, v.Worker)
}
