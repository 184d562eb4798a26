package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/gate"
)

// Queues tells the depth of every queue of the broker, and what is held of each class, models by name, most urgent
// class first.
func (d *Dispatcher) Queues(ctx context.Context) ([]contracts.QueueDepth, error) {
	out, err := topology.Depths(ctx, d.js)
	if err != nil {
		return nil, contracts.Errorf(contracts.CodeUnavailable, "the broker does not tell the queues (%v): retry", err)
	}
	out = append(out, d.backlog.Held()...)
	slices.SortFunc(out, func(a, b contracts.QueueDepth) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Class, b.Class),
			cmp.Compare(slices.Index(contracts.Sizes, a.Size), slices.Index(contracts.Sizes, b.Size)))
	})
	return out, nil
}

// operateEvery is how often a dispatcher looks what operators let the queues do.
const operateEvery = time.Second

// SetQueues lets the queue of a model, or with "" those of all models, do what operators want: for all dispatchers,
// which know it a second later, and until it is set again. It returns the names of the models. CodeModelNotFound: the
// broker has no such queue. After another error some queues may be in the new state: to repeat it is safe.
func (d *Dispatcher) SetQueues(ctx context.Context, model string, state contracts.QueueState) ([]string, error) {
	queues, err := d.Queues(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, q := range queues {
		names = append(names, q.Model)
	}
	names = slices.Compact(names)
	if model != "" {
		m, unknown := d.catalog.Find(model)
		if unknown == nil {
			model = m.Name
		} else if !slices.Contains(names, model) {
			return nil, unknown
		}
		names = []string{model}
	}
	for _, name := range names {
		if err := topology.SetQueue(ctx, d.js, name, state); err != nil {
			if denied := d.cfg.Conn.LastError(); errors.Is(denied, nats.ErrPermissionViolation) { // it shows as silence
				err = fmt.Errorf("%w: renew the rights of the roles with pelton auth init and reload the broker", denied)
			}
			return nil, contracts.Errorf(contracts.CodeUnavailable, "the queue of %q is not %s everywhere (%v): repeat it", name, state, err)
		}
		d.log.Warn("queue set by an operator", "model", name, "state", state)
	}
	return names, d.operate(ctx)
}

// operates looks each second what operators let the queues do, until ctx ends.
func (d *Dispatcher) operates(ctx context.Context) {
	for range tick.After(ctx, operateEvery) {
		if err := d.operate(ctx); err != nil && ctx.Err() == nil {
			d.log.Debug("states of the queues not read", "error", err)
		}
	}
}

// operate is one look. A consumer that does not know the state of its queue was made again since: it is told.
func (d *Dispatcher) operate(ctx context.Context) error {
	var errs []error
	for _, name := range d.catalog.Names() {
		state, opened, told, err := topology.QueueOf(ctx, d.js, name)
		if err == nil && told {
			d.backlog.Operate(name, state, opened)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// drains is an error while the queue of the job's model takes no new ones.
func (d *Dispatcher) drains(job *contracts.Job) error {
	if d.backlog.Operated(job.Model) != contracts.QueueDraining {
		return nil
	}
	return &contracts.Error{Code: contracts.CodeUnavailable, Param: "model", RetryAfterMS: 10 * gate.RetryAfterMS, NoRetry: true,
		Message: fmt.Sprintf("an operator drains the queue of model %q: it takes no new jobs until it is opened again", job.Model)}
}

// unpaused are the live workers whose model's queue is not paused: elsewhere nobody gives way to a job that cannot begin.
func (d *Dispatcher) unpaused() []contracts.Heartbeat {
	return slices.DeleteFunc(slices.Clone(d.fleet.Live()), func(h contracts.Heartbeat) bool {
		return d.backlog.Operated(h.Model) == contracts.QueuePaused
	})
}
