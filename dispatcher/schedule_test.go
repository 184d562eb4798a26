package dispatcher_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// at is a job that may start after a while.
func at(id string, after time.Duration) *contracts.Job {
	j := textJob(id, "abc")
	j.NotBefore = time.Now().Add(after).UnixMilli()
	return j
}

// TestScheduledRunsAtItsTime prints how late the jobs were queued.
func TestScheduledRunsAtItsTime(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	startDispatcher(t, testConfig(b.Conn()))
	ctx := testContext(t)
	startWorker(t, b.Conn(), "w", nil)
	var late time.Duration
	for i := range 10 {
		j := at(id(i), 700*time.Millisecond)
		answer, chunks, err := d.Start(ctx, j)
		if err != nil || answer.Outcome != contracts.OutcomeHeld {
			t.Fatalf("submit: %+v %v", answer, err)
		}
		s, err := d.Status(ctx, tenant, j.ID)
		early := time.Until(time.UnixMilli(j.NotBefore)) > 400*time.Millisecond // a busy machine may ask after the job ran
		if err != nil || s.Model != model || s.Class != contracts.P2 || early && s.State != contracts.StateScheduled {
			t.Fatalf("status: %+v %v", s, err)
		}
		first := time.Time{}
		text, _ := read(t, j.ID, func(yield func(*contracts.Chunk, error) bool) {
			chunks(func(c *contracts.Chunk, err error) bool {
				if first.IsZero() {
					first = time.Now()
				}
				return yield(c, err)
			})
		})
		if text != expected("abc", 16) {
			t.Errorf("text %q", text)
		}
		lag := first.Sub(time.UnixMilli(j.NotBefore))
		if lag < 0 {
			t.Errorf("job %d started %v too early", i, -lag)
		}
		late = max(late, lag)
		oneFinal(t, b.Conn(), j.ID)
	}
	t.Logf("first piece at most %v after the time", late)
	waitFor(t, "SCHED to be empty", func() bool { return stored(t, b, topology.StreamSched) == 0 })
}

// stored is how many messages a stream holds.
func stored(t testing.TB, b *contractstest.Broker, name string) uint64 {
	t.Helper()
	return stateOf(t, b.Conn(), name).Msgs
}

func TestScheduledAgainAndCanceled(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	for range 2 { // the second attaches
		if answer, err := d.Submit(ctx, at("j", time.Hour)); err != nil || answer.Outcome != contracts.OutcomeHeld {
			t.Fatalf("submit: %+v %v", answer, err)
		}
	}
	other := at("j", time.Hour)
	other.Prompt = "other"
	_, err := d.Submit(ctx, other)
	wantCode(t, err, contracts.CodeConflict)
	_, err = d.Submit(ctx, at("far", 31*24*time.Hour))
	wantCode(t, err, contracts.CodeInvalidArgument, "30 days")
	for _, state := range []contracts.State{"", contracts.StateScheduled} {
		if list, err := d.List(ctx, contracts.Filter{State: state, Tenant: tenant}); err != nil || len(list) != 1 || list[0].State != contracts.StateScheduled || list[0].Job != "j" {
			t.Errorf("list of %q: %+v %v", state, list, err)
		}
	}
	if list, err := d.List(ctx, contracts.Filter{State: contracts.StateQueued}); err != nil || len(list) != 0 {
		t.Errorf("list of queued jobs: %+v %v", list, err)
	}
	for range 2 {
		if s, err := d.Cancel(ctx, tenant, "j"); err != nil || s.State != contracts.StateCanceled {
			t.Fatalf("cancel: %+v %v", s, err)
		}
	}
	oneFinal(t, b.Conn(), "j")
	if n := stored(t, b, topology.StreamSched); n != 0 {
		t.Errorf("%d messages left in SCHED", n)
	}
}

// TestScheduledCancelRaces cancels jobs at about the moment they fall due: each ends once, and a job that
// is answered as canceled has the record that says so.
func TestScheduledCancelRaces(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	other, _ := startDispatcher(t, testConfig(b.Conn()))
	startWorker(t, b.Conn(), "w", nil)
	ctx := testContext(t)
	var all sync.WaitGroup
	for i := range 40 {
		j := at(id(i), 300*time.Millisecond)
		if _, err := d.Submit(ctx, j); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			timer := time.NewTimer(time.Until(time.UnixMilli(j.NotBefore)) + time.Duration(i-20)*time.Millisecond/4)
			<-timer.C // the moment under test
			s, err := other.Cancel(ctx, tenant, j.ID)
			if err != nil || (s.State != contracts.StateCanceled && s.State != contracts.StateCompleted) {
				t.Errorf("cancel of %s: %+v %v", j.ID, s, err)
			}
		})
	}
	all.Wait()
	waitFor(t, "everything to be taken up", func() bool { return stored(t, b, topology.StreamSched) == 0 && leftInQueue(t, b.Conn()) == 0 })
	for i := range 40 {
		oneFinal(t, b.Conn(), id(i))
	}
}

// TestScheduledSurvivesARestart of broker and dispatcher.
func TestScheduledSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := contractstest.StartBroker(t, storeIn(dir))
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	j := at("j", 2*time.Second)
	if _, err := d.Submit(testContext(t), j); err != nil {
		t.Fatal(err)
	}
	stop()
	b.Stop()
	again := contractstest.StartBroker(t, storeIn(dir))
	d, _ = startDispatcher(t, testConfig(again.Conn()))
	startWorker(t, again.Conn(), "w", nil)
	text, final := read(t, "after the restart", d.Stream(testContext(t), tenant, "j", -1))
	if text != expected("abc", 16) || final.Code != "" {
		t.Errorf("text %q, final %+v", text, final)
	}
	if time.Now().UnixMilli() < j.NotBefore {
		t.Error("it ran too early")
	}
	oneFinal(t, again.Conn(), "j")
}

// TestScheduledWithRecordsIsQueued: after a restore a scheduled job may have begun, because OUT is copied after JOBS.
// It must be queued all the same, or nobody ever ends it.
func TestScheduledWithRecordsIsQueued(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	j := at("j", 3*time.Second)
	if _, err := d.Submit(testContext(t), j); err != nil {
		t.Fatal(err)
	}
	begin(t, b.Conn(), tenant, "j")
	if n := stored(t, b, topology.StreamJobs); n != 0 && time.Now().UnixMilli() < j.NotBefore {
		t.Fatalf("%d jobs are queued before their time", n)
	}
	waitFor(t, "the job to be queued", func() bool { return stored(t, b, topology.StreamJobs) == 1 })
	waitFor(t, "SCHED to be empty", func() bool { return stored(t, b, topology.StreamSched) == 0 })
}

// begin writes the records of a worker that began a job and is gone.
func begin(t testing.TB, nc *nats.Conn, tenant, job string) *chain {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ch := &chain{js: js, out: subject.Out(tenant, job)}
	for i, r := range []*contracts.Chunk{{Claim: &contracts.Claim{Worker: "gone", Attempt: 1, Model: model, Class: contracts.P2}}, {Tokens: []int32{97}, Text: "a"}} {
		r.V, r.Job, r.Fence = 1, job, 5
		if err := ch.write(r); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	return ch
}

// TestRetryOfADeadLetter: a job that was given up is kept, listed, submitted again and then forgotten.
func TestRetryOfADeadLetter(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	if _, err := d.Submit(ctx, textJob("j", "abc")); err != nil {
		t.Fatal(err)
	}
	giveUp(t, b, 1)
	_, final := read(t, "the job", d.Stream(ctx, tenant, "j", -1))
	dead, err := d.DeadLetter(ctx, tenant, "j")
	if err != nil || dead.Message != final.Message || dead.Code != contracts.CodeInternal || len(dead.Admitted) == 0 {
		t.Fatalf("dead letter %+v %v", dead, err)
	}
	if list, err := d.ListDead(ctx, tenant, 0); err != nil || len(list) != 1 || list[0].Job != "j" || list[0].Admitted != nil {
		t.Errorf("list %+v %v", list, err)
	}
	if list, err := d.ListDead(ctx, "nobody", 0); err != nil || len(list) != 0 {
		t.Errorf("list of another tenant %+v %v", list, err)
	}
	setQueues(t, d, contracts.QueueDraining)
	_, err = d.RetryDead(ctx, tenant, "j", "")
	wantCode(t, err, contracts.CodeUnavailable, "drains")
	setQueues(t, d, contracts.QueueOpen)
	answer, err := d.RetryDead(ctx, tenant, "j", "")
	if err != nil || answer.Job != "j.retry1" {
		t.Fatalf("retry: %+v %v", answer, err)
	}
	_, err = d.RetryDead(ctx, tenant, "j", "")
	wantCode(t, err, contracts.CodeNotFound, "only jobs that were given up")
	startWorker(t, b.Conn(), "w", nil)
	if text, _ := read(t, "the retry", d.Stream(ctx, tenant, "j.retry1", -1)); text != expected("abc", 16) {
		t.Errorf("text %q", text)
	}
	wantCode(t, d.RemoveDead(ctx, tenant, "j"), contracts.CodeNotFound)
}

// giveUp does what a worker does with the job under a sequence of JOBS that failed too often.
func giveUp(t testing.TB, b *contractstest.Broker, seq uint64) {
	t.Helper()
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), topology.StreamJobs)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := subject.ParseJob(m.Subject)
	if err != nil {
		t.Fatal(err)
	}
	const why = "given up after 3 failures"
	claim := contracts.Claim{Worker: "w", Attempt: 4, Model: model, Class: contracts.P2}
	letter, err := contracts.Encode(&contracts.Dead{V: contracts.Version, Job: ref.Job, Tenant: ref.Tenant, Code: contracts.CodeInternal, Message: why,
		Died: time.Now().UnixMilli(), History: []contracts.Claim{claim}, Admitted: m.Data})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), subject.Dead(ref.Tenant, ref.Job), letter); err != nil {
		t.Fatal(err)
	}
	ch := &chain{js: js, out: subject.Out(ref.Tenant, ref.Job)}
	if err := ch.write(&contracts.Chunk{V: contracts.Version, Job: ref.Job, Fence: 1, Claim: &claim, Finish: contracts.FinishError, Code: contracts.CodeInternal, Message: why, Usage: &contracts.Usage{}}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), seq); err != nil {
		t.Fatal(err)
	}
}

// TestDueByAnotherClock: a job whose time the broker's clock says has come and ours does not is looked at again each
// second: ours may be set, and that of another dispatcher be right.
func TestDueByAnotherClock(t *testing.T) {
	t.Parallel()
	_, b := start(t, nil)
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	j := textJob("j", "hi")
	j.Tenant, j.Model, j.Class, j.NotBefore = tenant, model, contracts.P2, time.Now().Add(time.Hour).UnixMilli()
	data, err := contracts.Encode(&contracts.Admitted{V: contracts.Version, Job: *j, Tokens: []int32{1}, KVTokens: 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), subject.Due(tenant, "j"), data); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a second look", func() bool {
		c, err := js.Consumer(t.Context(), topology.StreamSched, topology.ConsumerDue)
		return err == nil && c.CachedInfo().Delivered.Consumer > 1
	})
	if n := leftInQueue(t, b.Conn()); n != 0 {
		t.Errorf("%d jobs are queued before their time", n)
	}
}
