package contractstest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// Fleet is a fake dispatcher and worker for the tests of producers: it answers submits and cancels and
// writes the records of each job to OUT as a real worker does, one word a token. It has no queue, no
// model and no limits: a job is running as soon as it is admitted.
type Fleet struct {
	t      T
	nc     *nats.Conn
	js     jetstream.JetStream
	models []string
	pace   <-chan struct{}

	ctx  context.Context
	wg   sync.WaitGroup
	mu   sync.Mutex
	jobs map[string]*fakeJob // by tenant and id

	closed bool
}

// fakeJob is one job of a Fleet.
type fakeJob struct {
	job    contracts.Job
	digest string
	cancel context.CancelFunc
	taken  chan struct{} // closed after the claim
	done   chan struct{} // closed after the final record
	final  *contracts.Chunk
}

// FleetOption changes a Fleet.
type FleetOption func(*Fleet)

// Models makes the fleet refuse jobs for other models; the default is to serve every name.
func Models(names ...string) FleetOption { return func(f *Fleet) { f.models = names } }

// Paced makes the fleet take a value from pace before each piece and before the final record, so that a
// test decides when they are written.
func Paced(pace <-chan struct{}) FleetOption { return func(f *Fleet) { f.pace = pace } }

// FakeFleet starts a Fleet on nc, whose server must have JetStream. It ends with the test.
func FakeFleet(t T, nc *nats.Conn, opts ...FleetOption) *Fleet {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("fake fleet: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &Fleet{t: t, nc: nc, js: js, ctx: ctx, jobs: map[string]*fakeJob{}}
	for _, o := range opts {
		o(f)
	}
	if _, err := topology.Ensure(ctx, js, topology.Config{Memory: true}); err != nil {
		t.Fatalf("fake fleet: %v", err)
	}
	submits := f.subscribe(subject.AllSubmits, f.submit)
	cancels := f.subscribe(subject.AllCancels, f.cancel)
	if err := nc.Flush(); err != nil {
		t.Fatalf("fake fleet: %v", err)
	}
	t.Cleanup(func() {
		_, _ = submits.Unsubscribe(), cancels.Unsubscribe()
		cancel()
		f.mu.Lock() // no callback starts a goroutine from here on
		f.closed = true
		f.mu.Unlock()
		f.wg.Wait()
	})
	return f
}

func (f *Fleet) subscribe(subj string, h nats.MsgHandler) *nats.Subscription {
	sub, err := f.nc.QueueSubscribe(subj, "dispatcher", h)
	if err != nil {
		f.t.Fatalf("fake fleet: subscribe %s: %v", subj, err)
	}
	return sub
}

// Jobs are the jobs admitted so far, by id.
func (f *Fleet) Jobs() map[string]contracts.Job {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]contracts.Job, len(f.jobs))
	for _, j := range f.jobs {
		out[j.job.ID] = j.job
	}
	return out
}

func (f *Fleet) submit(msg *nats.Msg) {
	a := contracts.Answer{V: contracts.Version, Outcome: contracts.OutcomeAdmitted}
	j, err := f.admit(msg)
	if j != nil {
		a.Job = j.ID
	}
	if err != nil {
		e := contracts.AsError(err)
		a.Outcome, a.Code, a.Message, a.Param, a.RetryAfterMS = contracts.OutcomeRejected, e.Code, e.Message, e.Param, e.RetryAfterMS
	} else {
		a.Live = subject.Live(j.Tenant, j.ID)
	}
	f.answer(msg, &a)
}

func (f *Fleet) answer(msg *nats.Msg, v any) {
	data, err := contracts.Encode(v)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil && f.ctx.Err() == nil && !errors.Is(err, nats.ErrMsgNoReply) {
		f.t.Errorf("fake fleet: answer %T: %v", v, err)
	}
}

// admit checks a submitted job and starts it.
func (f *Fleet) admit(msg *nats.Msg) (*contracts.Job, error) {
	var j contracts.Job
	if err := contracts.Decode(msg.Data, &j); err != nil {
		return nil, err
	}
	tenant, err := subject.ParseSubmit(msg.Subject)
	if err != nil {
		return &j, err
	}
	j.Tenant = cmp.Or(j.Tenant, tenant)
	if j.Tenant != tenant {
		return &j, &contracts.Error{Code: contracts.CodePermissionDenied, Param: "tenant", Message: fmt.Sprintf("job of tenant %q submitted as tenant %q", j.Tenant, tenant)}
	}
	if err := j.Validate(); err != nil {
		return &j, err
	}
	if len(f.models) > 0 && !slices.Contains(f.models, j.Model) {
		return &j, &contracts.Error{Code: contracts.CodeModelNotFound, Param: "model", Message: fmt.Sprintf("no model %q here: use one of %s", j.Model, strings.Join(f.models, ", "))}
	}
	return &j, f.start(j)
}

// start runs j unless it was admitted before. As with a real fleet, the streams know the job when start
// returns.
func (f *Fleet) start(j contracts.Job) error {
	run, err := f.enter(j)
	if err != nil {
		return err
	}
	select {
	case <-run.taken:
		return nil
	case <-f.ctx.Done():
		return contracts.Errorf(contracts.CodeUnavailable, "the fake fleet has ended")
	}
}

func (f *Fleet) enter(j contracts.Job) (*fakeJob, error) {
	asked := j
	asked.Submitted, asked.Deadline = 0, 0
	data, err := contracts.Encode(&asked)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, contracts.Errorf(contracts.CodeUnavailable, "the fake fleet has ended")
	}
	key, digest := j.Tenant+"\x00"+j.ID, hex.EncodeToString(sum[:])
	if before := f.jobs[key]; before != nil {
		if before.digest != digest {
			return nil, &contracts.Error{Code: contracts.CodeConflict, Param: "job", Message: fmt.Sprintf("job id %q was used before for another request: choose a new one", j.ID)}
		}
		return before, nil
	}
	ctx, cancel := context.WithCancel(f.ctx)
	run := &fakeJob{job: j, digest: digest, cancel: cancel, taken: make(chan struct{}), done: make(chan struct{})}
	f.jobs[key] = run
	f.wg.Go(func() {
		defer cancel()
		f.run(ctx, run)
	})
	return run, nil
}

// cancel ends a job and answers after its final record.
func (f *Fleet) cancel(msg *nats.Msg) {
	tenant, id, err := subject.ParseJobRef("cancel", msg.Subject)
	f.mu.Lock()
	defer f.mu.Unlock()
	run := f.jobs[tenant+"\x00"+id]
	if f.closed {
		return
	}
	if err != nil || run == nil {
		f.answer(msg, &contracts.Answer{V: contracts.Version, Job: id, Outcome: contracts.OutcomeRejected, Code: contracts.CodeNotFound, Message: fmt.Sprintf("no job %q of tenant %q", id, tenant)})
		return
	}
	run.cancel()
	f.wg.Go(func() {
		select {
		case <-run.done:
		case <-f.ctx.Done():
			return
		}
		j, c := &run.job, run.final
		s := contracts.StatusOf(j.Tenant, j.ID, c.Claim, c)
		f.answer(msg, &s)
	})
}

// writer appends one job's records to OUT, each only after the one before.
type writer struct {
	f    *Fleet
	subj string
	last uint64
	sum  stream.Checksum
}

func (w *writer) write(c *contracts.Chunk) error {
	data, err := contracts.Encode(c)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(w.f.ctx), 10*time.Second)
	defer stop()
	ack, err := w.f.js.Publish(ctx, w.subj, data, jetstream.WithExpectLastSequencePerSubject(w.last))
	if err != nil {
		return err
	}
	w.last = ack.Sequence
	w.sum.Add(c)
	return nil
}

// run writes a job's records: the claim, the pieces of each choice, the final record.
func (f *Fleet) run(ctx context.Context, run *fakeJob) {
	began := time.Now()
	j := &run.job
	w := &writer{f: f, subj: subject.Out(j.Tenant, j.ID)}
	claim := &contracts.Claim{Worker: "fake", Attempt: 1, Model: j.Model, Class: cmp.Or(j.Class, contracts.P2), Submitted: j.Submitted, Digest: run.digest}
	final := &contracts.Chunk{V: contracts.Version, Job: j.ID, Fence: 1, Claim: claim, Usage: &contracts.Usage{PromptTokens: len(strings.Fields(prompt(j)))}}
	err := w.write(&contracts.Chunk{V: contracts.Version, Job: j.ID, Fence: 1, Claim: claim})
	close(run.taken)
	if err == nil {
		final.Finish, err = f.pieces(ctx, w, j, final)
	}
	switch {
	case errors.Is(err, context.Canceled):
		final.Finish, final.Code, final.Message = contracts.FinishCancelled, contracts.CodeCanceled, "canceled by the caller"
	case err != nil:
		f.report(j, err)
		return
	}
	final.Usage.TotalTokens = final.Usage.PromptTokens + final.Usage.CompletionTokens
	final.Timings = &contracts.Timings{Decode: float64(time.Since(began).Microseconds()) / 1000}
	final.Checksum = w.sum.Sum()
	if f.ctx.Err() == nil {
		if err := w.write(final); err != nil {
			f.report(j, err)
		}
	}
	run.final = final
	close(run.done)
}

// report fails the test, unless the test closed the fleet's connection.
func (f *Fleet) report(j *contracts.Job, err error) {
	if !f.nc.IsClosed() {
		f.t.Errorf("fake fleet: job %s: %v", j.ID, err)
	}
}

// pieces writes the pieces of all choices, one after the other, and counts them in final.
func (f *Fleet) pieces(ctx context.Context, w *writer, j *contracts.Job, final *contracts.Chunk) (finish string, err error) {
	n, limit := 1, 512
	if j.Params.N != nil {
		n = *j.Params.N
	}
	if j.Params.MaxTokens != nil {
		limit = *j.Params.MaxTokens
	}
	text := echo(j)
	finish = contracts.FinishStop
	if len(text) > limit {
		text, finish = text[:limit], contracts.FinishLength
	}
	for choice := range n {
		for i, piece := range text {
			if err := f.wait(ctx); err != nil {
				return "", err
			}
			c := &contracts.Chunk{V: contracts.Version, Job: j.ID, Fence: 1, Index: i, Choice: choice, Tokens: []int32{int32(i + 1)}, Text: piece}
			if n > 1 && i == len(text)-1 {
				c.Finish = finish
			}
			if err := w.write(c); err != nil {
				return "", err
			}
			final.Usage.CompletionTokens++
			if choice == 0 {
				final.Index++
			}
		}
	}
	return finish, f.wait(ctx)
}

func (f *Fleet) wait(ctx context.Context) error {
	if f.pace == nil {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.pace:
		return nil
	}
}

func prompt(j *contracts.Job) string {
	if len(j.Messages) > 0 {
		return j.Messages[len(j.Messages)-1].Content
	}
	return j.Prompt
}

func echo(j *contracts.Job) []string {
	pieces := []string{"You", " said:"}
	for _, word := range strings.Fields(prompt(j)) {
		pieces = append(pieces, " "+word)
	}
	return pieces
}
