package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/emit"
	"github.com/pelton-run/pelton/worker/lease"
	"github.com/pelton-run/pelton/worker/resume"
)

// nakFirst is the delay before a job that failed or did not fit for the first time is delivered again. It doubles
// with each failure; each unfit worker adds a sixteenth, since a fit one may be among many others, up to nakMost: 160
// of them take most of a day, after which a dispatcher ends what the queue keeps no longer.
const (
	nakFirst = 250 * time.Millisecond
	nakMost  = time.Hour
)

// claim is the record by which this worker takes the job.
func (j *job) claim(t *resume.Transcript) *contracts.Chunk {
	c := &contracts.Chunk{Claim: &contracts.Claim{
		Worker: j.w.cfg.Name, Attempt: j.name.Attempt, Failures: t.Failures(), Preempted: t.Preempted(), Model: j.ref.Model, Class: j.ref.Class,
		Submitted: j.req.job.Submitted, Digest: j.req.digest,
	}}
	if len(t.Choices) > 0 {
		c.Index = len(t.Choices[0].Tokens)
	}
	return c
}

// final is the last record of a job that does not run, after what others wrote.
func (j *job) final(t *resume.Transcript, failure *contracts.Error) *contracts.Chunk {
	c := j.claim(t)
	c.Finish, c.Code, c.Message = emit.FinishOf(failure.Code), failure.Code, failure.Message
	prompt, completion := len(j.req.prompt)+j.req.counted, t.Tokens()
	c.Usage = &contracts.Usage{PromptTokens: prompt, CompletionTokens: completion, TotalTokens: prompt + completion}
	c.Checksum = t.Checksum.Sum()
	c.Timings = &contracts.Timings{Queued: float64(j.queued()) / float64(time.Millisecond)}
	return c
}

// verdict decides what becomes of a job that stopped with cause: it ends with a final record if why is
// empty (failure nil: all is well), else it is given back for that reason.
func (j *job) verdict(cause error) (failure *contracts.Error, why contracts.Release) {
	why = reason(cause)
	if cause == nil || why == contracts.ReleaseDrain || why == contracts.ReleasePreempt {
		return nil, why
	}
	failure, ok := errors.AsType[*contracts.Error](cause)
	if !ok {
		failure = contracts.Errorf(contracts.CodeInternal, "internal error: retry once, then report it")
		j.log("job failed", cause)
	}
	return failure, why
}

// reason is why a job that stopped with cause is given back; it is empty when the job ends.
func reason(cause error) contracts.Release {
	code := contracts.CodeInternal
	if e, ok := errors.AsType[*contracts.Error](cause); ok {
		code = e.Code
	}
	switch {
	case cause == nil:
	case moves(cause):
		return contracts.ReleaseDrain
	case errors.Is(cause, errPreempted):
		return contracts.ReleasePreempt
	case code == contracts.CodeResourceExhausted, code == contracts.CodeUnimplemented: // another worker may be larger, or newer
		return contracts.ReleaseUnfit
	case code.Info().Verb == contracts.VerbNak:
		return contracts.ReleaseFailed
	}
	return ""
}

// moves tells whether the job goes to another worker because this one stops, and not because of the job.
func moves(err error) bool { return errors.Is(err, errHandBack) || errors.Is(err, batch.ErrAbandoned) }

// errUnsaid: the release could not be written, so the queue is told nothing either; the job is found
// lost, or its ack wait ends.
var errUnsaid = errors.New("the release is not in the job's stream")

// silent tells whether another holder has the job, or may have it, so that the queue hears nothing.
func silent(err error) bool {
	return errors.Is(err, lease.ErrFenced) || errors.Is(err, lease.ErrLost) || errors.Is(err, errReplaced) || errors.Is(err, errUnsaid)
}

// release writes why the job is given back, after what this holder wrote under claim. It returns cause,
// or why the record could not be written.
func (j *job) release(hard context.Context, chain *lease.Chain, claim *contracts.Chunk, why contracts.Release, failure *contracts.Error, cause error) error {
	says := *claim.Claim
	says.Released = why
	c := &contracts.Chunk{Index: claim.Index, Claim: &says}
	if failure != nil {
		c.Code, c.Message = failure.Code, failure.Message
	}
	if err := chain.Append(hard, c); err != nil {
		return fmt.Errorf("%w: %w", errUnsaid, err)
	}
	return cause
}

// settle says the last word to the queue: acknowledged after a final record, nothing when another
// worker has the job, handed back otherwise.
func (j *job) settle(hard context.Context, final *contracts.Chunk, err error) {
	switch {
	case err == nil:
		spent(j, string(final.Code))
		j.finished(final)
		verb := j.lease.Ack
		if final.Code != "" && final.Code.Info().Verb != contracts.VerbAck {
			verb = func(ctx context.Context) error { return j.lease.Term(ctx, string(final.Code)) }
		}
		err = verb(hard)
	case errors.Is(err, lease.ErrFinished):
		err = j.lease.Ack(hard)
	case silent(err):
		j.lease.Stop()
		if errors.Is(err, errUnsaid) || errors.Is(err, lease.ErrLost) {
			j.log("job let go", err)
		}
		spent(j, string(contracts.CodeLeaseLost))
		j.w.cfg.Trace.Fenced(j.name)
		return
	default:
		why := reason(err)
		spent(j, string(why))
		j.w.cfg.Trace.HandedBack(j.name, why, err)
		delay := time.Duration(min(float64(nakMost), float64(nakFirst<<min(j.failures, 8))*math.Pow(1+1.0/16, float64(j.unfit))))
		moved := moves(err)
		if moved || errors.Is(err, errPreempted) {
			delay = 0
		} else {
			j.log("job handed back", err)
		}
		if err = j.lease.Nak(hard, delay); err == nil && moved {
			j.ring()
		}
	}
	if err != nil {
		j.log("the queue did not confirm", err)
	}
}

// spent reports the job's share of the device's time, and why it was for nothing.
func spent(j *job, wasted string) {
	j.mu.Lock()
	device := j.device
	j.mu.Unlock()
	if device > 0 {
		j.w.cfg.Trace.Spent(j.name, device, wasted)
	}
}

// ring tells the workers that the job waits again, so that they need not find it by a sweep.
func (j *job) ring() {
	_ = j.w.cfg.Conn.Publish(subject.Bell(j.ref.Model), subject.Ring(j.ref.Class, j.ref.Size))
}

func (j *job) finished(final *contracts.Chunk) {
	if contracts.FinalState(final) == contracts.StateFailed {
		j.w.stats.failed.Add(1)
	} else {
		j.w.stats.done.Add(1)
	}
	j.w.cfg.Trace.Finished(j.name, final)
}
