package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/gather"
	"github.com/pelton-run/pelton/worker/lease"
	"github.com/pelton-run/pelton/worker/resume"
)

// recordRoom is what a final record takes besides its tensors.
const recordRoom = 8 << 10

// compute runs a claimed job of a model that answers in one call, up to the final record or the release.
func (j *job) compute(hard context.Context, chain *lease.Chain, t *resume.Transcript, claim *contracts.Chunk) (*contracts.Chunk, error) {
	j.lease.Guard(chain.Lost, func() { j.end(lease.ErrFenced) })
	j.mu.Lock()
	j.yielding = claim.Claim.Preempted < topology.MaxPreempt
	j.mu.Unlock()
	outputs, cause := j.outputs()
	j.room.Close() // before the final record says that the job is over
	if silent(cause) {
		return nil, cause
	}
	failure, why := j.verdict(cause)
	if why != "" {
		return nil, j.release(hard, chain, claim, why, failure, cause)
	}
	final := j.answer(t, outputs, failure)
	return final, chain.Append(hard, final)
}

// answer is the final record with a job's outputs, or with why there are none.
func (j *job) answer(t *resume.Transcript, outputs []contracts.Tensor, failure *contracts.Error) *contracts.Chunk {
	size := recordRoom
	for i := range outputs {
		size += len(outputs[i].Data) + len(outputs[i].Name)
	}
	if most := min(int(j.w.cfg.Conn.MaxPayload()), topology.MaxRecord); failure == nil && size > most {
		failure = contracts.Errorf(contracts.CodePayloadTooLarge, "the outputs take %d bytes, an answer has room for %d: send fewer inputs in one job, or ask for fewer outputs", size, most)
	}
	if failure != nil {
		return j.final(t, failure)
	}
	j.w.stats.prompt.Add(int64(j.req.counted))
	c := j.claim(t)
	c.Finish, c.Outputs = contracts.FinishStop, outputs
	c.Usage = &contracts.Usage{PromptTokens: j.req.counted, TotalTokens: j.req.counted}
	sum := t.Checksum
	sum.Add(c)
	c.Checksum = sum.Sum()
	now := time.Now()
	c.Timings = &contracts.Timings{
		Queued: milliseconds(j.queued()), Prefill: milliseconds(now.Sub(j.claimed)),
		FirstToken: milliseconds(max(0, now.Sub(time.UnixMilli(j.req.job.Submitted)))),
	}
	return c
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// outputs calls the graph and waits for what it yields.
func (j *job) outputs() ([]contracts.Tensor, error) {
	ctx := j.ctx
	if d := j.req.deadline; !d.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, d, contracts.Errorf(contracts.CodeDeadlineExceeded, "the deadline passed before the answer was there"))
		defer cancel()
	}
	calls, rank := j.w.cfg.Calls, slices.Index(contracts.Classes, j.ref.Class)
	if calls.Kind == contracts.KindEmbed {
		parts, places := texts(j.req.rows, j.w.gather.Limit())
		out, err := j.w.gather.Do(ctx, rank, parts...)
		if err != nil {
			return nil, err
		}
		return vectors(len(j.req.rows), places, out)
	}
	call := calls.tensors(j.req.job.Tensors)
	err := calls.fits(call, len(j.req.job.Tensors))
	var out [][]engine.Tensor
	if err == nil {
		out, err = j.w.gather.Do(ctx, rank, call)
	}
	switch {
	case err == nil:
		return wanted(j.req.job.Outputs, out[0])
	case errors.Is(err, engine.ErrBadTensor):
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "%v", err)
	case ctx.Err() != nil, errors.Is(err, batch.ErrHung), !errors.Is(err, gather.ErrRefused):
		return nil, err
	}
	j.log("the model refused", err)
	return nil, contracts.Errorf(contracts.CodeInvalidArgument, "the model does not compute with these inputs: %.300s", fmt.Sprint(err))
}
