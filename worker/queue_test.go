package worker_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/worker"
)

// claims records the order in which jobs are claimed.
type claims struct {
	mu  sync.Mutex
	ids []string
}

func (c *claims) trace(cfg *worker.Config) {
	cfg.Trace = &worker.Trace{Claimed: func(j worker.Job, _ time.Duration, _ int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ids = append(c.ids, j.ID)
	}}
}

func (c *claims) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ids)
}

// gate holds the engine's steps until it is opened.
func gate(e *fakeEngine) (reached chan struct{}, open func()) {
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	e.hook(func([]*engine.Row) error {
		once.Do(func() { close(reached) })
		<-release
		return nil
	})
	return reached, sync.OnceFunc(func() { close(release) })
}

// Urgent jobs that come into a backlog start before all less urgent ones that still wait.
func TestUrgentFirst(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	e.info.MaxSequences = 1
	reached, open := gate(e)
	defer open()
	var order3 claims
	f.hire("w", e, order3.trace)
	for i := range 6 {
		f.submit(order(fmt.Sprintf("p3-%d", i), "batch", 3, class(contracts.P3)))
	}
	<-reached // one p3 holds the only slot
	for i := range 4 {
		p1, p0 := order(fmt.Sprintf("p1-%d", i), "interactive", 3, class(contracts.P1)), order(fmt.Sprintf("p0-%d", i), "realtime", 3, class(contracts.P0))
		f.submit(p1)
		f.submit(p0)
		f.waiting(p1, uint64(i+1))
		f.waiting(p0, uint64(i+1))
	}
	open()
	f.empty()
	got := strings.Join(order3.order()[1:9], " ")
	if want := "p0-0 p0-1 p0-2 p0-3 p1-0 p1-1 p1-2 p1-3"; got != want {
		t.Errorf("claimed %s after the one that ran, want %s", got, want)
	}
}

// Many jobs of all sizes through little memory: the budget holds at every moment, all finish.
func TestMemoryHolds(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	e.info.ContextLength = 4096
	e.budget = 30_000 // 3000 tokens; a job of size m reserves all of it
	w := f.hire("w", e)
	var ids []string
	for i := range 40 {
		id := fmt.Sprint("job", i)
		max := 20
		if i%8 == 7 {
			max = 1100 // size m
		}
		n := 1 + i%3
		if max > 1000 {
			n = 1
		}
		f.submit(order(id, strings.Repeat("p", 10+i), max, class(contracts.Classes[i%4]), params(func(p *contracts.Params) { p.N = &n })))
		ids = append(ids, id)
	}
	for _, id := range ids {
		if got := f.final(id); got.Code != "" {
			t.Errorf("job %s: %s %s", id, got.Code, got.Message)
		}
		f.read(id)
	}
	f.empty()
	e.mu.Lock()
	most := e.most
	e.mu.Unlock()
	if most > e.budget {
		t.Errorf("the engine held %d bytes of %d", most, e.budget)
	}
	if s := w.Snapshot().Stats; s.JobsDone != 40 || s.JobsFailed != 0 || s.OutputTokens == 0 || s.PromptTokens == 0 {
		t.Errorf("stats %+v", s)
	}
}

// A large urgent job is not overtaken for ever by small ones that always fit.
func TestLargeIsNotStarved(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	e.info.ContextLength = 4096
	e.budget = 20_500 // one large job of 2000 tokens, or two small reservations
	reached, open := gate(e)
	defer open()
	var got claims
	f.hire("w", e, got.trace)
	f.submit(order("running", "prompt", 900, class(contracts.P2)))
	<-reached
	large := order("large", "prompt", 1990, class(contracts.P1))
	f.submit(large)
	f.seen(large)
	for i := range 8 {
		f.submit(order(fmt.Sprint("small", i), "prompt", 5, class(contracts.P2)))
	}
	open()
	f.empty()
	ids := got.order()
	if at := slices.Index(ids, "large"); at < 1 || at > 2 {
		t.Errorf("the large p1 job was claimed as number %d of %v", at, ids)
	}
}

// More choices than the size class promised: the job waits for its room and nothing overtakes it.
func TestChoicesWaitForSlots(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	e := newFake()
	e.info.MaxSequences = 4
	reached, open := gate(e)
	defer open()
	var got claims
	f.hire("w", e, got.trace)
	f.submit(order("first", "prompt", 5))
	<-reached
	f.submit(order("wide", "prompt", 5, params(func(p *contracts.Params) { p.N = ptr(4) })))
	f.submit(order("later", "prompt", 5))
	open()
	f.empty()
	if want := []string{"first", "wide", "later"}; !slices.Equal(got.order(), want) {
		t.Errorf("claimed %v, want %v", got.order(), want)
	}
}

// An idle worker hears the bell: the job starts long before the next sweep, also when only a ring for all tells of it.
func TestBell(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	beat := make(chan *contracts.Heartbeat, 1)
	f.hire("w", newFake(), func(c *worker.Config) {
		c.Sweep = time.Hour
		c.Trace = &worker.Trace{Heartbeat: func(h *contracts.Heartbeat) {
			select {
			case beat <- h:
			default: // only the first is read, and a worker whose trace blocks cannot stop
			}
		}}
	})
	if h := <-beat; h.State != contracts.WorkerReady || h.Model != "m" || h.KV.Total != 1<<20 || h.Slots != 16 {
		t.Errorf("first heartbeat %+v", h)
	}
	for i := range 200 {
		id := fmt.Sprint("job", i)
		f.submit(order(id, "prompt", 3))
		if got := f.final(id); got.Code != "" {
			t.Errorf("%+v", got)
		}
	}
	missed := order("missed", "prompt", 3)
	data, err := contracts.Encode(missed)
	if err != nil {
		t.Fatal(err)
	}
	to := subject.Job{Model: "m", Class: missed.Job.Class, Size: contracts.SizeFor(missed.KVTokens), Tenant: tenant, Job: "missed"}
	if _, err := f.js.Publish(t.Context(), to.String(), data); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Publish(subject.Bell("m"), subject.Ring("", "")); err != nil {
		t.Fatal(err)
	}
	if got := f.final("missed"); got.Code != "" {
		t.Errorf("%+v", got)
	}
}

// sleeper is the memory of a model that is loaded once a job waits for it.
type sleeper struct {
	*memory.Budget
	awake   atomic.Bool
	started atomic.Int32
}

func (s *sleeper) Started() { s.started.Add(1) }

func (s *sleeper) Awake() bool { return s.awake.Load() }

func (s *sleeper) Promise(bytes int64) bool { return s.Awake() && s.Budget.Promise(bytes) }

func (s *sleeper) Resize(before, after int64) bool {
	return (after <= before || s.Awake()) && s.Budget.Resize(before, after)
}

func (s *sleeper) Want(bytes int64) {
	if bytes > 0 && !s.awake.Swap(true) {
		s.Notify()
	}
}

// handBack takes a job as a worker does, and hands it back.
func (f *fleet) handBack(class contracts.Class, size contracts.Size) {
	f.t.Helper()
	consumer, err := f.js.Consumer(f.t.Context(), topology.StreamJobs, subject.Consumer("m", class, size))
	if err != nil {
		f.t.Fatal(err)
	}
	msg, err := consumer.Next(jetstream.FetchMaxWait(30 * time.Second)) // the most that the consumer allows
	if err == nil {
		err = msg.Nak()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// A job that another worker handed back has its model loaded, as a new one has.
func TestHandedBackJobWakesItsModel(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	f.submit(order("j", "hello", 3))
	f.handBack(contracts.P2, contracts.SizeS)
	shared := &sleeper{Budget: memory.NewBudget(1 << 20)}
	f.hire("w", newFake(), func(c *worker.Config) { c.Memory = shared })
	if c := f.final("j"); c.Code != "" {
		t.Errorf("it ended as %s: %s", c.Code, c.Message)
	}
	if n := shared.started.Load(); n != 1 {
		t.Errorf("its model was used %d times, want once", n)
	}
}

// A job of a paused queue wakes no model: it cannot begin. After the resume it does.
func TestPausedQueueWakesNoModel(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	f.submit(order("j", "hello", 3))
	if err := topology.SetQueue(t.Context(), f.js, "m", contracts.QueuePaused); err != nil {
		t.Fatal(err)
	}
	looks, err := f.nc.SubscribeSync("$JS.API.CONSUMER.INFO.JOBS." + subject.Consumer("m", contracts.P2, contracts.SizeS))
	if err != nil {
		t.Fatal(err)
	}
	shared := &sleeper{Budget: memory.NewBudget(1 << 20)}
	f.hire("w", newFake(), func(c *worker.Config) { c.Memory = shared })
	for range 2 { // the second look comes after the first one's answer
		if err := f.nc.Publish(subject.Bell("m"), subject.Ring("", "")); err != nil {
			t.Fatal(err)
		}
		if _, err := looks.NextMsg(30 * time.Second); err != nil {
			t.Fatalf("the worker does not look: %v", err)
		}
	}
	if shared.awake.Load() {
		t.Error("a job that cannot begin has its model loaded")
	}
	if err := topology.SetQueue(t.Context(), f.js, "m", contracts.QueueOpen); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Publish(subject.Bell("m"), subject.Ring("", "")); err != nil {
		t.Fatal(err)
	}
	if c := f.final("j"); c.Code != "" {
		t.Errorf("it ended as %s: %s", c.Code, c.Message)
	}
}
