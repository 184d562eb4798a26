package dispatcher_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
)

// setQueues lets the queue of the tests' model do something.
func setQueues(t testing.TB, d *dispatcher.Dispatcher, state contracts.QueueState) {
	t.Helper()
	if names, err := d.SetQueues(testContext(t), "first", state); err != nil || len(names) != 1 || names[0] != model {
		t.Fatalf("%s: %v, %v", state, names, err)
	}
	q, err := d.Queues(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range q {
		if one.State != state {
			t.Errorf("the queue is to be %s, it has %+v", state, one)
		}
	}
}

// puller asks the queue as a worker does, when the test wants it.
func puller(t testing.TB, nc *nats.Conn) *fakeWorker {
	t.Helper()
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	return &fakeWorker{t: t, nc: nc, inbox: inbox}
}

// TestPause: no job begins while the queue is paused, whichever dispatcher took it in and whatever restarts
// meanwhile; one that runs ends; after the resume every job ends once.
func TestPause(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), testContext(t)
	b := contractstest.StartBroker(t, storeIn(dir))
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	other, stopOther := startDispatcher(t, testConfig(b.Conn()))
	begun, goOn := make(chan struct{}), make(chan struct{})
	w := startWorker(t, b.Conn(), "w", func(w *fakeWorker) {
		w.step = func(_ context.Context, a *contracts.Admitted, index int) error {
			if a.Job.ID == id(0) && index == 1 {
				close(begun)
				<-goOn
			}
			return nil
		}
	})
	if _, err := d.Submit(ctx, textJob(id(0), "hello")); err != nil {
		t.Fatal(err)
	}
	<-begun
	setQueues(t, d, contracts.QueuePaused)
	close(goOn)
	for i, by := range []*dispatcher.Dispatcher{1: d, 2: other} {
		if i == 0 {
			continue
		}
		if _, err := by.Submit(ctx, textJob(id(i), "hello")); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the end of the job that ran", func() bool {
		s, err := d.Status(ctx, tenant, id(0))
		return err == nil && s.State == contracts.StateCompleted
	})
	w.stop()
	waitFor(t, "the other dispatcher to know", func() bool {
		a, err := other.Submit(ctx, textJob("known-"+time.Now().Format("150405.000"), "hello"))
		return err == nil && a.Outcome == contracts.OutcomeHeld
	})
	stop()
	stopOther()
	b.Stop()

	b = contractstest.StartBroker(t, storeIn(dir))
	d, _ = startDispatcher(t, testConfig(b.Conn()))
	measured(t, b.Conn(), d)
	hurried := textJob(id(3), "hello")
	hurried.Deadline = time.Now().Add(time.Hour).UnixMilli()
	a, err := d.Submit(ctx, hurried)
	if err != nil || a.Outcome != contracts.OutcomeHeld || a.TTFTMS != 0 || a.ETAMS != 0 {
		t.Errorf("a job while the queue is paused: %+v, %v, want it held and nothing predicted", a, err)
	}
	p := puller(t, b.Conn())
	for _, class := range contracts.Classes {
		if m := p.pull(ctx, class); m != nil {
			t.Errorf("a paused queue gave %s", m.Subject)
		}
	}
	setQueues(t, d, contracts.QueueOpen)
	again := startWorker(t, b.Conn(), "again", nil)
	for i := range 4 {
		waitFor(t, "end of "+id(i), func() bool {
			s, err := d.Status(ctx, tenant, id(i))
			return err == nil && s.State == contracts.StateCompleted
		})
	}
	again.mu.Lock()
	defer again.mu.Unlock()
	for i := range 4 {
		if n, want := again.finished[id(i)], min(i, 1); n != want {
			t.Errorf("job %d ended %d times after the resume, want %d", i, n, want)
		}
	}
}

// TestDrain: while the queue drains, every dispatcher refuses new jobs, also after a restart; those that were taken in
// run to their end, and who submits one of them again gets its stream.
func TestDrain(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	other, _ := startDispatcher(t, testConfig(b.Conn()))
	ctx := testContext(t)
	later := textJob(id(1), "hello")
	later.NotBefore = time.Now().Add(2 * time.Second).UnixMilli()
	for _, j := range []*contracts.Job{textJob(id(0), "hello"), later} {
		if _, err := d.Submit(ctx, j); err != nil {
			t.Fatal(err)
		}
	}
	setQueues(t, d, contracts.QueuePaused)
	setQueues(t, d, contracts.QueueDraining)
	scheduled := textJob("scheduled", "hello")
	scheduled.NotBefore = time.Now().Add(time.Hour).UnixMilli()
	for _, j := range []*contracts.Job{textJob("new", "hello"), scheduled} {
		a, err := d.Submit(ctx, j)
		wantCode(t, err, contracts.CodeUnavailable, "drains", model)
		if a.RetryAfterMS == 0 {
			t.Errorf("%+v does not say when to come back", a)
		}
	}
	waitFor(t, "the other dispatcher to refuse", func() bool {
		_, err := other.Submit(ctx, textJob("other-"+time.Now().Format("150405.000"), "hello"))
		return contracts.CodeOf(err) == contracts.CodeUnavailable
	})
	stop()
	d, _ = startDispatcher(t, testConfig(b.Conn()))
	_, err := d.Submit(ctx, textJob("new", "hello"))
	wantCode(t, err, contracts.CodeUnavailable)
	startWorker(t, b.Conn(), "w", nil)
	_, chunks, err := d.Start(ctx, textJob(id(0), "hello"))
	if err != nil {
		t.Fatalf("a job of before, submitted again: %v", err)
	}
	if text, _ := read(t, "a job of before", chunks); text != expected("hello", 16) {
		t.Errorf("its text is %q", text)
	}
	waitFor(t, "the end of the scheduled job", func() bool {
		s, err := d.Status(ctx, tenant, id(1))
		return err == nil && s.State == contracts.StateCompleted
	})
	setQueues(t, d, contracts.QueueOpen)
	if _, err := d.Submit(ctx, textJob("new", "hello")); err != nil {
		t.Errorf("after the resume: %v", err)
	}
}

// TestSetQueues: all queues at once, and a model that there is not.
func TestSetQueues(t *testing.T) {
	t.Parallel()
	d, _ := start(t, func(c *dispatcher.Config) {
		second := c.Models[0]
		second.Name, second.Aliases = "second", nil
		c.Models = append(c.Models, second)
	})
	ctx := testContext(t)
	_, err := d.SetQueues(ctx, "nope", contracts.QueuePaused)
	wantCode(t, err, contracts.CodeModelNotFound, "nope")
	if names, err := d.SetQueues(ctx, "", contracts.QueuePaused); err != nil || len(names) != 2 {
		t.Fatalf("all: %v, %v", names, err)
	}
	if _, err := d.SetQueues(ctx, "second", contracts.QueueOpen); err != nil {
		t.Fatal(err)
	}
	q, err := d.Queues(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range q {
		if want := map[string]contracts.QueueState{model: contracts.QueuePaused, "second": contracts.QueueOpen}[one.Model]; one.State != want {
			t.Errorf("%+v, want %s", one, want)
		}
	}
}

// TestPausedConsumerIsMadeAgain: a consumer of a paused queue that somebody deleted comes back paused.
func TestPausedConsumerIsMadeAgain(t *testing.T) {
	t.Parallel()
	d, b := start(t, func(c *dispatcher.Config) { c.Rescan = 20 * time.Millisecond })
	ctx := testContext(t)
	setQueues(t, d, contracts.QueuePaused)
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	for _, class := range []contracts.Class{contracts.P0, contracts.P2} { // the first one tells the state
		name := subject.Consumer(model, class, contracts.SizeS)
		if err := js.DeleteConsumer(ctx, topology.StreamJobs, name); err != nil {
			t.Fatal(err)
		}
		waitFor(t, name+" to be paused again", func() bool {
			c, err := js.Consumer(ctx, topology.StreamJobs, name)
			return err == nil && c.CachedInfo().Paused
		})
	}
}

// TestNobodyYieldsToAPausedQueue: an urgent job waits when its queue is paused: nobody gives way to it before it can
// begin, and then somebody does.
func TestNobodyYieldsToAPausedQueue(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	nc := b.Conn()
	asked, err := nc.SubscribeSync(subject.AllCtlPreempt)
	if err != nil {
		t.Fatal(err)
	}
	beat := func(yields bool) {
		heartbeat(t, nc, contracts.Heartbeat{Worker: "w", Model: model, Started: 1, Slots: 1, ContextLength: 200, KV: contracts.KVMemory{Total: 1024, Reserved: 1024, PerToken: 1},
			Jobs: []contracts.RunningJob{{Job: "batch", Tenant: tenant, Class: contracts.P3, Started: 1, KV: 1024, Slots: 1, Yields: yields}}})
	}
	waitFor(t, "the worker's heartbeat", func() bool { beat(false); return len(d.Workers()) == 1 })
	urgent := textJob("urgent", "hello")
	urgent.Class = contracts.P1
	if _, err := d.Submit(testContext(t), urgent); err != nil {
		t.Fatal(err)
	}
	setQueues(t, d, contracts.QueuePaused)
	for range 5 { // as many looks of the dispatcher
		beat(true)
		if m, err := asked.NextMsg(100 * time.Millisecond); err == nil {
			t.Fatalf("asked on %s while the queue is paused", m.Subject)
		}
	}
	setQueues(t, d, contracts.QueueOpen)
	waitFor(t, "the less urgent job to be asked", func() bool {
		beat(true)
		_, err := asked.NextMsg(100 * time.Millisecond)
		return err == nil
	})
}

// TestPauseWithoutTheRight: a dispatcher whose credentials are of before says what to do.
func TestPauseWithoutTheRight(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "before", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.PAUSE.>"}}}}}
	})
	cfg := testConfig(b.Conn(nats.UserInfo("before", "p")))
	cfg.Timeout = 2 * time.Second
	d, _ := startDispatcher(t, cfg)
	_, err := d.SetQueues(testContext(t), "", contracts.QueuePaused)
	wantCode(t, err, contracts.CodeUnavailable, "pelton auth init")
}
