package gateway

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gate"
)

// deadlineGrace is how long after a job's deadline its final record may still come.
const deadlineGrace = 10 * time.Second

// record is one step of the stream of one of a run's jobs.
type record struct {
	prompt int // index of the job
	chunk  *contracts.Chunk
	err    error
}

// run is the jobs of one request while its handler waits for them. The handler's goroutine owns it;
// one more goroutine for each job carries its chunks to records.
type run struct {
	g       *gateway
	ctx     context.Context
	stop    context.CancelFunc
	jobs    []*contracts.Job
	keep    bool   // the jobs outlive the request
	open    []bool // started and without a final record so far
	left    int    // jobs that are open
	answer  *contracts.Answer
	records chan record
	follows sync.WaitGroup // goroutines that carry chunks
}

// partError is the failure of one of a request's jobs.
type partError struct {
	part int // index of the job
	error
}

// Unwrap lets contracts.AsError find the code.
func (e *partError) Unwrap() error { return e.error }

// begin submits jobs and follows them. Without keep, [run.close] cancels what is not finished.
func (g *gateway) begin(ctx context.Context, jobs []*contracts.Job, keep bool) (*run, error) {
	r := &run{g: g, jobs: jobs, keep: keep, open: make([]bool, len(jobs)), records: make(chan record, 64)}
	if d := jobs[0].Deadline; d > 0 { // one that has passed is no matter when the job is there already
		r.ctx, r.stop = context.WithTimeout(ctx, max(0, time.Until(time.UnixMilli(d)))+deadlineGrace)
	} else {
		r.ctx, r.stop = context.WithCancel(ctx)
	}
	known := make([]bool, len(jobs)) // submitted before this request
	for i, j := range jobs {
		answer, chunks, err := g.cfg.Jobs.Start(r.ctx, j)
		if answer != nil && j.ID == "" {
			j.ID = answer.Job
		}
		if err == nil && answer != nil {
			err = answer.Err()
		}
		if err != nil {
			if r.ctx.Err() != nil { // the caller left in between: the job may be in the fleet
				r.open[i], r.left = true, r.left+1
			}
			r.give(err, known)
			r.close()
			return nil, &partError{i, err}
		}
		r.open[i], r.left = true, r.left+1
		known[i] = answer.Attached
		if i == 0 {
			r.answer = answer
		}
		r.follows.Go(func() { r.follow(i, chunks) })
	}
	return r, nil
}

// give gives up the jobs of a request that would be refused again if it were repeated, so that nobody comes back for
// them, but for those that an earlier request submitted.
func (r *run) give(err error, known []bool) {
	if r.keep && r.ctx.Err() == nil && !contracts.CodeOf(err).Info().Retryable {
		r.keep = false
		for i := range r.open {
			r.open[i] = r.open[i] && !known[i]
		}
	}
}

// follow carries one job's stream to records, up to its final record or failure.
func (r *run) follow(prompt int, chunks iter.Seq2[*contracts.Chunk, error]) {
	send := func(rec record) bool {
		select {
		case r.records <- rec:
			return rec.err == nil && !rec.chunk.Final()
		case <-r.ctx.Done():
			return false
		}
	}
	defer func() {
		if p := recover(); p != nil {
			send(record{prompt: prompt, err: gate.Panicked(r.g.cfg.Logger, p, "job", r.jobs[prompt].ID)})
		}
	}()
	for c, err := range chunks {
		if !send(record{prompt: prompt, chunk: c, err: err}) {
			return
		}
	}
	id := r.jobs[prompt].ID
	send(record{prompt: prompt, err: contracts.Errorf(contracts.CodeUnavailable, "the stream of job %s ended before its final record: ask GET /v1/jobs/%s", id, id)})
}

// take accounts for a record; the error is the stream's, not the job's own.
func (r *run) take(rec record) (*contracts.Chunk, error) {
	if rec.err != nil {
		return nil, rec.err
	}
	if rec.chunk.Final() && r.open[rec.prompt] {
		r.open[rec.prompt] = false
		r.left--
	}
	return rec.chunk, nil
}

// own is the failure of a job of the run. With a key there is no use in trying again: the job has ended, and so
// nobody comes back for the others.
func (r *run) own(err error) error {
	if err == nil || !r.keep {
		return err
	}
	r.keep = false
	e := *contracts.AsError(err)
	e.NoRetry = true
	return &e
}

// next waits for the next record.
func (r *run) next() (int, *contracts.Chunk, error) {
	select {
	case rec := <-r.records:
		c, err := r.take(rec)
		return rec.prompt, c, err
	case <-r.ctx.Done():
		return 0, nil, r.ctx.Err()
	}
}

// close ends the run: jobs without a final record are canceled, unless they outlive it. It returns
// after their slots are free, or after Config.CancelTime.
func (r *run) close() {
	r.stop()
	if r.keep || r.left == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), r.g.cfg.CancelTime)
	defer cancel()
	var canceling sync.WaitGroup
	for i, j := range r.jobs {
		if r.open[i] {
			canceling.Go(func() { r.g.cancel(ctx, j.Tenant, j.ID) })
		}
	}
	canceling.Wait()
}

// cancel cancels a job whose caller left.
func (g *gateway) cancel(ctx context.Context, tenant, job string) {
	_, err := g.cfg.Jobs.Cancel(ctx, tenant, job)
	g.left(ctx, tenant, job, err)
}

// leave ends the reading of a job that outlives the request, and tells that its reader left.
func (r *run) leave(tenant, job string) {
	r.stop()
	r.follows.Wait()
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.ctx), r.g.cfg.CancelTime)
	defer stop()
	r.g.left(ctx, tenant, job, r.g.cfg.Jobs.Leave(ctx, tenant, job))
}

// left logs why the job of a caller that left was not canceled; that it is gone already is fine.
func (g *gateway) left(ctx context.Context, tenant, job string, err error) {
	e, known := errors.AsType[*contracts.Error](err)
	if err != nil && (!known || e.Code != contracts.CodeNotFound) {
		g.cfg.Logger.WarnContext(ctx, "job of a caller that left was not canceled", slog.String("job", job), slog.String("tenant", tenant), slog.String("error", err.Error()))
	}
}
