package worker

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/runtime/sampler"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/emit"
	"github.com/pelton-run/pelton/worker/intake"
	"github.com/pelton-run/pelton/worker/lease"
	"github.com/pelton-run/pelton/worker/resume"
)

// job is one delivery of a job, from its arrival to the last word to the queue:
//
//	received -> room -> claimed -> running -> final record -> acknowledged
//	     \         \        \          \-> release record -> handed back
//	      \---------\        \-> dead letter -> final record (holders failed too often)
//	       \---------\-> final record without running (refused, canceled, out of time)
//
// At any point another holder may be found: then it is dropped silently.
type job struct {
	w        *Worker
	name     Job
	ref      subject.Job
	req      *request
	lease    *lease.Lease
	room     *intake.Reservation
	each     int64 // KV bytes of one choice
	claimed  time.Time
	admitted []byte // as the queue held it
	failures int    // of earlier holders
	unfit    int    // the newest holders, if they were too small or too old

	ctx    context.Context // ends with the cause given to end
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	seqs     []*batch.Sequence // by choice
	writer   *emit.Writer
	yielding bool // gives way when asked to
	device   time.Duration

	batched sync.WaitGroup // sequences that the batch has
}

// receive takes a message over from the intake. It blocks only while the job needs more room than its
// size class promised; then nothing else is taken until it fits.
func (w *Worker) receive(taking, hard context.Context, msg *nats.Msg, room *intake.Reservation) {
	ref, err := subject.ParseJob(msg.Subject)
	var l *lease.Lease
	if err == nil {
		l, err = lease.New(w.cfg.Conn, msg, w.cfg.AckWait/3)
	}
	if err != nil {
		w.cfg.Logger.Error("message is not a job", "worker", w.cfg.Name, "subject", msg.Subject, "err", err)
		room.Close()
		_ = w.cfg.Conn.Publish(msg.Reply, []byte("+TERM not a job"))
		return
	}
	j := &job{w: w, ref: ref, lease: l, room: room, claimed: time.Now(), admitted: msg.Data,
		name: Job{ID: ref.Job, Tenant: ref.Tenant, Model: ref.Model, Class: ref.Class, Size: ref.Size, Attempt: l.Delivery().Attempt}}
	j.ctx, j.cancel = context.WithCancelCause(context.Background())
	w.cfg.Trace.Pulled(j.name)
	w.register(j)
	req, refusal := parse(ref, msg.Data, w.info, w.cfg.Calls)
	if j.req = req; refusal == nil && w.forms != nil {
		req.form, refusal = w.forms.of(&req.job.Params)
	}
	var early error
	if refusal != nil {
		early = refusal
	} else {
		for range req.choices {
			room.Feed(len(req.prompt))
		}
		early = j.fit(taking)
	}
	go j.run(hard, early)
}

// fit makes the reservation exactly what the job needs.
func (j *job) fit(taking context.Context) error {
	j.each = j.w.info.KVBytes(j.req.tokens())
	ctx, stop := context.WithCancelCause(taking)
	defer stop(nil)
	defer context.AfterFunc(j.ctx, func() { stop(context.Cause(j.ctx)) })()
	if d := j.req.deadline; !d.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, d, contracts.Errorf(contracts.CodeDeadlineExceeded, "the deadline passed before the job could start"))
		defer cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	err := j.room.Fit(ctx, int64(j.req.choices)*j.each, j.req.choices)
	if errors.Is(err, intake.ErrNeverFits) {
		bytes, slots := j.w.room.Size()
		return contracts.Errorf(contracts.CodeResourceExhausted, "the job needs %d bytes of KV cache in %d sequences, this worker has %d in %d",
			int64(j.req.choices)*j.each, j.req.choices, bytes, slots)
	}
	return err
}

// end asks for the job's end; the first cause counts. Of a job that another holder has, the queue hears
// nothing more.
func (j *job) end(cause error) {
	j.cancel(cause)
	if silent(cause) {
		j.lease.Stop()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.seqs {
		if s != nil { // nil: an earlier holder completed the choice
			j.w.loop.End(s, context.Cause(j.ctx))
		}
	}
}

// tokens is how many tokens the stream holds.
func (j *job) tokens() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.writer == nil {
		return 0
	}
	return j.writer.Tokens()
}

// yields tells whether the job runs and gives way when asked to.
func (j *job) yields() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.yielding
}

// run is the job's goroutine. early is why the job shall not run at all.
func (j *job) run(hard context.Context, early error) {
	defer j.w.unregister(j)
	defer j.cancel(nil)
	final, err := j.safely(func() (*contracts.Chunk, error) { return j.serve(hard, early) })
	j.batched.Wait() // after a panic; a writer that ran to its end has heard of all
	j.room.Close()
	j.settle(hard, final, err)
}

// safely turns a panic into an error. Sequences that still run are ended; what they say is not heard.
func (j *job) safely(f func() (*contracts.Chunk, error)) (final *contracts.Chunk, err error) {
	defer func() {
		if r := recover(); r != nil {
			final, err = nil, batch.Panicked(j.w.cfg.Logger, "job", r, debug.Stack(), "job", j.ref.Job, "tenant", j.ref.Tenant)
			j.end(errHandBack)
		}
	}()
	return f()
}

// serve claims the job, runs it and writes its stream. early is why it shall not run.
func (j *job) serve(hard context.Context, early error) (*contracts.Chunk, error) {
	if silent(early) || errors.Is(early, errHandBack) {
		return nil, early
	}
	if early != nil {
		j.room.Close()
	}
	refusal, why := j.verdict(early)
	var first *contracts.Chunk
	chain, t, err := lease.Take(hard, j.w.cfg.Conn, j.ref.Tenant, j.ref.Job, j.lease.Delivery(), func(t *resume.Transcript) *contracts.Chunk {
		if first = j.claim(t); refusal != nil && why == "" {
			first = j.final(t, refusal)
		}
		return first
	})
	switch {
	case err != nil:
		return nil, err
	case first.Final():
		return first, nil
	}
	j.failures, j.unfit = first.Claim.Failures, t.Unfit()
	if early == nil && contracts.CodeOf(t.Broken) == contracts.CodeUnimplemented { // a newer worker began it
		early = t.Broken
		refusal, why = j.verdict(early)
	}
	switch {
	case j.failures >= j.w.cfg.MaxFailures:
		return j.giveUp(hard, chain, t)
	case early != nil:
		return nil, j.release(hard, chain, first, why, refusal, early)
	}
	j.w.cfg.Trace.Claimed(j.name, j.queued(), t.Tokens())
	if t.Broken != nil || len(t.Choices) > j.req.choices {
		j.log("stream cannot be continued", t.Broken)
		final := j.final(t, contracts.Errorf(contracts.CodeInternal, "part of the answer is lost: submit the job again under a new id"))
		return final, chain.Append(hard, final)
	}
	if j.w.gather != nil {
		return j.compute(hard, chain, t, first)
	}
	return j.stream(hard, chain, t, first)
}

// stream runs a claimed job and writes what it says, up to the final record or the release.
func (j *job) stream(hard context.Context, chain *lease.Chain, t *resume.Transcript, claim *contracts.Chunk) (*contracts.Chunk, error) {
	j.lease.Guard(chain.Lost, func() { j.end(lease.ErrFenced) })
	w := j.start(chain, t, claim.Claim)
	cause := w.Run(hard)
	if silent(cause) {
		return nil, cause
	}
	failure, why := j.verdict(cause)
	if why != "" {
		claim.Index = w.Index()
		return nil, j.release(hard, chain, claim, why, failure, cause)
	}
	return w.Final(hard, failure)
}

// start puts the job's choices into the batch, each after what is in its stream already.
func (j *job) start(chain *lease.Chain, t *resume.Transcript, claim *contracts.Claim) *emit.Writer {
	starts := make([]emit.Start, j.req.choices)
	for i, c := range t.Choices {
		starts[i] = emit.Start{Tokens: c.Tokens, Finish: c.Finish}
	}
	trace := j.w.cfg.Trace
	w := emit.New(emit.Config{
		Log: chain, Vocabulary: j.w.cfg.Tokenizer, Claim: *claim, Prompt: len(j.req.prompt), Choices: starts, Checksum: t.Checksum,
		Stops: j.req.job.Params.Stop, Logprobs: j.req.job.Params.Logprobs,
		Pace: j.w.pace, FlushTokens: j.w.cfg.FlushTokens,
		Stop: j.stop, Fail: j.end, Claimed: j.claimed, FirstToken: t.First,
		First: func(since time.Duration) { trace.FirstToken(j.name, since) },
		Emitted: func(tokens int, since time.Duration) {
			j.w.stats.output.Add(int64(tokens))
			trace.Emitted(j.name, tokens, since)
		},
	})
	var seqs []*batch.Sequence
	byChoice := make([]*batch.Sequence, j.req.choices)
	for i := range starts {
		if w.Complete(i) {
			j.room.Fed(len(j.req.prompt)) // it needs none
			j.room.Release(j.each, 1)
			continue
		}
		byChoice[i] = batch.NewSequence(j.spec(i, starts[i].Tokens, w))
		seqs = append(seqs, byChoice[i])
	}
	j.batched.Add(len(seqs)) // before they can be ended
	j.mu.Lock()
	j.writer, j.seqs, j.yielding = w, byChoice, claim.Preempted < topology.MaxPreempt
	j.mu.Unlock()
	j.w.loop.Add(seqs...)
	if j.ctx.Err() != nil { // canceled before the sequences were known
		j.end(context.Cause(j.ctx))
	}
	return w
}

func (j *job) spec(choice int, replay []int32, w *emit.Writer) batch.Spec {
	params := j.req.sampling
	params.Seed = sampler.StreamSeed(params.Seed, choice)
	if j.req.form != nil {
		params.Constraint = j.req.form.Matcher(j.w.forms.vocabulary())
	}
	s := batch.Spec{
		Choice: choice, Rank: slices.Index(contracts.Classes, j.ref.Class), Scope: j.ref.Tenant, Prompt: j.req.prompt, Replay: replay,
		MaxTokens: j.req.max, EOS: j.w.cfg.EOS, Sampler: sampler.New(params, j.req.prompt), Deadline: j.req.deadline,
		Alone: j.failures > 0 && j.failures == j.w.cfg.MaxFailures-1, // or it may be given up for what another one does
		Sink:  &seat{Writer: w, job: j},
	}
	if j.req.job.Params.IgnoreEOS {
		s.EOS = nil
	}
	return s
}

// seat is a sequence's sink: the writer, and the memory that the sequence holds.
type seat struct {
	*emit.Writer
	job *job
	fed bool // its prompt does not wait any more
}

// Prefilled counts the prompt.
func (s *seat) Prefilled(choice int, at time.Time) {
	s.job.w.stats.prompt.Add(int64(len(s.job.req.prompt)))
	s.feed()
	s.Writer.Prefilled(choice, at)
}

// feed takes the prompt off those that wait, once.
func (s *seat) feed() {
	if !s.fed {
		s.fed = true
		s.job.room.Fed(len(s.job.req.prompt))
	}
}

// Ended frees the sequence's room before the writer hears of it, so that what is written afterwards
// finds it free.
func (s *seat) Ended(choice int, e batch.End) {
	defer s.job.batched.Done()
	s.feed()
	s.job.room.Release(s.job.each, 1)
	s.job.mu.Lock()
	s.job.device += e.Device
	s.job.mu.Unlock()
	s.Writer.Ended(choice, e)
}

// stop ends one choice whose text is complete.
func (j *job) stop(choice int) {
	j.mu.Lock()
	s := j.seqs[choice]
	j.mu.Unlock()
	j.w.loop.End(s, nil)
}

func (j *job) queued() time.Duration {
	return max(0, j.claimed.Sub(time.UnixMilli(j.req.job.Submitted)))
}

func (j *job) log(text string, err error) {
	j.w.cfg.Logger.Warn(text, "worker", j.w.cfg.Name, "job", j.ref.Job, "tenant", j.ref.Tenant, "attempt", j.name.Attempt, "err", err)
}
