package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/emit"
	"github.com/pelton-run/pelton/worker/gather"
	"github.com/pelton-run/pelton/worker/intake"
)

// Causes with which a worker ends sequences itself.
var (
	errHandBack  = errors.New("the worker stops and hands the job back")
	errReplaced  = errors.New("the job was delivered to this worker once more")
	errPreempted = errors.New("the job gives way to a more urgent one")
)

// rest is how long a worker that was told to rest takes no jobs.
const rest = 10 * time.Second

// Worker serves one model. Its life:
//
//	New --Run--> ready --Drain--> draining --jobs done or out of time--> stopped
//	               +------ Run's ctx ends, or the engine hangs ----------> stopped
//
// Run may be called once. All other methods are safe from any goroutine.
type Worker struct {
	cfg    Config
	info   engine.Info
	room   *intake.Room
	budget int          // prompt tokens in one step
	loop   *batch.Loop  // of a model that writes text
	gather *gather.Loop // of one that answers in one call
	run    func(context.Context) error
	stats  stats
	forms  *forms     // of a model that writes text
	pace   *emit.Pace // of the records of all jobs here
	born   time.Time
	beat   chan struct{} // asks for a heartbeat now
	drains chan context.Context
	ended  chan struct{} // closed when Run has returned

	mu      sync.Mutex
	state   contracts.WorkerState
	started bool
	jobs    map[jobKey]*job
	running sync.WaitGroup // job goroutines
}

type jobKey struct{ tenant, job string }

// New checks cfg and makes a worker that waits for Run.
func New(cfg Config) (*Worker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	w := &Worker{
		cfg: cfg, born: time.Now(), state: contracts.WorkerReady, jobs: map[jobKey]*job{},
		pace: emit.NewPace(cfg.FlushInterval, emit.FlushMost, cfg.RecordRate),
		beat: make(chan struct{}, 1), drains: make(chan context.Context), ended: make(chan struct{}),
	}
	if cfg.Calls != nil {
		w.gathers()
		return w, nil
	}
	w.info = cfg.Engine.Info()
	w.room = intake.NewRoom(cfg.Memory, w.info.MaxSequences)
	w.forms = newForms(cfg.Tokenizer, w.info.Vocab, cfg.EOS)
	w.budget = cmp.Or(cfg.PrefillTokens, w.info.MaxStepTokens)
	w.room.Bound(w.budget)
	loop, err := batch.New(batch.Config{Engine: cfg.Engine, PrefillTokens: cfg.PrefillTokens, StepTimeout: cfg.StepTimeout, Logger: cfg.Logger, Stepped: func(s batch.Step) {
		w.stats.step(s)
		cfg.Trace.Step(s)
	}})
	if err != nil {
		return nil, err
	}
	w.loop, w.run = loop, loop.Run
	return w, nil
}

// gathers makes the loop of a model that answers in one call.
func (w *Worker) gathers() {
	c := w.cfg.Calls
	w.info = c.info()
	w.room = intake.NewRoom(w.cfg.Memory, w.info.MaxSequences)
	w.gather = gather.New(gather.Config{Graph: c.Graph, Limits: gather.Limits{Delay: c.Delay}, Timeout: w.cfg.StepTimeout, Logger: w.cfg.Logger, Ran: func(s gather.Step) {
		w.stats.step(batch.Step{Rows: s.Calls, Duration: s.Duration})
		w.cfg.Trace.Called(s)
	}})
	w.run = w.gather.Run
}

// cost is the memory that a job of a size class may need here: never more than the whole budget, so
// that every line can be asked.
func (w *Worker) cost(size contracts.Size) int64 {
	total, _ := w.room.Total()
	if w.gather != nil { // a job has any number of rows
		return min(w.info.KVBytes(size.Tokens()), total)
	}
	return Promise(w.info, size, total)
}

// Promise is the memory that a job of a size class may need on an engine, at most total bytes.
func Promise(info engine.Info, size contracts.Size, total int64) int64 {
	return min(info.KVBytes(min(size.Tokens(), info.ContextLength)), total)
}

// Run serves jobs until ctx ends or a Drain is over. It returns after every job is finished or handed
// back and the last heartbeat is sent; the engine is not used afterwards. An error says why it ended by
// itself: with [batch.ErrHung] a call to the engine is still out, and the process is best replaced.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.started {
		w.mu.Unlock()
		return fmt.Errorf("worker %s ran before: make a new one", w.cfg.Name)
	}
	w.started = true
	w.mu.Unlock()
	defer close(w.ended)

	deaf, err := w.listen()
	defer deaf()
	if err != nil {
		return err
	}
	background := context.WithoutCancel(ctx)
	var parts sync.WaitGroup
	beating, stopBeat := context.WithCancel(background)
	parts.Go(func() { w.beats(beating) })
	looping, stopLoop := context.WithCancelCause(background)
	broken, breakdown := context.WithCancelCause(background)
	defer breakdown(nil)
	parts.Go(func() {
		if err := w.run(looping); err != nil {
			breakdown(err)
		}
	})
	hard, kill := context.WithCancelCause(background)

	patience, err := w.serve(ctx, hard, broken)
	w.settle(ctx, patience, func() {
		kill(errHandBack)
		stopLoop(errHandBack)
	})
	kill(errHandBack)
	stopLoop(errHandBack)
	stopBeat()
	parts.Wait()
	w.setState(contracts.WorkerStopped)
	w.sendBeat()
	_ = w.cfg.Conn.FlushTimeout(time.Second)
	return errors.Join(err, context.Cause(broken))
}

// listen subscribes to what the dispatchers tell the holders of jobs, until deaf is called.
func (w *Worker) listen() (deaf func(), err error) {
	var subs []*nats.Subscription
	deaf = func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
	}
	for all, handle := range map[string]nats.MsgHandler{subject.AllCtlCancels: w.onCancel, subject.AllCtlPreempt: w.onPreempt, subject.CtlRest(w.cfg.Name): w.onRest, subject.CtlDrain(w.cfg.Name): w.onDrain} {
		sub, err := w.cfg.Conn.Subscribe(all, handle)
		if err != nil {
			return deaf, fmt.Errorf("worker %s: subscribe %s: %w", w.cfg.Name, all, err)
		}
		subs = append(subs, sub)
	}
	return deaf, nil
}

// serve takes jobs until ctx ends, a drain is asked for or the engine is broken. The context that it
// returns says how long running jobs may go on.
func (w *Worker) serve(ctx, hard, broken context.Context) (context.Context, error) {
	taking, stopIntake := context.WithCancelCause(context.WithoutCancel(ctx))
	taken := make(chan error, 1)
	in := intake.New(intake.Config{
		Conn: w.cfg.Conn, Model: w.info.Model, Room: w.room, Cost: w.cost, Sweep: w.cfg.Sweep, Logger: w.cfg.Logger,
		Handle: func(taking context.Context, msg *nats.Msg, r *intake.Reservation) { w.receive(taking, hard, msg, r) },
	})
	go func() { taken <- in.Run(taking) }()
	defer stopIntake(nil)
	patience := ctx
	select {
	case <-ctx.Done():
	case err := <-taken:
		return ctx, err
	case <-broken.Done():
		patience = broken
		w.setState(contracts.WorkerDraining)
	case patience = <-w.drains:
		w.setState(contracts.WorkerDraining)
	}
	stopIntake(errHandBack)
	return patience, <-taken
}

// settle waits until the jobs that run have ended, while neither ctx nor patience has; then it hands
// the rest back, and after a grace makes them let go.
func (w *Worker) settle(ctx, patience context.Context, force func()) {
	idle := make(chan struct{})
	go func() {
		w.running.Wait()
		close(idle)
	}()
	for waits := true; waits; {
		select {
		case <-idle:
			return
		case again := <-w.drains: // the one that ends first counts
			sooner, end := context.WithCancel(patience)
			context.AfterFunc(again, end)
			patience = sooner
		case <-ctx.Done():
			waits = false
		case <-patience.Done():
			waits = false
		}
	}
	w.mu.Lock()
	for _, j := range w.jobs {
		j.end(errHandBack)
	}
	w.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(w.cfg.StopGrace):
		w.cfg.Logger.Warn("jobs did not let go in time", "worker", w.cfg.Name, "grace", w.cfg.StopGrace)
		force()
		<-idle
	}
}

// Drain takes no new jobs, lets running ones finish until ctx ends, hands the rest back so that other
// workers continue them, and returns when Run has. A second drain can only make it end sooner. Without a Run it does
// nothing.
func (w *Worker) Drain(ctx context.Context) error {
	w.mu.Lock()
	started := w.started
	w.mu.Unlock()
	if !started {
		return nil
	}
	select {
	case w.drains <- ctx:
		<-w.ended
	case <-w.ended:
	}
	return nil
}

// onCancel ends the job that a control message names, if this worker has it.
func (w *Worker) onCancel(msg *nats.Msg) {
	if j := w.named("ctl.cancel", msg); j != nil {
		j.end(contracts.Errorf(contracts.CodeCanceled, "canceled by the caller"))
		w.cfg.Trace.Told(j.name, contracts.CodeCanceled)
	}
}

// onPreempt gives back the job that a control message names, if it runs here and has not given way too
// often.
func (w *Worker) onPreempt(msg *nats.Msg) {
	if j := w.named("ctl.preempt", msg); j != nil && j.yields() {
		j.end(errPreempted)
		w.cfg.Trace.Told(j.name, "")
	}
}

// onRest takes no jobs for a while: a dispatcher saw this worker fail with most of what it took.
func (w *Worker) onRest(msg *nats.Msg) {
	if len(msg.Data) > 0 { // a dispatcher that only asks who listens, or an answer of the broker, sent here by a spoofed reply subject
		return
	}
	w.cfg.Logger.Warn("resting, most jobs failed here", "worker", w.cfg.Name, "rest", rest)
	w.room.Rest(time.Now().Add(rest))
}

// onDrain drains for as long as the message says: an operator wants the worker to leave.
func (w *Worker) onDrain(msg *nats.Msg) {
	ms, err := strconv.ParseUint(string(msg.Data), 10, 31)
	if err != nil || len(msg.Header) > 0 { // an answer of the broker, sent here by a spoofed reply subject
		return
	}
	grace := time.Duration(ms) * time.Millisecond
	w.cfg.Logger.Warn("draining, told by an operator", "worker", w.cfg.Name, "grace", grace)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		_ = w.Drain(ctx)
	}()
}

// named is the job that a control message names, nil if this worker does not have it.
func (w *Worker) named(prefix string, msg *nats.Msg) *job {
	tenant, id, err := subject.ParseJobRef(prefix, msg.Subject)
	if err != nil || len(msg.Data) > 0 { // a body means that this is an answer of the broker, sent here by a spoofed reply subject
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.jobs[jobKey{tenant, id}]
}

// register makes j the job that cancels and heartbeats know. An older delivery of the same job that is
// still here has lost its lease: it ends silently.
func (w *Worker) register(j *job) {
	key := jobKey{j.ref.Tenant, j.ref.Job}
	w.running.Add(1)
	w.mu.Lock()
	old := w.jobs[key]
	w.jobs[key] = j
	w.mu.Unlock()
	if old != nil {
		old.end(errReplaced)
	}
}

func (w *Worker) unregister(j *job) {
	key := jobKey{j.ref.Tenant, j.ref.Job}
	w.mu.Lock()
	if w.jobs[key] == j {
		delete(w.jobs, key)
	}
	w.mu.Unlock()
	w.running.Done()
}
