package dispatcher_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// TestHeldWithRecordsIsNotEvicted: like TestHeldWithRecordsIsLetIn (a restore), but the job has an objective,
// which is over after the restore: it is let in all the same.
func TestHeldWithRecordsIsNotEvicted(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	measured(t, b.Conn(), d)
	ctx := testContext(t)
	for i := range 6 {
		j := jobOf("flood", id(i))
		if i == 5 {
			j.Labels = map[string]string{"slo_ttft_ms": "1500"}
		}
		if _, err := d.Submit(ctx, j); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := d.Status(ctx, "flood", id(5)); err != nil || s.State != contracts.StateHeld {
		t.Fatalf("status of the last one: %+v, %v, want held", s, err)
	}
	stop()
	begin(t, b.Conn(), "flood", id(5))
	often(t, b.Conn()) // as of a large fleet: known before the first look at SCHED
	time.Sleep(1600 * time.Millisecond)
	cfg := testConfig(b.Conn())
	cfg.Rescan = time.Second // so that it is adopted again and again
	startDispatcher(t, cfg)
	startWorker(t, b.Conn(), "w", nil)
	if !pollFor(patience, func() bool { return stored(t, b, topology.StreamSched) == 0 }) {
		t.Errorf("%d jobs are still held, JOBS had %d messages of 6", stored(t, b, topology.StreamSched), stateOf(t, b.Conn(), topology.StreamJobs).LastSeq)
	}
}

// often sends heartbeats as measured does, each millisecond.
func often(t testing.TB, nc *nats.Conn) {
	sums := someSteps()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			heartbeat(t, nc, contracts.Heartbeat{Worker: "often", Model: model, Slots: 16, ContextLength: 200, Steps: &sums})
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended })
}

// TestDueWhileOutTakesNothing: the deadline of a scheduled job passes while no dispatcher runs, and while the
// next one runs OUT takes no records (no quorum): the job is kept, and gets its final record when OUT is well again.
func TestDueWhileOutTakesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := contractstest.StartBroker(t, func(o *server.Options) {
		o.StoreDir = dir
		o.Users = []*server.User{{Username: "all", Password: "x"},
			{Username: "noout", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"out.>"}}}}}
	})
	as := func(user string) *nats.Conn { return b.Conn(nats.UserInfo(user, "x")) }
	all := as("all")
	d, stop := startDispatcher(t, testConfig(all))
	ctx := testContext(t)
	var j *contracts.Job
	waitFor(t, "the job to be taken before it is too late", func() bool { // again when the machine stood still meanwhile
		j = at("j", 2*time.Second)
		j.Deadline = j.NotBefore + 200
		_, err := d.Submit(ctx, j)
		return err == nil
	})
	stop()
	time.Sleep(time.Until(time.UnixMilli(j.Deadline + 400)))
	cfg := testConfig(as("noout"))
	cfg.Timeout = 300 * time.Millisecond
	_, stop = startDispatcher(t, cfg)
	gone := pollFor(15*time.Second, func() bool { return stateOf(t, all, topology.StreamSched).Msgs == 0 })
	stop()
	d, _ = startDispatcher(t, testConfig(all)) // OUT is well again
	ctx = testContext(t)
	var s contracts.Status
	var err error
	if !pollFor(patience, func() bool { s, err = d.Status(ctx, tenant, "j"); return err == nil && s.State.Final() }) {
		t.Errorf("taken out of SCHED: %v; status %+v, %v, want a final one", gone, s, err)
	}
}

// gatedDialer dials while it is open, and can cut what it dialed.
type gatedDialer struct {
	mu   sync.Mutex
	shut bool
	conn net.Conn
}

func (g *gatedDialer) Dial(network, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return nil, errors.New("cut off")
	}
	c, err := net.Dial(network, address)
	g.conn = c
	return c, err
}

func (g *gatedDialer) cut(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut = shut; shut {
		_ = g.conn.Close()
	}
}

// connectGated makes a connection that the dialer can cut, and that comes back by itself.
func connectGated(t testing.TB, b *contractstest.Broker) (*gatedDialer, *nats.Conn) {
	t.Helper()
	g := &gatedDialer{}
	return g, connectBy(t, b, g)
}

// connectBy makes a connection through a dialer, which comes back by itself.
func connectBy(t testing.TB, b *contractstest.Broker, d nats.CustomDialer) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(b.URL(), nats.SetCustomDialer(d), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestFinalMissedWhileAway: a job ends while the dispatcher has no connection. Its place among the tenant's
// concurrent jobs is free again.
func TestFinalMissedWhileAway(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	g, nc := connectGated(t, b)
	cfg := testConfig(nc)
	cfg.Rescan = time.Second
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: {Concurrent: 1}}
	d, _ := startDispatcher(t, cfg)
	ctx := testContext(t)
	if _, err := d.Submit(ctx, textJob("first", "abc")); err != nil {
		t.Fatal(err)
	}
	ch := begin(t, b.Conn(), tenant, "first")
	time.Sleep(300 * time.Millisecond) // heard
	g.cut(true)
	waitFor(t, "the connection to be away", func() bool { return !nc.IsConnected() })
	if err := ch.write(&contracts.Chunk{V: 1, Job: "first", Fence: 5, Index: 1, Finish: contracts.FinishStop, Claim: &contracts.Claim{Worker: "gone", Attempt: 1, Model: model, Class: contracts.P2}, Usage: &contracts.Usage{CompletionTokens: 1, TotalTokens: 1}}); err != nil {
		t.Fatal(err)
	}
	s, err := ch.js.Stream(ctx, topology.StreamJobs)
	if err == nil {
		err = s.Purge(ctx) // acknowledged
	}
	if err != nil {
		t.Fatal(err)
	}
	g.cut(false)
	waitFor(t, "the connection to be back", nc.IsConnected)
	waitFor(t, "the end to be known", func() bool {
		s, err := d.Status(ctx, tenant, "first")
		return err == nil && s.State == contracts.StateCompleted
	})
	if !pollFor(patience, func() bool { _, err = d.Submit(ctx, textJob("second", "abc")); return err == nil }) {
		t.Errorf("long after the only job ended: %v", err)
	}
}

// TestScheduledEndMissedWhileAway: a scheduled job is queued and ends while the dispatcher that charged for it has no
// connection. What it did not use is given back.
func TestScheduledEndMissedWhileAway(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	g, nc := connectGated(t, b)
	cfg := testConfig(nc)
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: {Daily: 200}}
	d, _ := startDispatcher(t, cfg)
	other, _ := startDispatcher(t, testConfig(b.Conn()))
	ctx := testContext(t)
	most := func(j *contracts.Job) *contracts.Job {
		j.Params.MaxTokens = ptr(150)
		return j
	}
	if _, err := d.Submit(ctx, most(at("first", time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Submit(ctx, most(textJob("second", "abc"))); contracts.CodeOf(err) != contracts.CodeQuotaExceeded {
		t.Fatalf("a second job of more than is left: %v", err)
	}
	g.cut(true)
	waitFor(t, "the connection to be away", func() bool { return !nc.IsConnected() })
	if _, err := other.Cancel(ctx, tenant, "first"); err != nil {
		t.Fatal(err)
	}
	g.cut(false)
	waitFor(t, "the end to be known", func() bool { _, err := d.Submit(ctx, most(textJob("second", "abc"))); return err == nil })
}

// TestReaderDuringAnOutage: the broker is away for longer than one timeout while a reader waits for a queued
// job. The scale is a fifth: Idle 10 s and Timeout 5 s are the defaults, the outage is 18 s.
func TestReaderDuringAnOutage(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	g, nc := connectGated(t, b)
	cfg := testConfig(nc)
	cfg.Idle, cfg.Timeout = 2*time.Second, time.Second
	d, _ := startDispatcher(t, cfg)
	var chunks iter.Seq2[*contracts.Chunk, error]
	waitFor(t, "the job to be taken", func() bool { // a busy broker may need more than one timeout for that
		var err error
		_, chunks, err = d.Start(testContext(t), textJob("j", "abc"))
		return err == nil
	})
	go func() {
		time.Sleep(1200 * time.Millisecond) // the reader has begun
		g.cut(true)
		time.Sleep(3600 * time.Millisecond)
		g.cut(false)
	}()
	began := time.Now()
	time.AfterFunc(8*time.Second, func() { startWorker(t, b.Conn(), "w", nil) }) // before the test ends
	var last *contracts.Chunk
	for c, err := range chunks {
		if err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		last = c
	}
	if last == nil || !last.Final() {
		t.Errorf("the last chunk is %+v", last)
	}
}

// TestTooOldForTheQueue: a job that waits for longer than JOBS keeps messages vanishes without a final record, while a
// dispatcher runs. JOBS keeps it for an hour, not for the two seconds that the dispatcher knows of: it ends the job only
// the twenty-fourth part of that before the broker would drop it, and a busy machine takes longer.
func TestTooOldForTheQueue(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.Rescan = 2 * time.Second
	d, _ := startDispatcher(t, cfg)
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	keep := func(age time.Duration) {
		jobs := topology.Config{}.Streams()[0]
		jobs.MaxAge, jobs.Duplicates = age, time.Second
		if _, err := js.UpdateStream(t.Context(), jobs); err != nil {
			t.Fatal(err)
		}
	}
	ctx := testContext(t)
	const young = 2 * time.Second // 24 h
	job := ""
	for i := 0; d.Keeps() != young; i++ { // else it looked again before the job was submitted
		keep(young)
		waitFor(t, "the dispatcher to look", func() bool { return d.Keeps() == young })
		keep(time.Hour)
		job = id(i)
		if _, err := d.Submit(ctx, textJob(job, "abc")); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the job to end", func() bool { s, err := d.Status(ctx, tenant, job); return err == nil && s.State.Final() })
}

// TestScheduledJobsArePaidFor: a tenant that may send one request a minute sends ten, each for a moment later.
func TestScheduledJobsArePaidFor(t *testing.T) {
	t.Parallel()
	d, b := start(t, func(c *dispatcher.Config) {
		c.Overload.Quotas = map[string]quota.Limits{tenant: {Requests: 1, Concurrent: 1}}
	})
	ctx := testContext(t)
	taken := 0
	for i := range 10 {
		if _, err := d.Submit(ctx, at(fmt.Sprint("s", i), 500*time.Millisecond)); err == nil {
			taken++
		}
	}
	waitFor(t, "all to be queued", func() bool { return stored(t, b, topology.StreamSched) == 0 })
	if taken > 1 {
		t.Errorf("%d jobs were taken and %d are queued, of 1 that is allowed", taken, leftInQueue(t, b.Conn()))
	}
}

// TestFarDeadline: a deadline further away than the broker can count is no reason to refuse a job, and one
// tenant's jobs with such deadlines do not close the door for the others.
func TestFarDeadline(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	startDispatcher(t, testConfig(b.Conn()))
	startWorker(t, b.Conn(), "w", nil)
	ctx := testContext(t)
	for i := range 6 {
		j := textJob(id(i), "abc")
		j.Deadline = math.MaxInt64
		if _, err := d.Submit(ctx, j); err != nil {
			t.Errorf("far deadline: %v", err)
		}
	}
	other := textJob("other", "abc")
	other.Tenant = "somebody-else"
	if _, err := d.Submit(ctx, other); err != nil {
		t.Errorf("a job of another tenant: %v", err)
	}
	time.Sleep(3 * time.Second) // the breaker's time
	late := at("late", 700*time.Millisecond)
	late.Deadline = math.MaxInt64
	if _, err := d.Submit(ctx, late); err != nil {
		t.Fatalf("scheduled: %v", err)
	}
	waitFor(t, "the scheduled job to be completed", func() bool {
		s, err := d.Status(ctx, tenant, "late")
		return err == nil && s.State == contracts.StateCompleted
	})
}

// stalledConn is a connection on which nothing goes on for a while, in one direction or the other.
type stalledConn struct {
	net.Conn
	by *stall
}

// Write loses what it is given while the broker is deaf.
func (c stalledConn) Write(p []byte) (int, error) {
	if c.by.deaf.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Read hands on what came once the broker is not mute.
func (c stalledConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.by.mute.RLock()
	defer c.by.mute.RUnlock()
	return n, err
}

// stall dials connections that can be stalled.
type stall struct {
	deaf atomic.Bool
	mute sync.RWMutex
}

func (s *stall) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return stalledConn{c, s}, err
}

// connectStalled makes a connection that can be stalled.
func connectStalled(t testing.TB, b *contractstest.Broker) (*stall, *nats.Conn) {
	t.Helper()
	s := &stall{}
	return s, connectBy(t, b, s)
}

// TestScheduledWhileTheBrokerIsSilent: nobody waits for the timeouts of all those who came before, which would take
// twice as long as is allowed here.
func TestScheduledWhileTheBrokerIsSilent(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	broker, nc := connectStalled(t, b)
	cfg := testConfig(nc)
	cfg.Timeout = time.Second
	d, _ := startDispatcher(t, cfg)
	broker.deaf.Store(true)
	t.Cleanup(func() { broker.deaf.Store(false) })
	ctx := testContext(t)
	var all sync.WaitGroup
	begun := time.Now()
	for range 40 {
		all.Go(func() {
			_, err := d.Submit(ctx, at("", time.Hour)) // without an id, so that nothing is looked up before
			if contracts.CodeOf(err) != contracts.CodeUnavailable {
				t.Errorf("submit: %v, want unavailable", err)
			}
		})
	}
	all.Wait()
	if took := time.Since(begun); took > 20*cfg.Timeout {
		t.Errorf("the last one was answered after %v, with timeouts of %v", took, cfg.Timeout)
	}
}

// lossy loses the broker's first answer to a message that the stream JOBS took.
type lossy struct {
	net.Conn
	lost *atomic.Bool
}

func (c lossy) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return lossy{conn, c.lost}, err
}

func (c lossy) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if at := bytes.Index(p[:n], []byte(`"stream":"JOBS"`)); at >= 0 && bytes.Contains(p[:at], []byte("_INBOX.")) && c.lost.CompareAndSwap(false, true) {
		inbox := bytes.LastIndex(p[:at], []byte("_INBOX."))
		p[inbox+bytes.IndexByte(p[inbox:], ' ')-1] ^= 1 // nobody waits for it there
	}
	return n, err
}

// TestLostAnswerIsNoRepeat: a job whose id is new is no repetition of itself when the broker's answer was lost.
func TestLostAnswerIsNoRepeat(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	lost := new(atomic.Bool)
	lost.Store(true) // what comes before is not lost
	cfg := testConfig(connectBy(t, b, lossy{nil, lost}))
	cfg.Timeout = 2 * time.Second // also of the second try, which a machine that stands still must not miss
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: {Concurrent: 1}}
	d, _ := startDispatcher(t, cfg)
	lost.Store(false)
	answer, err := d.Submit(testContext(t), textJob("", "abc"))
	if err != nil || !lost.Load() || answer.Attached {
		t.Errorf("answer %+v, %v; lost %v", answer, err, lost.Load())
	}
	_, err = d.Submit(testContext(t), textJob("", "abc"))
	wantCode(t, err, contracts.CodeQuotaExceeded)
}
