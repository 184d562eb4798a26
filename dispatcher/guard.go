package dispatcher

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/guard"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

// partReads is the part of the broker that answers what it has stored.
const partReads = "reads"

// newGuard is what sheds jobs by what came of those before.
func (d *Dispatcher) newGuard() *guard.Guard {
	cfg := guard.Config{
		Name: d.name, Objectives: d.cfg.Overload.Objectives, Parts: []string{partReads, topology.StreamJobs, topology.StreamSched, topology.StreamOut}, Away: away,
		Queue: topology.StreamJobs, Records: topology.StreamOut, Write: d.tryOut, Logger: d.log,
		Live: func() int { return len(d.fleet.Live()) }, Rest: d.restWorker, Say: d.cfg.Conn.Publish, Moved: d.trace.Moved, Top: d.trace.Top,
	}
	if !d.cfg.Overload.FIFO {
		cfg.Models = d.catalog.Names()
	}
	return guard.New(cfg)
}

// tryOut stores a record of no job.
func (d *Dispatcher) tryOut(ctx context.Context) error { return d.write(ctx, subject.OutTry, nil) }

// write stores a record of no job in OUT.
func (d *Dispatcher) write(ctx context.Context, out string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	_, err := d.js.Publish(ctx, out, data, jetstream.WithRetryAttempts(0))
	return err
}

// onLevel takes what another dispatcher says of a model.
func (d *Dispatcher) onLevel(m *nats.Msg) {
	if model, err := subject.Unescape(strings.TrimPrefix(m.Subject, "slo.level.")); err == nil {
		d.guard.Hear(model, m.Data)
	}
}

// passes is an error while jobs such as this one are shed, or its queue drains; whose model and class are filled in as admission would
// do it later. One that was submitted before is not asked, nor one whose time is still to come.
func (d *Dispatcher) passes(job *contracts.Job, now time.Time) error {
	if m, err := d.catalog.Find(job.Model); err == nil {
		job.Model = m.Name
	}
	job.Class = cmp.Or(job.Class, contracts.P2)
	if d.backlog.Knows(keyOf(job)) {
		return nil
	}
	if err := d.drains(job); err != nil || job.NotBefore > now.UnixMilli() {
		return err
	}
	return d.guard.Allow(job, now)
}

func keyOf(job *contracts.Job) priority.Key { return priority.Key{Tenant: job.Tenant, Job: job.ID} }
