package dispatcher_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// TestPreempt: an urgent job finds the only worker full. The dispatcher that published it asks the least
// urgent job to give way, once, and no other when the urgent one was taken.
func TestPreempt(t *testing.T) {
	t.Parallel()
	traced := make(chan string, 64)
	d, b := start(t, func(c *dispatcher.Config) {
		c.Trace = &dispatcher.Trace{Preempted: func(_, job, worker string) { traced <- worker + " " + job }}
	})
	nc := b.Conn()
	asked, err := nc.SubscribeSync(subject.AllCtlPreempt)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	const kv = 1024 // what a job of the smallest size reserves, at a byte a token
	beat := func(jobs ...contracts.RunningJob) {
		h := contracts.Heartbeat{Worker: "w", Model: model, Started: 1, Slots: 2, ContextLength: 200, Jobs: jobs,
			KV: contracts.KVMemory{Total: 2 * kv, Reserved: kv * int64(len(jobs)), PerToken: 1}}
		heartbeat(t, nc, h)
	}
	batch := contracts.RunningJob{Job: "batch", Tenant: tenant, Class: contracts.P3, Started: 1, KV: kv, Slots: 1, Yields: true}
	other := contracts.RunningJob{Job: "other", Tenant: tenant, Class: contracts.P2, Started: 2, KV: kv, Slots: 1, Yields: true}
	waitFor(t, "the worker's heartbeat", func() bool { beat(batch, other); return len(d.Workers()) == 1 })
	urgent := textJob("urgent", "hello")
	urgent.Class = contracts.P1
	if _, err := d.Submit(testContext(t), urgent); err != nil {
		t.Fatal(err)
	}
	var m *nats.Msg
	for late := time.Now().Add(patience); m == nil; { // the worker beats as long as it is to live
		beat(batch, other)
		if m, err = asked.NextMsg(100 * time.Millisecond); err != nil && time.Now().After(late) {
			t.Fatalf("nobody was asked to give way: %v", err)
		}
	}
	if want := subject.CtlPreempt(tenant, "batch"); m.Subject != want {
		t.Errorf("asked on %s, want %s", m.Subject, want)
	}
	if got := <-traced; got != "w batch" {
		t.Errorf("traced %q", got)
	}
	beat(other)
	w := &fakeWorker{nc: nc}
	if w.inbox, err = nc.SubscribeSync(nc.NewInbox()); err != nil {
		t.Fatal(err)
	}
	if w.pull(testContext(t), contracts.P1) == nil {
		t.Fatal("the urgent job is not in the queue")
	}
	h := hire(t, nc, "w")
	h.chain.out = subject.Out(tenant, "urgent")
	h.job.Job.ID = "urgent"
	h.claim(1)
	later := textJob("standard", "hello")
	later.Class = contracts.P2
	if _, err := d.Submit(testContext(t), later); err != nil {
		t.Fatal(err)
	}
	beat(other, contracts.RunningJob{Job: "urgent", Tenant: tenant, Class: contracts.P1, Started: 3, KV: kv, Slots: 1})
	if m, err := asked.NextMsg(500 * time.Millisecond); err == nil {
		t.Errorf("asked again on %s", m.Subject)
	}
}

// TestNobodyYieldsToWhatEndedWhileAway: an urgent job runs and ends while its dispatcher has no connection. When the
// workers are full afterwards, nobody is asked to give way to it.
func TestNobodyYieldsToWhatEndedWhileAway(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	g, away := connectGated(t, b)
	cfg := testConfig(away)
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: {Concurrent: 1}} // tells when the end is known
	d, _ := startDispatcher(t, cfg)
	nc := b.Conn()
	asked, err := nc.SubscribeSync(subject.AllCtlPreempt)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	urgent := textJob("urgent", "hello")
	urgent.Class = contracts.P0
	if _, err := d.Submit(ctx, urgent); err != nil {
		t.Fatal(err)
	}
	g.cut(true)
	waitFor(t, "the connection to be away", func() bool { return !away.IsConnected() })
	startWorker(t, nc, "quick", nil)
	waitFor(t, "JOBS to be empty", func() bool { return leftInQueue(t, nc) == 0 })
	g.cut(false)
	next := textJob("next", "hello")
	next.Class = contracts.P3
	waitFor(t, "the end to be known", func() bool { _, err := d.Submit(ctx, next); return err == nil })
	nobodyYields(t, nc, asked)
}

// nobodyYields tells for a while of a worker that is full, and fails the test if a job is asked to give way.
func nobodyYields(t testing.TB, nc *nats.Conn, asked *nats.Subscription) {
	t.Helper()
	for range 20 {
		heartbeat(t, nc, contracts.Heartbeat{Worker: "full", Model: model, Started: 1, Slots: 1, ContextLength: 200, KV: contracts.KVMemory{Total: 1024, Reserved: 1024, PerToken: 1},
			Jobs: []contracts.RunningJob{{Job: "batch", Tenant: tenant, Class: contracts.P3, Started: 1, KV: 1024, Slots: 1, Yields: true}}})
		if m, err := asked.NextMsg(50 * time.Millisecond); err == nil {
			t.Fatalf("asked to give way on %s", m.Subject)
		}
	}
}

// TestNobodyYieldsToWhatEndedAtOnce: urgent jobs end before their dispatcher hears that the queue has them.
func TestNobodyYieldsToWhatEndedAtOnce(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	broker, slow := connectStalled(t, b)
	cfg := testConfig(slow)
	cfg.Timeout = 90 * time.Second // longer than the jobs may take
	const jobs = 30
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: {Concurrent: jobs}} // tells when the ends are known
	d, _ := startDispatcher(t, cfg)
	nc := b.Conn()
	asked, err := nc.SubscribeSync(subject.AllCtlPreempt)
	if err != nil {
		t.Fatal(err)
	}
	w := startWorker(t, nc, "quick", nil)
	ctx := testContext(t)
	broker.mute.Lock()
	var all sync.WaitGroup
	for range jobs {
		all.Go(func() {
			urgent := textJob("", "hello") // without an id, so that nothing is looked up before
			urgent.Class = contracts.P0
			if _, err := d.Submit(ctx, urgent); err != nil {
				t.Errorf("submit: %v", err)
			}
		})
	}
	ended := pollFor(patience, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.finished) == jobs })
	broker.mute.Unlock()
	all.Wait()
	if !ended {
		t.Fatal("the jobs did not end")
	}
	w.stop()
	for i := range jobs {
		next := textJob(fmt.Sprint("next", i), "hello")
		next.Class = contracts.P3
		waitFor(t, "an end to be known", func() bool { _, err := d.Submit(ctx, next); return err == nil })
	}
	nobodyYields(t, nc, asked)
}
