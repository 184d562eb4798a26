package dispatcher

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/state"
)

// settleTries bounds how often an end is tried against a worker that writes at the same time.
const settleTries = 8

// errRaced says that somebody else wrote to the job's stream first.
var errRaced = errors.New("another record was written first")

// ending is how a job ends that no worker ends.
type ending struct {
	finish  string
	code    contracts.Code
	message string
}

// settlement is what settle found or did.
type settlement int

const (
	settled  settlement = iota // the final record is ours
	wasFinal                   // there was one
	isHeld                     // a worker has the job
	isGone                     // neither stream knows the job
)

// settle ends a job that no worker runs: it writes the final record after the last record there is, and
// then removes the message from the queue. A worker that pulls the job in between finds the record when
// it claims; one that writes first wins, and it is looked at anew. take decides whether a job that a
// worker has claimed may be ended too; its holder, if it lives, is fenced off by the record.
func (d *Dispatcher) settle(ctx context.Context, tenant, job string, e ending, take func(state.Records) bool) (settlement, error) {
	for range settleTries {
		a, queued, err := d.queued(ctx, tenant, job)
		if err != nil {
			return 0, err
		}
		r, err := state.SoFar(ctx, d.out, tenant, job)
		if err != nil {
			return 0, err
		}
		switch {
		case r.Final != nil:
			if queued != nil {
				d.remove(ctx, queued)
			}
			return wasFinal, nil
		case r.Last == nil && queued == nil:
			return isGone, nil
		case r.Last != nil && !take(r):
			return isHeld, nil
		}
		final := finalRecord(job, a, r, e)
		err = d.end(ctx, subject.Out(tenant, job), final, r)
		if errors.Is(err, errRaced) {
			continue
		}
		if err == nil {
			d.trace.Ended(final)
		}
		if err == nil && queued != nil {
			d.remove(ctx, queued)
		}
		return settled, err
	}
	return 0, contracts.Errorf(contracts.CodeUnavailable, "the stream of job %s takes no record: retry", job)
}

// finalRecord is the record that ends a job after the records r. a is nil when its message is gone or
// damaged.
func finalRecord(job string, a *contracts.Admitted, r state.Records, e ending) *contracts.Chunk {
	c := &contracts.Chunk{V: contracts.Version, Job: job, Fence: r.Fence + 1, Index: r.Tokens[0],
		Finish: e.finish, Code: e.code, Message: e.message, Usage: &contracts.Usage{}, Claim: &contracts.Claim{}, Checksum: r.Sum.Sum()}
	if a != nil {
		c.Claim = &contracts.Claim{Model: a.Job.Model, Class: a.Job.Class, Submitted: a.Job.Submitted, Digest: a.Digest}
	}
	if r.Claim != nil {
		claim := *r.Claim
		claim.Released = ""
		c.Claim = &claim
	}
	if a != nil && c.Claim.Attempt > 0 { // what no worker took used nothing, and is charged with nothing
		c.Usage.PromptTokens = len(a.Tokens)
		for _, row := range a.Rows {
			c.Usage.PromptTokens += len(row)
		}
	}
	for _, n := range r.Tokens {
		c.Usage.CompletionTokens += n
	}
	c.Usage.TotalTokens = c.Usage.PromptTokens + c.Usage.CompletionTokens
	return c
}

// end writes the record c, final or a release, after the records r, or says errRaced.
func (d *Dispatcher) end(ctx context.Context, out string, c *contracts.Chunk, r state.Records) error {
	seq := uint64(0)
	if r.Last != nil {
		seq = r.Last.Seq
	}
	data, err := contracts.Encode(c)
	if err != nil {
		return err
	}
	once, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	err = d.guard.Ask(topology.StreamOut, func() error {
		_, err := d.js.Publish(once, out, data, jetstream.WithExpectLastSequencePerSubject(seq), jetstream.WithRetryAttempts(0))
		return err
	})
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeWrongLast || api.ErrorCode == codeWriteInFlight) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return errRaced // or the answer was lost: reading again tells which
	}
	if err != nil {
		return publishError(err)
	}
	return nil
}

// The broker's error codes for a lost compare-and-swap: another sequence, another write on the subject
// that is not decided yet (replicated streams).
const (
	codeWrongLast     = 10071
	codeWriteInFlight = 10164
)

// remove deletes a message of the queue or of SCHED. A message that stays is no harm: the worker that gets it finds
// the final record.
func (d *Dispatcher) remove(ctx context.Context, m *relay.Message) {
	from := d.jobs
	if !state.InJobs(m) {
		from = d.sched
	}
	if err := from.Delete(ctx, m.Seq); err != nil {
		d.log.Warn("message of an ended job not removed", "subject", m.Subject, "seq", m.Seq, "error", err)
	}
}
