package dispatcher

import (
	"context"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// Models lists the models that jobs are admitted for, the default first. Those with Workers above 0 are
// served at the moment.
func (d *Dispatcher) Models() []admission.ModelStatus {
	return d.catalog.Statuses(d.limits, d.fleet.Live())
}

// Quota is what a tenant's requests and tokens of a minute allow now; a limit of 0 is none.
func (d *Dispatcher) Quota(tenant string) (requests, tokens quota.State) {
	return d.backlog.Quota(tenant, time.Now())
}

// Workers lists the live workers by name, with what each said of itself last.
func (d *Dispatcher) Workers() []contracts.Heartbeat { return d.fleet.Live() }

// DrainWorker tells a worker to leave: see [fleet.Watch.Drain].
func (d *Dispatcher) DrainWorker(ctx context.Context, worker string, grace time.Duration) (contracts.Heartbeat, error) {
	d.log.Warn("worker to be drained, says an operator", "worker", worker, "grace", grace)
	return d.fleet.Drain(ctx, d.cfg.Conn, worker, grace)
}

// Load is what came to this dispatcher since its start, by model; name tells it from others and from the
// dispatcher that it was before a restart.
func (d *Dispatcher) Load() (name string, arrived map[string]backlog.Arrived) {
	return d.name, d.backlog.Arrived()
}
