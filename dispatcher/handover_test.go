package dispatcher_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher"
)

// holder is a worker that takes one job and holds it: it beats until it dies.
type holder struct {
	t     testing.TB
	name  string
	nc    *nats.Conn
	inbox *nats.Subscription
	chain *chain
	held  contracts.RunningJob
	job   contracts.Admitted
	die   context.CancelFunc
}

func hire(t testing.TB, nc *nats.Conn, name string) *holder {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{t: t, name: name, nc: nc, inbox: inbox, chain: &chain{js: js}}
	t.Cleanup(func() { _ = inbox.Unsubscribe() })
	return h
}

// beat sends heartbeats until the test ends or h dies.
func (h *holder) beat(every time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		for tick := time.NewTicker(every); ; {
			b := contracts.Heartbeat{Worker: h.name, Model: model, Started: 1}
			if h.held.Job != "" {
				b.Jobs = []contracts.RunningJob{h.held}
			}
			heartbeat(h.t, h.nc, b)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	h.die = func() { cancel(); <-over }
	h.t.Cleanup(h.die)
}

// take pulls until a job comes.
func (h *holder) take() *nats.Msg {
	h.t.Helper()
	w := &fakeWorker{nc: h.nc, inbox: h.inbox}
	var m *nats.Msg
	waitFor(h.t, "a delivery to "+h.name, func() bool {
		m = w.pull(testContext(h.t), contracts.P2)
		return m != nil
	})
	if err := contracts.Decode(m.Data, &h.job); err != nil {
		h.t.Fatal(err)
	}
	h.chain.out = subject.Out(tenant, h.job.Job.ID)
	return m
}

func (h *holder) claim(fence uint64) {
	h.t.Helper()
	c := &contracts.Chunk{V: 1, Job: h.job.Job.ID, Fence: fence, Claim: &contracts.Claim{Worker: h.name, Attempt: 1, Model: model, Class: contracts.P2}}
	if err := h.chain.write(c); err != nil {
		h.t.Fatal(err)
	}
}

func (h *holder) write(index int, fence uint64) error {
	return h.chain.write(&contracts.Chunk{V: 1, Job: h.job.Job.ID, Fence: fence, Index: index, Tokens: []int32{'x'}, Text: "x"})
}

// naks counts the jobs that are handed back.
func naks(t testing.TB, nc *nats.Conn) chan string {
	t.Helper()
	seen := make(chan string, 64)
	sub, err := nc.Subscribe("$JS.ACK.>", func(m *nats.Msg) {
		if string(m.Data) == "-NAK" {
			seen <- m.Subject
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return seen
}

func submitText(t testing.TB, d *dispatcher.Dispatcher, id string) {
	t.Helper()
	if _, err := d.Submit(testContext(t), textJob(id, "hello")); err != nil {
		t.Fatal(err)
	}
}

// lastOf is the newest record of a job.
func lastOf(t testing.TB, nc *nats.Conn, job string) *contracts.Chunk {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(testContext(t), "OUT")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(testContext(t), subject.Out(tenant, job))
	if err != nil {
		t.Fatal(err)
	}
	var c contracts.Chunk
	if err := contracts.Decode(m.Data, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

// TestHandOver: two dispatchers see a worker die that holds some jobs. Each is delivered again soon, with
// one NAK; the worker that was silent cannot write any more.
func TestHandOver(t *testing.T) {
	t.Parallel()
	const jobs = 10
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.WorkerTTL = 0
	d, stop := startDispatcher(t, cfg)
	cfg.Conn = b.Conn()
	_, stopSecond := startDispatcher(t, cfg)
	nc := b.Conn()
	handedBack := naks(t, nc)
	w := hire(t, b.Conn(), "w1")
	w.beat(100 * time.Millisecond)
	for i := range jobs {
		submitText(t, d, id(i))
		w.take()
		w.chain.seq = 0
		w.claim(1)
	}
	if err := w.write(0, 1); err != nil {
		t.Fatal(err)
	}
	died := time.Now()
	w.die()
	heir := hire(t, b.Conn(), "w2")
	for range jobs {
		heir.take()
	}
	took := time.Since(died)
	t.Logf("%d jobs delivered again %v after the last heartbeat", jobs, took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("delivered again only after %v", took)
	}
	c := lastOf(t, nc, w.job.Job.ID)
	if !c.IsClaim() || c.Claim.Released != contracts.ReleaseLost || c.Claim.Worker != "w1" || c.Fence != 2 || c.Index != 1 {
		t.Errorf("last record %+v %+v, want the release of w1, lost", c, c.Claim)
	}
	if err := w.write(1, 1); err == nil {
		t.Error("a worker that was replaced can still write")
	}
	stop()
	stopSecond()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the NAKs", func() bool { return len(handedBack) >= jobs })
	if n := len(handedBack); n != jobs {
		t.Errorf("%d NAKs for %d jobs", n, jobs)
	}
}

// TestHandOverByNewcomer: a dispatcher that starts after the worker's death finds its job in the queue,
// and one whose worker died between delivery and claim knows the job from the heartbeats.
func TestHandOverByNewcomer(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	first, stop := startDispatcher(t, testConfig(b.Conn()))
	nc := b.Conn()
	submitText(t, first, "old")
	w := hire(t, nc, "w1")
	w.take()
	w.claim(1)
	stop()
	d, _ := startDispatcher(t, testConfig(b.Conn()))
	hire(t, nc, "w2").take()
	if c := lastOf(t, nc, "old"); c.Claim == nil || c.Claim.Released != contracts.ReleaseLost {
		t.Errorf("last record %+v, want a release", c)
	}
	w = hire(t, nc, "w3")
	submitText(t, d, "unclaimed")
	w.take()
	w.held = contracts.RunningJob{Job: "unclaimed", Tenant: tenant, Class: contracts.P2}
	w.beat(50 * time.Millisecond)
	waitFor(t, "the worker's heartbeat", func() bool { return len(d.Workers()) == 1 })
	w.die()
	hire(t, nc, "w4").take()
	if c := lastOf(t, nc, "unclaimed"); c.Claim == nil || c.Claim.Released != contracts.ReleaseLost || c.Fence != 1 {
		t.Errorf("last record %+v, want a release with the first fence", c)
	}
}
