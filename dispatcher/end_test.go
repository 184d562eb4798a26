package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
)

// records reads everything on a job's OUT subject.
func records(t testing.TB, nc *nats.Conn, job string) []*contracts.Chunk {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	s, err := js.Stream(ctx, topology.StreamOut)
	if err != nil {
		t.Fatal(err)
	}
	var out []*contracts.Chunk
	for seq := uint64(1); ; {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject.Out(tenant, job)))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		c := new(contracts.Chunk)
		if err := contracts.Decode(m.Data, c); err != nil {
			t.Fatalf("record %d of %s: %v", m.Sequence, job, err)
		}
		out = append(out, c)
		seq = m.Sequence + 1
	}
}

// oneFinal checks that a job has exactly one final record, the last, and returns it.
func oneFinal(t testing.TB, nc *nats.Conn, job string) *contracts.Chunk {
	t.Helper()
	all := records(t, nc, job)
	finals := 0
	for _, c := range all {
		if c.Final() {
			finals++
		}
	}
	if finals != 1 || !all[len(all)-1].Final() {
		t.Fatalf("job %s: %d final records among %d", job, finals, len(all))
	}
	return all[len(all)-1]
}

func TestCancelQueued(t *testing.T) {
	t.Parallel()
	ended := make(chan *contracts.Chunk, 9)
	d, b := start(t, func(c *dispatcher.Config) {
		c.Trace = &dispatcher.Trace{Ended: func(c *contracts.Chunk) { ended <- c }}
	})
	ctx := testContext(t)
	nc := b.Conn()
	_, chunks, err := d.Start(ctx, textJob("j", "abc"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // repeated, it answers the same
		s, err := d.Cancel(ctx, tenant, "j")
		if err != nil || s.State != contracts.StateCanceled || s.Finish != contracts.FinishCancelled || s.Code != contracts.CodeCanceled || s.Model != model || s.Class != contracts.P2 || *s.Usage != (contracts.Usage{}) {
			t.Fatalf("cancel: %+v %v", s, err)
		}
	}
	if _, final := read(t, "stream", chunks); final.Code != contracts.CodeCanceled || final.Claim.Attempt != 0 {
		t.Errorf("final record %+v", final)
	}
	if c := <-ended; c.Job != "j" || c.Code != contracts.CodeCanceled || c.Claim.Model != model || len(ended) != 0 {
		t.Errorf("%+v is said to have ended, and %d more", c, len(ended))
	}
	oneFinal(t, nc, "j")
	if n := leftInQueue(t, nc); n != 0 {
		t.Errorf("%d messages left in the queue", n)
	}
	_, err = d.Cancel(ctx, tenant, "nobody")
	wantCode(t, err, contracts.CodeNotFound)
}

func TestCancelRunning(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	reached := make(chan struct{}, 1)
	startWorker(t, b.Conn(), "w", func(w *fakeWorker) {
		w.step = func(ctx context.Context, _ *contracts.Admitted, index int) error {
			if index == 4 {
				reached <- struct{}{}
				<-ctx.Done()
			}
			return nil
		}
	})
	_, chunks, err := d.Start(ctx, textJob("j", "abc"))
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	s, err := d.Cancel(ctx, tenant, "j")
	if err != nil || s.State != contracts.StateCanceled || s.Worker != "w" || s.Usage.CompletionTokens != 4 {
		t.Fatalf("cancel: %+v %v", s, err)
	}
	if text, final := read(t, "stream", chunks); text != "abca" || final.Finish != contracts.FinishCancelled {
		t.Errorf("text %q, final %+v", text, final)
	}
}

// TestCancelRaces cancels at random moments: each job ends exactly once, completed or canceled, and
// cancel tells the truth.
func TestCancelRaces(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	nc := b.Conn()
	startWorker(t, b.Conn(), "w", nil)
	var mu sync.Mutex
	states := map[contracts.State]int{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := d.Submit(ctx, textJob(id(i), "abc")); err != nil {
				t.Errorf("submit %d: %v", i, err)
				return
			}
			time.Sleep(time.Duration(i%20) * 10 * time.Millisecond) // the race is the point
			s, err := d.Cancel(ctx, tenant, id(i))
			for contracts.CodeOf(err) == contracts.CodeOverloaded { // with so many at once on a busy machine
				s, err = d.Cancel(ctx, tenant, id(i))
			}
			if err != nil {
				t.Errorf("cancel %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			states[s.State]++
		})
	}
	wg.Wait()
	if states[contracts.StateCanceled]+states[contracts.StateCompleted] != 100 {
		t.Errorf("states %v", states)
	}
	for i := range 100 {
		oneFinal(t, nc, id(i))
	}
	waitFor(t, "the queue to be empty", func() bool { return leftInQueue(t, nc) == 0 })
	t.Logf("states %v", states)
}

// TestCancelOfADeadWorkersJob: the claim is there, its worker is not; the dispatcher ends the job and
// fences the zombie off.
func TestCancelOfADeadWorkersJob(t *testing.T) {
	t.Parallel()
	d, b := start(t, func(c *dispatcher.Config) { c.WorkerTTL = 50 * time.Millisecond })
	ctx := testContext(t)
	nc := b.Conn()
	vanished := make(chan struct{})
	startWorker(t, nc, "w", func(w *fakeWorker) {
		w.step = func(_ context.Context, _ *contracts.Admitted, index int) error {
			if index == 2 {
				close(vanished)
				return errors.New("vanishes")
			}
			return nil
		}
	})
	if _, err := d.Submit(ctx, textJob("j", "abc")); err != nil {
		t.Fatal(err)
	}
	<-vanished
	s, err := d.Cancel(ctx, tenant, "j")
	if err != nil || s.State != contracts.StateCanceled || s.Usage.CompletionTokens != 2 || s.Worker != "w" {
		t.Fatalf("cancel: %+v %v", s, err)
	}
	if final := oneFinal(t, nc, "j"); final.Fence < 2 || final.Index != 2 {
		t.Errorf("final record %+v, want a later fence and 2 tokens", final)
	}
	if n := leftInQueue(t, nc); n != 0 {
		t.Errorf("%d messages left in the queue", n)
	}
}

func TestDeadlineOfAQueuedJob(t *testing.T) {
	t.Parallel()
	expired := make(chan string, 2)
	d, b := start(t, func(c *dispatcher.Config) {
		c.Trace = &dispatcher.Trace{Ended: func(c *contracts.Chunk) { expired <- c.Job + " " + string(c.Code) }}
	})
	ctx := testContext(t)
	job := textJob("j", "abc")
	job.Deadline = time.Now().Add(2 * time.Second).UnixMilli() // after it was taken, also on a busy machine
	_, chunks, err := d.Start(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	_, final := read(t, "stream", chunks)
	if final.Code != contracts.CodeDeadlineExceeded || time.Now().UnixMilli() < job.Deadline {
		t.Errorf("final record %+v", final)
	}
	if got := <-expired; got != "j "+string(contracts.CodeDeadlineExceeded) {
		t.Errorf("expired %q", got)
	}
	s, err := d.Status(ctx, tenant, "j")
	if err != nil || s.State != contracts.StateExpired {
		t.Errorf("status %+v %v", s, err)
	}
	waitFor(t, "the queue to be empty", func() bool { return leftInQueue(t, b.Conn()) == 0 })
}

// TestDeadlineAfterRestart: the dispatcher that took the job is gone, another one ends it.
func TestDeadlineAfterRestart(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	ctx := testContext(t)
	job := textJob("j", "abc")
	job.Deadline = time.Now().Add(2 * time.Second).UnixMilli()
	if _, err := d.Submit(ctx, job); err != nil {
		t.Fatal(err)
	}
	stop()
	d2, _ := startDispatcher(t, testConfig(b.Conn()))
	if _, final := read(t, "stream", d2.Stream(ctx, tenant, "j", -1)); final.Code != contracts.CodeDeadlineExceeded {
		t.Errorf("final record %+v", final)
	}
}

// TestRestartOfEverything: with streams on disk, the broker and the dispatcher are stopped and started.
func TestRestartOfEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := contractstest.StartBroker(t, storeIn(dir))
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	ctx := testContext(t)
	w := startWorker(t, b.Conn(), "w", nil)
	_, chunks, err := d.Start(ctx, textJob("done", "abc"))
	if err != nil {
		t.Fatal(err)
	}
	read(t, "before", chunks)
	w.stop()
	waiting := textJob("waiting", "abc")
	waiting.Params.N = ptr(2) // the fake worker runs it all the same, after the restart
	canceled := textJob("canceled", "abc")
	stop()
	b.Stop()

	b = contractstest.StartBroker(t, storeIn(dir))
	d, stop = startDispatcher(t, testConfig(b.Conn()))
	s, err := d.Status(ctx, tenant, "done")
	if err != nil || s.State != contracts.StateCompleted || s.Usage.CompletionTokens != 16 {
		t.Fatalf("status after the restart: %+v %v", s, err)
	}
	if text, _ := read(t, "after", d.Stream(ctx, tenant, "done", -1)); text != expected("abc", 16) {
		t.Errorf("text after the restart %q", text)
	}
	for _, j := range []*contracts.Job{waiting, canceled} {
		if _, err := d.Submit(ctx, j); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Cancel(ctx, tenant, "canceled"); err != nil {
		t.Fatal(err)
	}
	stop()
	b.Stop()

	b = contractstest.StartBroker(t, storeIn(dir))
	d, _ = startDispatcher(t, testConfig(b.Conn()))
	for job, want := range map[string]contracts.State{"done": contracts.StateCompleted, "waiting": contracts.StateQueued, "canceled": contracts.StateCanceled} {
		if s, err := d.Status(ctx, tenant, job); err != nil || s.State != want {
			t.Errorf("%s is %q %v after the second restart, want %q", job, s.State, err, want)
		}
	}
	startWorker(t, b.Conn(), "w2", nil)
	if text, _ := read(t, "waiting", d.Stream(ctx, tenant, "waiting", -1)); text != expected("abc", 16) {
		t.Errorf("the job that waited: %q", text)
	}
}

// TestManyDeliveries: a job that changed hands often, for reasons that are nobody's fault, still runs.
func TestManyDeliveries(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	_, chunks, err := d.Start(ctx, textJob("j", "abc"))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(ctx, topology.StreamJobs, subject.Consumer(model, contracts.P2, contracts.SizeS))
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		m, err := c.Next(jetstream.FetchMaxWait(30 * time.Second)) // the most that the consumer allows
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Nak(); err != nil {
			t.Fatal(err)
		}
	}
	startWorker(t, b.Conn(), "w", nil)
	if text, final := read(t, "stream", chunks); text != expected("abc", 16) {
		t.Errorf("text %q, final record %+v", text, final)
	}
}

func TestListAndStatus(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	hold := make(chan struct{})
	startWorker(t, b.Conn(), "w", func(w *fakeWorker) {
		w.step = func(ctx context.Context, a *contracts.Admitted, index int) error {
			if a.Job.ID == "running" && index == 2 {
				select {
				case <-hold:
				case <-ctx.Done():
				}
			}
			return nil
		}
	})
	defer close(hold)
	now := time.Now().Add(-10 * time.Second).UnixMilli()
	submit := func(job string, n int, change func(*contracts.Job)) {
		t.Helper()
		j := textJob(job, "abc")
		j.Submitted = now + int64(n)
		if change != nil {
			change(j)
		}
		if _, err := d.Submit(ctx, j); err != nil {
			t.Fatal(err)
		}
	}
	submit("done", 1, nil)
	submit("running", 2, func(j *contracts.Job) { j.Class = contracts.P0 })
	// The fake worker does not serve size m: these wait.
	large := func(j *contracts.Job) { j.Params.N, j.Params.MaxTokens = ptr(16), ptr(100) }
	submit("waiting", 3, large)
	submit("other", 4, func(j *contracts.Job) { large(j); j.Tenant = "other" })
	submit("canceled", 5, large)
	if _, err := d.Cancel(ctx, tenant, "canceled"); err != nil {
		t.Fatal(err)
	}
	state := func(job string) contracts.State { s, _ := d.Status(ctx, tenant, job); return s.State }
	waitFor(t, "states", func() bool {
		return state("done") == contracts.StateCompleted && len(records(t, b.Conn(), "running")) == 3
	})
	if s, err := d.Status(ctx, tenant, "running"); err != nil || s.State != contracts.StateRunning || s.Worker != "w" || s.Class != contracts.P0 || s.Submitted != now+2 {
		t.Errorf("running: %+v %v", s, err)
	}
	for _, c := range []struct {
		filter contracts.Filter
		want   string
	}{
		{contracts.Filter{}, "[canceled/canceled other/queued waiting/queued running/running done/completed]"},
		{contracts.Filter{Tenant: tenant}, "[canceled/canceled waiting/queued running/running done/completed]"},
		{contracts.Filter{State: contracts.StateQueued}, "[other/queued waiting/queued]"},
		{contracts.Filter{State: contracts.StateRunning}, "[running/running]"},
		{contracts.Filter{Class: contracts.P0}, "[running/running]"},
		{contracts.Filter{State: contracts.StateFailed}, "[]"},
		{contracts.Filter{Tenant: "nobody"}, "[]"},
		{contracts.Filter{Limit: 2}, "[canceled/canceled other/queued]"},
	} {
		list, err := d.List(ctx, c.filter)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, s := range list {
			got = append(got, s.Job+"/"+string(s.State))
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("list %+v: %v, want %s", c.filter, got, c.want)
		}
	}
	_, err := d.List(ctx, contracts.Filter{Class: "*"})
	wantCode(t, err, contracts.CodeInvalidArgument)
}

// TestUsageOfWhatNobodyEnded: a job that no worker took used nothing, as what its tenant is charged with. The tokens of
// one that a worker took and did not end are counted as a worker counts them.
func TestUsageOfWhatNobodyEnded(t *testing.T) {
	t.Parallel()
	d, b := start(t, func(c *dispatcher.Config) {
		c.Models = []dispatcher.Model{{Name: model, Kind: contracts.KindEmbed, Tokenizer: byteTokenizer{}, ContextLength: 200, Vocab: 256, Dimensions: 2,
			Cut: func(ids []int32, most int) []int32 { return ids[:most] }}}
	})
	ctx := testContext(t)
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	for _, taken := range []bool{false, true} {
		j := &contracts.Job{V: 1, ID: fmt.Sprint(taken), Tenant: tenant, Model: model, Kind: contracts.KindEmbed, Input: []string{"abc", "de"}}
		if _, err := d.Submit(ctx, j); err != nil {
			t.Fatal(err)
		}
		want := contracts.Usage{}
		if taken {
			want = contracts.Usage{PromptTokens: 5, TotalTokens: 5}
			claim := &contracts.Chunk{V: 1, Job: j.ID, Fence: 1, Claim: &contracts.Claim{Worker: "w", Attempt: 1, Model: model, Class: contracts.P2}}
			if err := (&chain{js: js, out: subject.Out(tenant, j.ID)}).write(claim); err != nil {
				t.Fatal(err)
			}
		}
		s, err := d.Cancel(ctx, tenant, j.ID)
		if err != nil || s.Usage == nil || *s.Usage != want {
			t.Errorf("canceled: %+v, %v, want usage %+v", s.Usage, err, want)
		}
	}
}

// TestClocksDiffer: a dispatcher whose clock is a day ahead of the broker's ends no job before its deadline. Here the
// broker's is a day behind, which a dispatcher cannot tell apart.
func TestClocksDiffer(t *testing.T) {
	t.Parallel()
	ahead := make(chan time.Duration, 99)
	d, _ := start(t, func(c *dispatcher.Config) {
		c.Rescan, c.Trace = time.Hour, &dispatcher.Trace{Clock: func(by time.Duration) { ahead <- by }}
	})
	if by := <-ahead; by.Abs() > time.Minute {
		t.Errorf("%v ahead of a broker in the same process", by)
	}
	d.SetClock(time.Now().Add(-24 * time.Hour))
	ctx := testContext(t)
	j := textJob("j", "abc")
	j.Deadline = time.Now().Add(200 * time.Millisecond).UnixMilli()
	if _, err := d.Submit(ctx, j); err != nil {
		t.Fatal(err)
	}
	state := func() contracts.State {
		s, err := d.Status(ctx, tenant, "j")
		if err != nil {
			t.Fatal(err)
		}
		return s.State
	}
	if pollFor(1500*time.Millisecond, func() bool { return state() != contracts.StateQueued }) {
		t.Errorf("the job is %s while its deadline is a day away for the broker", state())
	}
	d.SetClock(time.Now())
	waitFor(t, "the deadline", func() bool { return state() == contracts.StateExpired })
}
