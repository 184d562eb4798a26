package dispatcher

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Trace reports what happens in a dispatcher. Every func is optional, must be safe for concurrent use
// and must return soon; what it is given is not to be changed.
type Trace struct {
	// Admitted: a new job was published; took is from its arrival to the broker's acknowledgement.
	Admitted func(job *contracts.Admitted, size contracts.Size, took time.Duration)
	// Held: a new job waits in SCHED, for its turn or its time; Admitted was called too.
	Held func(job *contracts.Admitted)
	// Attached: a repeated submit found its job, queued, running or finished.
	Attached func(tenant, job string)
	// Refused: a submit was answered with an error. model is as the producer wrote it.
	Refused func(tenant, model string, err *contracts.Error)
	// FirstChunk: the first piece of a stream begun by Start reached it; ttft is from the arrival of the
	// job at this dispatcher.
	FirstChunk func(job *contracts.Admitted, ttft time.Duration)
	// Finished: the final record of a stream begun by Start reached it; took is from the job's arrival.
	Finished func(job *contracts.Admitted, final *contracts.Chunk, took time.Duration)
	// Left: a reader left a stream begun by Start or Stream before its end.
	Left func(tenant, job string)
	// Refilled: a reader had missed live records and got them from OUT.
	Refilled func(tenant, job string)
	// Canceled: a cancel ended; took is until the slot was free.
	Canceled func(status contracts.Status, took time.Duration)
	// Ended: this dispatcher wrote the final record of a job that no worker ended.
	Ended func(final *contracts.Chunk)
	// HandedOver: this dispatcher gave the job of a dead worker back to the queue.
	HandedOver func(tenant, job, worker string)
	// Preempted: this dispatcher asked the holder of a job to give it back, for a more urgent one.
	Preempted func(tenant, job, worker string)
	// Predicted: the first token of a job came after actual, of which predicted was said when it was submitted.
	Predicted func(model string, class contracts.Class, predicted, actual time.Duration)
	// Moved: a ladder or a breaker did.
	Moved func(event *contracts.Event)
	// Top: the rung of a model's ladder below which jobs are let through, each second.
	Top func(model string, rung float64)
	// Clock: this machine's clock is so much ahead of the broker's; each Rescan.
	Clock func(ahead time.Duration)
	// Rested: this dispatcher told a worker that fails or is slow to take no jobs for a while.
	Rested func(worker string)
	// Dropped: a request was ignored, with the reason.
	Dropped func(subject, reason string)
}
