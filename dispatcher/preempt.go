package dispatcher

import (
	"context"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

// preemptEvery is how often a dispatcher looks whether its urgent jobs that wait have room.
const preemptEvery = 100 * time.Millisecond

// mayPreempt notes a job that was just published, if others may have to give way to it. A worker that takes a
// job reserves what its size class promises.
func (d *Dispatcher) mayPreempt(decision *admission.Decision) {
	j := decision.Admitted.Job
	if j.Class != contracts.P0 && j.Class != contracts.P1 {
		return
	}
	w := fleet.Waiting{Tenant: j.Tenant, Job: j.ID, Model: j.Model, Class: j.Class, KVTokens: decision.Admitted.KVTokens, Slots: 1}
	if decision.Size != contracts.SizeX {
		w.KVTokens = max(w.KVTokens, decision.Size.Tokens())
	}
	if j.Params.N != nil {
		w.Slots = max(1, *j.Params.N)
	}
	d.urgent.Wait(w)
}

// preempt makes room for urgent jobs until ctx ends. It looks only while some wait.
func (d *Dispatcher) preempt(ctx context.Context) {
	tick := time.NewTicker(preemptEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.urgent.Waiting():
		case <-ctx.Done():
			return
		}
		for idle := false; !idle; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			var victims []fleet.Holding
			victims, idle = d.urgent.Victims(d.fleet.Live())
			for _, v := range victims {
				d.askToYield(v)
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
	if d.trace.Preempted != nil {
		d.trace.Preempted(v.Tenant, v.Job, v.Worker)
	}
}
