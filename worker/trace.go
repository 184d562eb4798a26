package worker

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/gather"
)

// Job names a job in a trace.
type Job struct {
	ID      string
	Tenant  string
	Model   string
	Class   contracts.Class
	Size    contracts.Size
	Attempt int
}

// Trace hears what a worker does. Every func is optional, may be called from several goroutines at
// once and must not block.
type Trace struct {
	// Pulled: a job arrived from the queue.
	Pulled func(Job)
	// Claimed: the job is ours; queued is the time since it was submitted, emitted how many tokens
	// earlier holders wrote.
	Claimed func(j Job, queued time.Duration, emitted int)
	// FirstToken: the job's first token was generated, so long after it was submitted. Not called for
	// a job whose first token came from an earlier holder.
	FirstToken func(j Job, sinceSubmit time.Duration)
	// Step: the engine ran one forward pass.
	Step func(batch.Step)
	// Called: the graph of a model that answers in one call was called.
	Called func(gather.Step)
	// Emitted: a record with so many tokens was accepted, so long after the job's previous one (0 for
	// the first).
	Emitted func(j Job, tokens int, sincePrevious time.Duration)
	// Told: a dispatcher told this worker to end the job: with CodeCanceled, or with none to give it back.
	Told func(Job, contracts.Code)
	// Finished: the final record was accepted.
	Finished func(j Job, final *contracts.Chunk)
	// Spent: the job, which leaves this worker, had so much of the device's time, its share of the steps that it was
	// in. wasted is why that led to no answer, or not here: the code of the final record, the release by which the job
	// was handed back (its prompt must be fed again), or CodeLeaseLost.
	Spent func(j Job, device time.Duration, wasted string)
	// HandedBack: the job went back to the queue before its end.
	HandedBack func(j Job, why contracts.Release, cause error)
	// Fenced: another worker has the job, or may have it; it was dropped silently.
	Fenced func(Job)
	// Heartbeat: what was just sent.
	Heartbeat func(*contracts.Heartbeat)
}
