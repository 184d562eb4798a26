package dispatcher

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// Models lists the models that jobs are admitted for, the default first. Those with Workers above 0 are
// served at the moment.
func (d *Dispatcher) Models() []admission.ModelStatus {
	live := d.fleet.Live()
	var out []admission.ModelStatus
	for _, m := range d.catalog.Models() {
		s := admission.ModelStatus{Name: m.Name, Aliases: m.Aliases, Created: m.Created, ContextLength: m.ContextLength,
			Kind: m.Kind, Dimensions: m.Dimensions, JobRows: m.JobRows(d.limits), Inputs: m.Inputs, Outputs: m.Outputs}
		for _, w := range live {
			if w.Model == m.Name && w.State == contracts.WorkerReady {
				s.Workers++
				s.Fingerprint = w.Fingerprint
			}
		}
		out = append(out, s)
	}
	return out
}

// Quota is what a tenant's requests and tokens of a minute allow now; a limit of 0 is none.
func (d *Dispatcher) Quota(tenant string) (requests, tokens quota.State) {
	return d.backlog.Quota(tenant, time.Now())
}

// Workers lists the live workers by name, with what each said of itself last.
func (d *Dispatcher) Workers() []contracts.Heartbeat { return d.fleet.Live() }

// Load is what came to this dispatcher since its start, by model; name tells it from others and from the
// dispatcher that it was before a restart.
func (d *Dispatcher) Load() (name string, arrived map[string]backlog.Arrived) {
	return d.name, d.backlog.Arrived()
}

// QueueDepth is how much waits and runs of one model, class and size; what is held is of no size.
type QueueDepth struct {
	Model   string          `json:"model"`
	Class   contracts.Class `json:"class"`
	Size    contracts.Size  `json:"size"`
	Pending int             `json:"pending"` // wait for a worker
	Running int             `json:"running"` // given to a worker and not ended; also handed back and not yet taken again
	Held    int             `json:"held"`    // wait for their turn, outside of the queue, as far as this dispatcher knows
}

// Queues tells the depth of every queue of the broker, and what is held of each class, models by name, most urgent
// class first.
func (d *Dispatcher) Queues(ctx context.Context) ([]QueueDepth, error) {
	s, err := d.js.Stream(ctx, topology.StreamJobs)
	if err != nil {
		return nil, contracts.Errorf(contracts.CodeUnavailable, "the broker does not tell the queues (%v): retry", err)
	}
	var out []QueueDepth
	consumers := s.ListConsumers(ctx)
	for info := range consumers.Info() {
		filter, ours := strings.CutSuffix(info.Config.FilterSubject, ".*.*")
		q, err := subject.ParseJob(filter + ".t.j") // the filter is the subject of any tenant's any job
		if err != nil || !ours {
			continue // a consumer of somebody else
		}
		out = append(out, QueueDepth{q.Model, q.Class, q.Size, int(info.NumPending), info.NumAckPending, 0})
	}
	if err := consumers.Err(); err != nil {
		return nil, contracts.Errorf(contracts.CodeUnavailable, "the broker does not tell the queues (%v): retry", err)
	}
	for model, classes := range d.backlog.Held() {
		for class, n := range classes {
			if n > 0 {
				out = append(out, QueueDepth{Model: model, Class: class, Held: n})
			}
		}
	}
	slices.SortFunc(out, func(a, b QueueDepth) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Class, b.Class),
			cmp.Compare(slices.Index(contracts.Sizes, a.Size), slices.Index(contracts.Sizes, b.Size)))
	})
	return out, nil
}
