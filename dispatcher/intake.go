package dispatcher

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/gate"
)

// onSubmit takes a job from submit.<tenant>. It runs in the subscription's goroutine and hands over.
func (d *Dispatcher) onSubmit(ctx context.Context, m *nats.Msg) {
	tenant, err := subject.ParseSubmit(m.Subject)
	if err != nil {
		d.drop(m, "the subject is not submit.<tenant> with an escaped tenant")
		return
	}
	if !d.repliesTo(m, tenant) {
		return
	}
	if err := d.submits.Enter(tenant, len(m.Data)); err != nil {
		d.reply(m, refusal("", d.refused(tenant, "", err)))
		return
	}
	go func() {
		defer d.submits.Leave(tenant, len(m.Data))
		d.reply(m, d.takeIn(ctx, tenant, m.Data))
	}()
}

// takeIn decodes and submits, and always has an answer.
func (d *Dispatcher) takeIn(ctx context.Context, tenant string, data []byte) *contracts.Answer {
	arrived := time.Now()
	var job contracts.Job
	if err := contracts.Decode(data, &job); err != nil {
		return refusal("", d.refused(tenant, "", err))
	}
	if job.Tenant != "" && job.Tenant != tenant {
		return refusal(job.ID, d.refused(tenant, job.Model, &contracts.Error{Code: contracts.CodePermissionDenied, Param: "tenant",
			Message: fmt.Sprintf("the job names tenant %q on the subject of tenant %q: leave it out or submit there", job.Tenant, tenant)}))
	}
	job.Tenant = tenant
	answer, _, err := d.submit(ctx, &job, false, arrived, nil)
	if err != nil {
		return refusal(job.ID, contracts.AsError(err))
	}
	return answer
}

// onJob takes requests for one job from <verb>.<tenant>.<job> and answers with a Status, or an Answer that
// says why not.
func (d *Dispatcher) onJob(verb string, wait time.Duration, do func(ctx context.Context, tenant, job string) (contracts.Status, error)) func(context.Context, *nats.Msg) {
	return func(ctx context.Context, m *nats.Msg) {
		tenant, job, err := subject.ParseJobRef(verb, m.Subject)
		if err != nil {
			d.drop(m, "the subject is not "+verb+".<tenant>.<job> with escaped names")
			return
		}
		if len(m.Data) > 0 { // an answer of the broker, which goes to any reply subject that a request names
			d.drop(m, "a "+verb+" has no body")
			return
		}
		if !d.repliesTo(m, tenant) {
			return
		}
		if err := d.cancels.Enter(tenant, 0); err != nil {
			d.reply(m, refusal(job, contracts.AsError(err)))
			return
		}
		go func() {
			defer d.cancels.Leave(tenant, 0)
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			status, err := do(ctx, tenant, job)
			if err != nil {
				d.reply(m, refusal(job, contracts.AsError(err)))
				return
			}
			d.reply(m, &status)
		}()
	}
}

// repliesTo tells whether the answer may go to m's reply subject: none, an inbox of the default prefix,
// or one of the tenant's own prefix. Everything else could make the dispatcher write where the producer
// may not.
func (d *Dispatcher) repliesTo(m *nats.Msg, tenant string) bool {
	if m.Reply == "" || strings.HasPrefix(m.Reply, "_INBOX.") || strings.HasPrefix(m.Reply, "_INBOX_"+subject.Escape(tenant)+".") {
		return true
	}
	d.drop(m, "the reply subject is not an inbox of the tenant")
	return false
}

func (d *Dispatcher) drop(m *nats.Msg, reason string) {
	d.say("request dropped", "subject", m.Subject, "reason", reason)
	d.trace.Dropped(m.Subject, reason)
}

// say logs once a second at most: a producer sends as many requests as it likes, and a worker dies with hundreds of jobs.
func (d *Dispatcher) say(what string, attrs ...any) {
	d.said.Do(func() { d.log.Warn(what, attrs...) })
}

func (d *Dispatcher) reply(m *nats.Msg, answer any) {
	if m.Reply == "" {
		return
	}
	data, err := contracts.Encode(answer)
	if err == nil {
		err = m.Respond(data) // by the connection that it came to, which alone may answer
	}
	if err != nil {
		d.say("answer not sent", "subject", m.Subject, "error", err)
	}
}

// refused logs and reports a refusal and returns it as it may be shown.
func (d *Dispatcher) refused(tenant, model string, err error) *contracts.Error {
	e := contracts.AsError(err)
	if e.Code == contracts.CodeInternal {
		d.log.Error("submit failed", "tenant", tenant, "model", model, "error", err)
	}
	d.trace.Refused(tenant, model, e)
	return e
}

// refusal is the answer that carries e.
func refusal(job string, e *contracts.Error) *contracts.Answer {
	return &contracts.Answer{V: contracts.Version, Job: job, Outcome: contracts.OutcomeOf(e.Code),
		Code: e.Code, Message: e.Message, Param: e.Param, RetryAfterMS: e.RetryAfterMS, NoRetry: e.NoRetry}
}

// rescue turns a panic into an internal error, so that one job's input cannot end the process.
func (d *Dispatcher) rescue(tenant, job string, err *error) {
	if p := recover(); p != nil {
		*err = gate.Panicked(d.log, p, "tenant", tenant, "job", job)
	}
}
