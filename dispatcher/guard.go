package dispatcher

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/retry"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/breaker"
	"github.com/pelton-run/pelton/dispatcher/guard"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

// partReads is the part of the broker that answers what it has stored.
const partReads = "reads"

// newGuard is what sheds jobs by what came of those before.
func (d *Dispatcher) newGuard() *guard.Guard {
	models := d.catalog.Names()
	if d.cfg.Overload.FIFO {
		models = nil
	}
	return guard.New(guard.Config{
		Name: d.name, Models: models, Objectives: d.cfg.Overload.Objectives, Logger: d.log,
		Live: func() int { return len(d.fleet.Live()) }, Rest: d.restWorker, Changed: d.moved,
		Say: func(model string, level []byte) error { return d.cfg.Conn.Publish(subject.SLOLevel(model), level) },
		Top: func(model string, rung float64) {
			if d.trace.Top != nil {
				d.trace.Top(model, rung)
			}
		},
	})
}

// moved says that a ladder or a breaker moved: to the log, the trace and whoever listens.
func (d *Dispatcher) moved(c breaker.Change) {
	d.log.Warn("overload control moved", "kind", c.Kind, "of", c.Of, "from", c.From, "to", c.To, "reason", c.Reason)
	e := &contracts.Event{V: contracts.Version, At: time.Now().UnixMilli(), Dispatcher: d.name, Kind: c.Kind, Of: c.Of, From: c.From, To: c.To, Reason: c.Reason}
	if d.trace.Changed != nil {
		d.trace.Changed(e)
	}
	data, err := contracts.Encode(e)
	if err == nil {
		err = d.cfg.Conn.Publish(subject.SLOEvent(e.Kind), data)
	}
	if err != nil {
		d.log.Debug("event not sent", "kind", e.Kind, "error", err)
	}
}

// onLevel takes what another dispatcher says of a model.
func (d *Dispatcher) onLevel(m *nats.Msg) {
	if model, err := subject.Unescape(strings.TrimPrefix(m.Subject, "slo.level.")); err == nil {
		d.guard.Hear(model, m.Data)
	}
}

// passes is an error while jobs such as this one are shed. One that was submitted before is not asked, nor one
// whose time is still to come.
func (d *Dispatcher) passes(job *contracts.Job, now time.Time) error {
	if d.cfg.Overload.FIFO || job.NotBefore > now.UnixMilli() || d.backlog.Knows(keyOf(job)) {
		return nil
	}
	return d.guard.Allow(job, retries(job), size(job)/bytesPerToken, now)
}

// complete fills in what the guard goes by; admission would do it later.
func (d *Dispatcher) complete(job *contracts.Job) {
	if m, err := d.catalog.Find(job.Model); err == nil {
		job.Model = m.Name
	}
	if job.Class == "" {
		job.Class = contracts.P2
	}
}

func keyOf(job *contracts.Job) priority.Key { return priority.Key{Tenant: job.Tenant, Job: job.ID} }

// bytesPerToken is about what a token of text has.
const bytesPerToken = 4

// size is the bytes of a job's input.
func size(job *contracts.Job) int {
	n := len(job.Prompt) + bytesPerToken*len(job.Tokens)
	for i := range job.Messages {
		n += len(job.Messages[i].Content)
	}
	for _, text := range job.Input {
		n += len(text)
	}
	return n
}

// retries is how often a job was refused before, as far as its producer says.
func retries(job *contracts.Job) int {
	n, err := strconv.Atoi(job.Labels[retry.Label])
	if err != nil {
		return 0
	}
	return max(0, n)
}

// repeatable makes a refusal for load one that says not to come back when the tenant repeats too much.
func (d *Dispatcher) repeatable(job *contracts.Job, e *contracts.Error) *contracts.Error {
	again := d.guard.Repeats(job.Tenant, retries(job))
	if e == nil || again || !e.Code.Info().Retryable {
		return e
	}
	final := *e
	final.NoRetry = true
	return &final
}
