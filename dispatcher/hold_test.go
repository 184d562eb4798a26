package dispatcher_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// someSteps are sums of steps of which a worker's speed is known.
func someSteps() contracts.StepSums {
	sums := contracts.StepSums{Budget: 16}
	for i := range 100 {
		sums.Add(float64(i%17), float64(i%5), 10+float64(i%17), 0)
	}
	return sums
}

// measured sends heartbeats of a worker whose steps are known, until the test ends: 10 ms and 1 ms for each
// prompt token, 16 of them in a step. So 4 jobs are let in, or as many as bring 64 prompt tokens.
func measured(t testing.TB, nc *nats.Conn, d *dispatcher.Dispatcher) {
	t.Helper()
	sums := someSteps()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(50 * time.Millisecond); ctx.Err() == nil; {
			heartbeat(t, nc, contracts.Heartbeat{Worker: "measured", Model: model, Slots: 16, ContextLength: 200, Steps: &sums})
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	waitFor(t, "the worker to be known", func() bool { return d.Serving(model) })
}

// prompt of 20 tokens.
const twenty = "abcdefghijklmnopqrst"

func jobOf(tenant, name string) *contracts.Job {
	j := textJob(name, twenty)
	j.Tenant = tenant
	return j
}

// TestHeldJobs: what is too much for JOBS waits durably, can be looked at and canceled, survives the
// dispatcher, and every job ends once.
func TestHeldJobs(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	measured(t, b.Conn(), d)
	ctx := testContext(t)
	held := 0
	for i := range 20 {
		a, err := d.Submit(ctx, jobOf("flood", id(i)))
		if err != nil {
			t.Fatalf("submit %d: %v", i, err)
		}
		if a.Outcome == contracts.OutcomeHeld {
			held++
		}
		if i == 19 && (a.Position != 19 || a.TTFTMS < 300) { // 19 jobs of 20 tokens at about 600 tokens/s
			t.Errorf("the last one is told position %d and %d ms to its first token, want 19 and at least 300", a.Position, a.TTFTMS)
		}
	}
	if held != 17 || leftInQueue(t, b.Conn()) != 3 {
		t.Fatalf("%d jobs are held and %d in JOBS, want 17 and 3", held, leftInQueue(t, b.Conn()))
	}
	if q, err := d.Queues(ctx); err != nil || !slices.Contains(q, contracts.QueueDepth{Model: model, Class: contracts.P2, State: contracts.QueueOpen, Held: 17}) {
		t.Errorf("17 jobs of p2 are held, the queues are %+v, %v", q, err)
	}
	if s, err := d.Status(ctx, "flood", id(19)); err != nil || s.State != contracts.StateHeld || s.Class != contracts.P2 {
		t.Errorf("status of a held job: %+v, %v", s, err)
	}
	if list, err := d.List(ctx, contracts.Filter{State: contracts.StateHeld}); err != nil || len(list) != 17 {
		t.Errorf("%d jobs are listed as held, %v, want 17", len(list), err)
	}
	if s, err := d.Cancel(ctx, "flood", id(18)); err != nil || s.State != contracts.StateCanceled {
		t.Errorf("cancel of a held job: %+v, %v", s, err)
	}
	if a, err := d.Submit(ctx, jobOf("flood", id(19))); err != nil || a.Job != id(19) {
		t.Errorf("a repeated submit of a held job: %+v, %v", a, err)
	}
	stop()
	again, _ := startDispatcher(t, testConfig(b.Conn()))
	waitFor(t, "the workers to be known", func() bool { return again.Serving(model) })
	if _, err := again.Submit(ctx, jobOf("light", "one")); err != nil {
		t.Fatal(err)
	}
	w := startWorker(t, b.Conn(), "w", nil)
	for i := range 20 {
		want := contracts.StateCompleted
		if i == 18 {
			want = contracts.StateCanceled
		}
		waitFor(t, "end of "+id(i), func() bool {
			s, err := again.Status(ctx, "flood", id(i))
			return err == nil && s.State == want
		})
	}
	waitFor(t, "JOBS to be empty", func() bool { return leftInQueue(t, b.Conn()) == 0 }) // the worker counts, then acknowledges
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range 20 {
		if n := w.finished[id(i)]; n > 1 || i != 18 && n != 1 {
			t.Errorf("job %d ended %d times", i, n)
		}
	}
}

// TestHeldWithRecordsIsLetIn: as TestScheduledWithRecordsIsQueued.
func TestHeldWithRecordsIsLetIn(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	measured(t, b.Conn(), d)
	ctx := testContext(t)
	for i := range 6 {
		if _, err := d.Submit(ctx, jobOf("flood", id(i))); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := d.Status(ctx, "flood", id(5)); err != nil || s.State != contracts.StateHeld {
		t.Fatalf("status of the last one: %+v, %v, want held", s, err)
	}
	stop()
	begin(t, b.Conn(), "flood", id(5))
	startDispatcher(t, testConfig(b.Conn()))
	startWorker(t, b.Conn(), "w", nil)
	waitFor(t, "all six to have been in JOBS", func() bool { return stateOf(t, b.Conn(), topology.StreamJobs).LastSeq == 6 })
	waitFor(t, "SCHED to be empty", func() bool { return stored(t, b, topology.StreamSched) == 0 })
}

// TestDamagedHeldIsEnded: a held or due job whose message cannot be read does not stay for ever; one of a later
// version waits for a dispatcher that can read it.
func TestDamagedHeldIsEnded(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	_, stop := startDispatcher(t, testConfig(nc)) // makes the streams
	stop()
	ctx := testContext(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	later, err := contracts.Encode(&contracts.Answer{V: contracts.Version + 1, Job: "later"})
	if err != nil {
		t.Fatal(err)
	}
	for job, data := range map[string][]byte{"damaged": []byte("\xc1"), "later": later} {
		for _, s := range []string{subject.Held(tenant, job), subject.Due(tenant, "due-"+job)} {
			if _, err := js.Publish(ctx, s, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, _ := startDispatcher(t, testConfig(nc))
	for _, job := range []string{"damaged", "due-damaged"} {
		waitFor(t, "the end of the job "+job, func() bool {
			s, err := d.Status(ctx, tenant, job)
			return err == nil && s.State == contracts.StateFailed && s.Code == contracts.CodeInternal
		})
	}
	waitFor(t, "the due job of a later version to be handed back", func() bool {
		c, err := js.Consumer(ctx, topology.StreamSched, topology.ConsumerDue)
		return err == nil && c.CachedInfo().NumRedelivered == 1
	})
	waitFor(t, "the messages of the damaged ones to go, but not those of a later version", func() bool {
		return stateOf(t, nc, topology.StreamSched).Msgs == 2
	})
}

// TestTwoDispatchersHold: both know what the other has waiting, both let in, and every job ends once.
func TestTwoDispatchersHold(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	first, stop := startDispatcher(t, testConfig(b.Conn()))
	second, _ := startDispatcher(t, testConfig(b.Conn()))
	measured(t, b.Conn(), first)
	waitFor(t, "the worker to be known to both", func() bool { return second.Serving(model) })
	ctx := testContext(t)
	for i := range 12 {
		if _, err := first.Submit(ctx, jobOf("a", id(i))); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the other's backlog to be known", func() bool {
		j := jobOf("b", "probe")
		j.Labels = map[string]string{"slo_ttft_ms": "50"}
		_, err := second.Submit(ctx, j)
		if err == nil { // not told yet: the probe went in
			_, err = second.Cancel(ctx, "b", "probe")
			return false
		}
		return contracts.CodeOf(err) == contracts.CodeOverloaded
	})
	stop() // what the first one held is let in by the second, which looks for it only now and then
	third, _ := startDispatcher(t, testConfig(b.Conn()))
	w := startWorker(t, b.Conn(), "w", nil)
	for i := range 12 {
		waitFor(t, "end of "+id(i), func() bool {
			s, err := third.Status(ctx, "a", id(i))
			return err == nil && s.State == contracts.StateCompleted
		})
	}
	waitFor(t, "JOBS to be empty", func() bool { return leftInQueue(t, b.Conn()) == 0 }) // the worker counts, then acknowledges
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range 12 {
		if n := w.finished[id(i)]; n != 1 {
			t.Errorf("job %d ended %d times", i, n)
		}
	}
}

// TestShed: a job that would miss its objective is refused with a time to retry, one of another class or
// without an objective is not, and one that allows it is demoted.
func TestShed(t *testing.T) {
	t.Parallel()
	d, b := start(t, func(c *dispatcher.Config) {
		c.Overload.Objectives = map[contracts.Class]time.Duration{contracts.P1: 250 * time.Millisecond}
	})
	measured(t, b.Conn(), d)
	ctx := testContext(t)
	for i := range 10 {
		j := jobOf("a", id(i))
		j.Class = contracts.P1
		j.Labels = map[string]string{"slo_ttft_ms": "100000"}
		if _, err := d.Submit(ctx, j); err != nil {
			t.Fatal(err)
		}
	}
	late := jobOf("a", "late")
	late.Class = contracts.P1
	answer, err := d.Submit(ctx, late)
	wantCode(t, err, contracts.CodeOverloaded, "objective for the first token")
	if answer.Outcome != contracts.OutcomeShed || answer.RetryAfterMS < 100 || answer.RetryAfterMS > 10_000 {
		t.Errorf("shed with %+v, want a time to retry", answer)
	}
	late.Labels = map[string]string{"on_overload": "demote"}
	if a, err := d.Submit(ctx, late); err != nil {
		t.Errorf("a job that may be demoted: %+v, %v", a, err)
	} else if s, err := d.Status(ctx, "a", "late"); err != nil || s.Class != contracts.P2 {
		t.Errorf("it is %+v, %v, want class p2", s, err)
	}
	urgent := jobOf("a", "urgent")
	urgent.Class = contracts.P0
	if _, err := d.Submit(ctx, urgent); err != nil {
		t.Errorf("a more urgent job: %v", err)
	}
	if _, err := d.Submit(ctx, jobOf("a", "patient")); err != nil {
		t.Errorf("a job without an objective: %v", err)
	}
}

// TestLostCauseIsEvicted: a held job whose first token can only come after its objective ends by itself, once,
// and says why; one that wants none goes on waiting.
func TestLostCauseIsEvicted(t *testing.T) {
	t.Parallel()
	evicted := make(chan string, 10)
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.Trace = &dispatcher.Trace{Ended: func(c *contracts.Chunk) { evicted <- c.Job }}
	d, _ := startDispatcher(t, cfg)
	measured(t, b.Conn(), d)
	ctx := testContext(t)
	for i := range 4 {
		if _, err := d.Submit(ctx, jobOf("patient", id(i))); err != nil {
			t.Fatal(err)
		}
	}
	j := jobOf("hasty", "late")
	j.Labels = map[string]string{"slo_ttft_ms": "500"}
	if a, err := d.Submit(ctx, j); err != nil || a.Outcome != contracts.OutcomeHeld {
		t.Fatalf("a job that would be in time: %+v, %v, want held", a, err)
	}
	select {
	case job := <-evicted: // no worker ever takes what is before it
		if job != "late" {
			t.Errorf("%s was evicted", job)
		}
	case <-ctx.Done():
		t.Fatal("the job is held though its time has passed")
	}
	s, err := d.Status(ctx, "hasty", "late")
	if err != nil || s.State != contracts.StateEvicted || s.Code != contracts.CodeOverloaded || s.Usage.CompletionTokens != 0 {
		t.Errorf("status %+v, %v, want evicted as overloaded", s, err)
	}
	if s, err := d.Status(ctx, "patient", id(3)); err != nil || s.State != contracts.StateHeld {
		t.Errorf("a job without an objective: %+v, %v, want held", s, err)
	}
}

// TestHeldIsPaidForWhoeverLetsItIn: a held job that another dispatcher let in is one of its tenant's jobs until it ends.
func TestHeldIsPaidForWhoeverLetsItIn(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.Overload.Quotas = map[string]quota.Limits{"flood": {Concurrent: 8}}
	d, _ := startDispatcher(t, cfg)
	measured(t, b.Conn(), d)
	ctx := testContext(t)
	for i := range 8 {
		if _, err := d.Submit(ctx, jobOf("flood", id(i))); err != nil {
			t.Fatal(err)
		}
	}
	letIn(t, b.Conn(), "flood", id(7))
	run := make(chan struct{})
	startWorker(t, b.Conn(), "w", func(w *fakeWorker) {
		w.step = func(ctx context.Context, a *contracts.Admitted, _ int) error {
			if a.Job.ID < id(7) { // not the one that waits, nor those that come later
				return nil
			}
			select {
			case <-run:
			case <-ctx.Done():
			}
			return ctx.Err()
		}
	})
	for i := range 7 {
		waitFor(t, "end of "+id(i), func() bool {
			s, err := d.Status(ctx, "flood", id(i))
			return err == nil && s.State == contracts.StateCompleted
		})
	}
	for i := range 8 {
		j := jobOf("flood", fmt.Sprint("more-", i))
		var err error
		want, span := i < 7, patience
		if !want {
			span = time.Second
		}
		if taken := pollFor(span, func() bool { _, err = d.Submit(ctx, j); return err == nil }); taken != want {
			t.Errorf("job %d beside the one that waits is taken: %v (%v)", i, taken, err)
		}
	}
	close(run)
}

// letIn moves a held job into JOBS, as another dispatcher does.
func letIn(t testing.TB, nc *nats.Conn, tenant, job string) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), topology.StreamSched)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), subject.Held(tenant, job))
	if err != nil {
		t.Fatal(err)
	}
	to := subject.Job{Model: model, Class: contracts.P2, Size: contracts.SizeS, Tenant: tenant, Job: job}
	if _, err := js.Publish(t.Context(), to.String(), m.Data); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), m.Sequence); err != nil {
		t.Fatal(err)
	}
}
