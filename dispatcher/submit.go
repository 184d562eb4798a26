package dispatcher

import (
	"context"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

// maxSeed bounds drawn seeds so that every language's numbers can hold them.
const maxSeed = 1 << 53

// Submit admits a job and puts it in the queue. A job without an id gets one; the job itself is not
// changed. A repeated submit of the same request under the same id answers admitted again. On a
// refusal both the answer and the error, a [*contracts.Error], say why. It blocks for as long as the
// broker takes, at most a few timeouts.
func (d *Dispatcher) Submit(ctx context.Context, job *contracts.Job) (*contracts.Answer, error) {
	answer, _, err := d.enter(ctx, job, nil)
	return answer, err
}

// Start is Submit that also reads the job's stream: it listens before it publishes, so that no record
// is missed. The stream ends after the final record, or with one [*contracts.Error], or when ctx ends;
// leaving it only stops reading. It can be ranged over once. When the job is refused there is none.
func (d *Dispatcher) Start(ctx context.Context, job *contracts.Job) (*contracts.Answer, iter.Seq2[*contracts.Chunk, error], error) {
	arrived := time.Now()
	var reader *relay.Reader
	answer, decision, err := d.enter(ctx, job, func(j *contracts.Job) (err error) {
		reader, err = d.relay.Open(ctx, j.Tenant, j.ID, false)
		return err
	})
	if err != nil {
		if reader != nil {
			reader.Close()
		}
		return answer, nil, err
	}
	if decision.attached {
		reader.Replay()
	}
	return answer, d.observed(ctx, reader, decision.Admitted, arrived), nil
}

// enter is Submit and Start: the gate, then submit.
func (d *Dispatcher) enter(ctx context.Context, job *contracts.Job, listen func(*contracts.Job) error) (*contracts.Answer, *published, error) {
	arrived := time.Now()
	if err := d.submits.Enter(job.Tenant, 0); err != nil {
		e := d.refused(job.Tenant, job.Model, err)
		return refusal(job.ID, e), nil, e
	}
	defer d.submits.Leave(job.Tenant, 0)
	j, fresh := *job, false
	if j.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			e := d.refused(j.Tenant, j.Model, err)
			return refusal("", e), nil, e
		}
		j.ID, fresh = id.String(), true
	}
	answer, p, err := d.submit(ctx, &j, fresh, arrived, listen)
	if err != nil {
		e := contracts.AsError(err)
		return refusal(j.ID, e), nil, e
	}
	return answer, p, nil
}

// published is a decision and what became of it.
type published struct {
	*admission.Decision
	attached bool // the job was there before
}

// submit decides and publishes. listen is called between the two. Refusals are reported here. fresh tells that
// the id was made for this job, so that there is no earlier one to look for.
func (d *Dispatcher) submit(ctx context.Context, job *contracts.Job, fresh bool, arrived time.Time, listen func(*contracts.Job) error) (_ *contracts.Answer, p *published, err error) {
	defer func() {
		if err != nil {
			err = d.guard.Refused(job, d.refused(job.Tenant, job.Model, err))
		} else {
			d.guard.Refused(job, nil)
		}
		if err != nil || p.attached {
			d.guard.Gone(job.Model, job.Class, keyOf(job))
		}
	}()
	defer d.rescue(job.Tenant, job.ID, &err)
	if !fresh { // what is submitted twice at the same time is counted once, by the one that puts it into the queue
		if err := d.ids.Enter(ctx, keyOf(job)); err != nil {
			return nil, nil, err
		}
		defer d.ids.Leave(keyOf(job))
	}
	stored, attached := false, false
	decision, verdict, counted, err := d.decide(job, arrived)
	defer func() {
		if counted {
			d.backlog.Ours(keyOf(job), stored)
		}
	}()
	if err != nil && listen != nil && !fresh {
		decision, err = d.before(ctx, job, err)
		attached = true
	}
	if err != nil {
		return nil, nil, err
	}
	a := decision.Admitted
	if listen != nil {
		if err := listen(&a.Job); err != nil {
			return nil, nil, err
		}
	}
	if !attached {
		decision.Fresh = fresh
		attached, err = d.enqueue(ctx, decision)
	}
	if err != nil {
		return nil, nil, err
	}
	stored = !attached
	if attached {
		d.trace.Attached(a.Job.Tenant, a.Job.ID)
	} else {
		d.trace.Admitted(a, decision.Size, time.Since(arrived))
		if verdict.Hold {
			d.trace.Held(a)
		}
	}
	return admittedAnswer(a, verdict, attached), &published{decision, attached}, nil
}

// decide says what becomes of a job that may be new; counted is as judge says it.
func (d *Dispatcher) decide(job *contracts.Job, arrived time.Time) (decision *admission.Decision, v admission.Verdict, counted bool, err error) {
	if err := d.passes(job, arrived); err != nil {
		return nil, v, false, err
	}
	if decision, err = admission.Decide(job, d.catalog, d.capacity, d.limits, admission.Draw{Now: arrived, Seed: rand.Int64N(maxSeed)}); err != nil {
		return nil, v, false, err
	}
	v, counted, err = d.judge(decision, arrived)
	return decision, v, counted, err
}

// before is the decision on a job that is refused now, because of the load, a quota or its deadline, but was taken
// before: who submits it again wants its answer. Without one the error is refused.
func (d *Dispatcher) before(ctx context.Context, job *contracts.Job, refused error) (*admission.Decision, error) {
	switch contracts.CodeOf(refused) {
	case contracts.CodeOverloaded, contracts.CodeUnavailable, contracts.CodeQuotaExceeded, contracts.CodeDeadlineExceeded:
	default:
		return nil, refused
	}
	if job.Validate() != nil {
		return nil, refused
	}
	digest, err := admission.Digest(job)
	if err != nil {
		return nil, refused
	}
	a := &contracts.Admitted{Job: *job, Digest: digest}
	known, found, err := d.submitted(ctx, a)
	if err != nil || !found {
		return nil, refused
	}
	return &admission.Decision{Admitted: a}, sameRequest(known, a)
}

// judge lets the backlog decide what becomes of a job that could run; counted tells that the job was counted
// in. One whose time is still to come is held in any case.
func (d *Dispatcher) judge(decision *admission.Decision, now time.Time) (v admission.Verdict, counted bool, err error) {
	if d.later(decision.Admitted) {
		known, err := d.backlog.Later(decision.Admitted, now)
		return admission.Verdict{Hold: true}, err == nil && !known, err
	}
	v, known, err := d.backlog.Place(decision.Admitted, now)
	if err != nil || known {
		return v, false, err
	}
	return v, true, decision.Apply(v)
}

// admittedAnswer says that a job was taken: it is held when its time or its turn is still to come.
func admittedAnswer(a *contracts.Admitted, v admission.Verdict, attached bool) *contracts.Answer {
	outcome := contracts.OutcomeAdmitted
	if v.Hold {
		outcome = contracts.OutcomeHeld
	}
	return &contracts.Answer{V: contracts.Version, Job: a.Job.ID, Outcome: outcome, Live: subject.Live(a.Job.Tenant, a.Job.ID),
		Position: v.Position, TTFTMS: v.First.Milliseconds(), ETAMS: v.End.Milliseconds(), Attached: attached}
}

// capacity is the most that a live worker offers for a model.
func (d *Dispatcher) capacity(model string) admission.Capacity {
	o := d.fleet.Offer(model)
	return admission.Capacity{KVBytes: o.KVBytes, KVPerToken: o.KVPerToken, KVBlock: o.KVBlock, Slots: o.Slots, ContextLength: o.ContextLength}
}

// observed reports the first piece and the end of a stream that Start began.
func (d *Dispatcher) observed(ctx context.Context, r *relay.Reader, a *contracts.Admitted, arrived time.Time) iter.Seq2[*contracts.Chunk, error] {
	chunks := d.chunks(ctx, r, a.Job.Tenant, a.Job.ID, -1)
	return func(yield func(*contracts.Chunk, error) bool) {
		first := true
		for c, err := range chunks {
			if first && c != nil && !c.Final() {
				first = false
				d.trace.FirstChunk(a, time.Since(arrived))
			}
			if c != nil && c.Final() {
				d.trace.Finished(a, c, time.Since(arrived))
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// Stream reads the stream of a job that was submitted anywhere: the pieces whose Index is above after
// (-1 is all) as far as OUT has them, then live ones, and ends after the final record, which is always
// yielded. A queued job is waited for. Errors are [*contracts.Error] and end it: CodeNotFound for a job
// that is not known, CodeUnavailable when the stream cannot be read. Leaving it only stops reading.
func (d *Dispatcher) Stream(ctx context.Context, tenant, job string, after int) iter.Seq2[*contracts.Chunk, error] {
	return func(yield func(*contracts.Chunk, error) bool) {
		r, err := d.relay.Open(ctx, tenant, job, true)
		if err != nil {
			yield(nil, contracts.AsError(err))
			return
		}
		defer r.Close()
		if _, err := d.Status(ctx, tenant, job); err != nil {
			yield(nil, contracts.AsError(err))
			return
		}
		for c, err := range d.chunks(ctx, r, tenant, job, after) {
			if !yield(c, err) {
				return
			}
		}
	}
}

// chunks are a reader's chunks after an index. The reader is closed at the end.
func (d *Dispatcher) chunks(ctx context.Context, r *relay.Reader, tenant, job string, after int) iter.Seq2[*contracts.Chunk, error] {
	r.Vanished = func(ctx context.Context) error {
		_, err := d.Status(ctx, tenant, job)
		return err
	}
	return func(yield func(*contracts.Chunk, error) bool) {
		for c, err := range r.Chunks(ctx) {
			if c != nil && !c.Final() && c.Index <= after {
				continue
			}
			if !yield(c, err) {
				if c != nil && !c.Final() {
					d.trace.Left(tenant, job)
				}
				return
			}
		}
	}
}
