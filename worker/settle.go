package worker

import (
	"context"
	"errors"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/emit"
	"github.com/pelton-run/pelton/worker/lease"
	"github.com/pelton-run/pelton/worker/resume"
)

// nakFirst is the delay before a job that failed on its first attempt is delivered again; it doubles
// with each attempt.
const nakFirst = 250 * time.Millisecond

// claim is the record by which this worker takes the job.
func (j *job) claim(t *resume.Transcript) *contracts.Chunk {
	c := &contracts.Chunk{Claim: &contracts.Claim{
		Worker: j.w.cfg.Name, Attempt: j.lease.Attempt(), Model: j.ref.Model, Class: j.ref.Class,
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
	prompt, completion := len(j.req.prompt), t.Tokens()
	c.Usage = &contracts.Usage{PromptTokens: prompt, CompletionTokens: completion, TotalTokens: prompt + completion}
	c.Timings = &contracts.Timings{Queued: float64(j.queued()) / float64(time.Millisecond)}
	return c
}

// refuse writes the final record of a job that shall not run, or hands it back.
func (j *job) refuse(hard context.Context, cause error) (*contracts.Chunk, error) {
	failure, err := j.verdict(cause)
	if err != nil {
		return nil, err
	}
	var final *contracts.Chunk
	_, _, err = lease.Take(hard, j.w.cfg.Conn, j.ref.Tenant, j.ref.Job, j.lease.Attempt(), func(t *resume.Transcript) *contracts.Chunk {
		final = j.final(t, failure)
		return final
	})
	return final, err
}

// verdict decides how a job ends that stopped with cause: with a final record (err nil; failure nil if
// all is well), or otherwise, with err as the reason.
func (j *job) verdict(cause error) (failure *contracts.Error, err error) {
	if cause == nil {
		return nil, nil
	}
	if errors.Is(cause, errHandBack) || errors.Is(cause, errReplaced) {
		return nil, cause
	}
	coded, ok := errors.AsType[*contracts.Error](cause)
	if !ok {
		coded = contracts.Errorf(contracts.CodeInternal, "internal error: retry once, then report it")
		j.log("job failed", cause)
	}
	if coded.Code.Info().Verb == contracts.VerbNak && j.lease.Attempt() < j.w.cfg.MaxDeliver {
		return nil, cause
	}
	return coded, nil
}

// settle says the last word to the queue: acknowledged after a final record, nothing when another
// worker has the job, handed back otherwise.
func (j *job) settle(hard context.Context, final *contracts.Chunk, err error) {
	switch {
	case err == nil:
		j.finished(final)
		verb := j.lease.Ack
		if final.Code != "" && final.Code.Info().Verb != contracts.VerbAck {
			verb = func(ctx context.Context) error { return j.lease.Term(ctx, string(final.Code)) }
		}
		err = verb(hard)
	case errors.Is(err, lease.ErrFinished):
		err = j.lease.Ack(hard)
	case errors.Is(err, lease.ErrFenced), errors.Is(err, errReplaced):
		j.lease.Stop()
		j.w.cfg.Trace.fenced(j.name)
		return
	default:
		j.w.cfg.Trace.handedBack(j.name, err)
		delay := nakFirst << min(j.lease.Attempt()-1, 8)
		if errors.Is(err, errHandBack) {
			delay = 0
		} else {
			j.log("job handed back", err)
		}
		err = j.lease.Nak(hard, delay)
	}
	if err != nil {
		j.log("the queue did not confirm", err)
	}
}

func (j *job) finished(final *contracts.Chunk) {
	if final.Code == "" || final.Code == contracts.CodeCanceled {
		j.w.stats.done.Add(1)
	} else {
		j.w.stats.failed.Add(1)
	}
	j.w.cfg.Trace.finished(j.name, final)
}
