package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// Stream is the answer of one job as it is written:
//
//	live ──(gap, overflow, silence)──▶ replay from OUT ──▶ live ──(final record)──▶ over
//
// It belongs to one goroutine, but Close may be called from any.
type Stream struct {
	c       *Client
	ctx     context.Context
	job     string
	answer  *contracts.Answer
	after   int  // records up to this index are not handed on
	attach  bool // begin with a replay
	cancel  bool // cancel the job when its reader leaves
	sub     *nats.Subscription
	live    chan *nats.Msg
	stop    func() bool // stops waiting for the end of ctx
	read    atomic.Bool
	seq     stream.Sequencer
	dropped int // live records that this reader was too slow for, as far as refilled
}

// Run submits j, as [Client.Submit] does, and returns its stream. It listens before it submits, so no
// record is missed. ctx bounds the whole stream. Leaving it early does not cancel the job unless
// j.CancelOnLeave is set.
func (c *Client) Run(ctx context.Context, j *contracts.Job) (*Stream, error) {
	data, err := c.prepare(j)
	if err != nil {
		return nil, err
	}
	s, err := c.listen(ctx, j.ID)
	if err != nil {
		return nil, err
	}
	s.after, s.cancel = -1, j.CancelOnLeave
	if s.answer, err = c.persist(ctx, j, data); err != nil {
		s.cancel = s.cancel && ctx.Err() != nil // else it was refused
		s.leave()
		return nil, err
	}
	return s, nil
}

// Follow attaches to a job that was submitted before, here or elsewhere: its records with an index
// above after (-1: all of them) are read from OUT, then live. It is how a reader resumes. With several
// choices, whose indexes run independently, resume with -1. A job that was never accepted, or that is
// past retention, is [contracts.CodeNotFound]; a job that waits for a worker is waited for.
func (c *Client) Follow(ctx context.Context, job string, after int) (*Stream, error) {
	if job == "" {
		return nil, contracts.Invalid("job", "job id is missing")
	}
	if !c.canReplay() {
		return nil, contracts.Errorf(contracts.CodePermissionDenied, "following a job needs to read the stream OUT, which this client may not")
	}
	s, err := c.listen(ctx, job)
	if err != nil {
		return nil, err
	}
	s.after, s.attach = after, true
	if err := s.exists(); err != nil {
		s.Close()
		return nil, s.explain(ctx, err)
	}
	return s, nil
}

// listen subscribes to the live records of a job.
func (c *Client) listen(ctx context.Context, job string) (*Stream, error) {
	s := &Stream{c: c, ctx: ctx, job: job, live: make(chan *nats.Msg, c.buffer)}
	subj := subject.Live(c.tenant, job)
	before := c.nc.LastError()
	var err error
	if s.sub, err = c.nc.ChanSubscribe(subj, s.live); err != nil {
		return nil, contracts.Errorf(contracts.CodeUnavailable, "subscribe to %s: %v", subj, err)
	}
	s.stop = context.AfterFunc(ctx, s.unsubscribe)
	if c.mayRead.Load() {
		return s, nil
	}
	flush, stop := context.WithTimeout(ctx, c.timeout)
	defer stop()
	if err = c.nc.FlushWithContext(flush); err != nil {
		err = c.explain(ctx, flush, subj, err)
	} else if err = c.denied(before, subj); err == nil {
		c.mayRead.Store(true)
		return s, nil
	}
	s.Close()
	return nil, err
}

// exists tells an unknown job from one that waits. A job may be in SCHED first, and is in JOBS until its
// final record is in OUT; it only moves on in this order, so none is missed.
func (s *Stream) exists() error {
	out := subject.Out(s.c.tenant, s.job)
	for _, at := range []struct{ stream, subj string }{
		{topology.StreamOut, out}, {topology.StreamSched, subject.AnySched(s.c.tenant, s.job)}, {topology.StreamJobs, subject.AnyJob(s.c.tenant, s.job)}, {topology.StreamOut, out},
	} {
		seq, err := s.c.last(s.ctx, at.stream, at.subj)
		switch {
		case err == nil && seq > 0:
			return nil
		case err != nil && at.stream != topology.StreamOut && errors.Is(err, errNoReplay):
			return nil // may not look there: wait
		case err != nil:
			return err
		}
	}
	return contracts.Errorf(contracts.CodeNotFound, "no job %q of tenant %q: check the id; finished jobs are kept for a limited time", s.job, s.c.tenant)
}

// Job is the job's id.
func (s *Stream) Job() string { return s.job }

// Answer is the dispatcher's answer to the submit, nil after [Client.Follow].
func (s *Stream) Answer() *contracts.Answer { return s.answer }

// Close stops listening. It need not be called after Chunks or Text ran, nor when ctx ended.
func (s *Stream) Close() {
	s.stop()
	s.unsubscribe()
}

func (s *Stream) unsubscribe() { _ = s.sub.Unsubscribe() }

// Chunks yields the pieces of the answer in order, without gap or repeat, and last the final record,
// whose Err is the job's failure if it failed. An error of the reading itself is yielded with a nil
// chunk and ends the iteration; [Client.Follow] goes on from there. Chunks can be ranged over once.
func (s *Stream) Chunks() iter.Seq2[*contracts.Chunk, error] { return s.chunks(s.ctx) }

func (s *Stream) chunks(ctx context.Context) iter.Seq2[*contracts.Chunk, error] {
	return func(yield func(*contracts.Chunk, error) bool) {
		if s.read.Swap(true) {
			yield(nil, contracts.Errorf(contracts.CodeInvalidArgument, "the stream of job %s was read already: use Follow", s.job))
			return
		}
		defer s.leave()
		r := reader{Stream: s, ctx: ctx, yield: yield}
		if err := r.run(); err != nil && !errors.Is(err, errLeft) {
			yield(nil, s.explain(ctx, err))
		}
	}
}

// Text reads the whole answer: the text of choice 0 and the counts of tokens. If the job failed or the
// reading did, it returns what it has with the error.
func (s *Stream) Text(ctx context.Context) (string, *contracts.Usage, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(s.ctx.Err()) })()
	var text strings.Builder
	for c, err := range s.chunks(ctx) {
		if err != nil {
			return text.String(), nil, err
		}
		if c.Choice == 0 {
			text.WriteString(c.Text)
		}
		if c.Final() {
			return text.String(), c.Usage, c.Err()
		}
	}
	return text.String(), nil, contracts.Errorf(contracts.CodeInternal, "the stream of job %s ended without a final record", s.job)
}

// leave ends the subscription and, if the job is to end with its reader, the job. For that it takes up to 3 s: the
// connection or the dispatcher may be away just now.
func (s *Stream) leave() {
	s.Close()
	if !s.cancel || s.seq.Done() {
		return
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(s.ctx), 3*time.Second)
	defer stop()
	for ctx.Err() == nil {
		once, enough := context.WithTimeout(ctx, time.Second) // the connection may go with the request
		_, err := s.c.Cancel(once, s.job)
		enough()
		switch code := contracts.CodeOf(err); {
		case code == contracts.CodeUnavailable, code == contracts.CodeDeadlineExceeded:
		case code == contracts.CodeNotFound && s.answer == nil: // the submit is on its way
		default:
			return // nobody is left to tell
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// explain makes a coded error of a failure to read, unless the reader's context ended.
func (s *Stream) explain(ctx context.Context, err error) error {
	var coded *contracts.Error
	if ended := ctx.Err(); ended != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) { // with a cause of its own
		err = fmt.Errorf("%w: %w", ended, err)
	}
	switch {
	case errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("read job %s: %w", s.job, err)
	case errors.Is(err, errLost):
		return contracts.Errorf(contracts.CodeNotFound, "records of job %s after token %d are no longer kept: read streams sooner, or keep OUT longer", s.job, s.seq.Tokens(0))
	}
	return contracts.Errorf(contracts.CodeUnavailable, "read job %s: %v: follow it again when the broker is back", s.job, err)
}
