package lease_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/worker/lease"
	"github.com/pelton-run/pelton/worker/resume"
)

func broker(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("broker did not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Ensure(t.Context(), js, topology.Config{Memory: true}, "m"); err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func claim(worker string, attempt int) lease.Opening {
	return func(*resume.Transcript) *contracts.Chunk {
		return &contracts.Chunk{Claim: &contracts.Claim{Worker: worker, Attempt: attempt}}
	}
}

func take(t *testing.T, nc *nats.Conn, worker string, attempt int) *lease.Chain {
	t.Helper()
	c, _, err := lease.Take(t.Context(), nc, "t", "j", lease.Delivery{Attempt: attempt}, claim(worker, attempt))
	if err != nil {
		t.Fatalf("%s on attempt %d: %v", worker, attempt, err)
	}
	return c
}

func piece(index int, tokens ...int32) *contracts.Chunk {
	return &contracts.Chunk{Index: index, Tokens: tokens}
}

func TestFence(t *testing.T) {
	t.Parallel()
	nc, _ := broker(t)
	first := take(t, nc, "first", 1)
	if err := first.Append(t.Context(), piece(0, 1, 2)); err != nil {
		t.Fatal(err)
	}
	second, tr, err := lease.Take(t.Context(), nc, "t", "j", lease.Delivery{Attempt: 2}, claim("second", 2))
	if err != nil || second.Fence() != 2 || tr.Tokens() != 2 || tr.Attempt != 1 {
		t.Fatalf("take over: %v, fence %d, transcript %+v", err, second.Fence(), tr)
	}
	if err := first.Append(t.Context(), piece(2, 3)); !errors.Is(err, lease.ErrFenced) {
		t.Errorf("the first holder's next record: %v, want %v", err, lease.ErrFenced)
	}
	if _, _, err := lease.Take(t.Context(), nc, "t", "j", lease.Delivery{Attempt: 1}, claim("late", 1)); !errors.Is(err, lease.ErrFenced) {
		t.Errorf("an older attempt takes the job: %v, want %v", err, lease.ErrFenced)
	}
	if err := second.Append(t.Context(), &contracts.Chunk{Index: 2, Usage: &contracts.Usage{}}); err != nil {
		t.Fatal(err)
	}
	if _, tr, err := lease.Take(t.Context(), nc, "t", "j", lease.Delivery{Attempt: 3}, claim("third", 3)); !errors.Is(err, lease.ErrFinished) || tr.Final == nil {
		t.Errorf("take of a finished job: %v, want %v", err, lease.ErrFinished)
	}
}

// The acknowledgement of a record is lost: the record is recognized, not written twice.
func TestLostAcknowledgement(t *testing.T) {
	t.Parallel()
	nc, _ := broker(t)
	chain := take(t, nc, "w", 1)
	// Somebody answers every publish on the job's subject before the stream does, with nonsense.
	var lies atomic.Int32
	lies.Store(2)
	sub, err := nc.Subscribe(subject.Out("t", "j"), func(m *nats.Msg) {
		if lies.Add(-1) >= 0 {
			_ = m.Respond([]byte("not an acknowledgement"))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := chain.Append(t.Context(), piece(i, int32(i))); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	_ = sub.Unsubscribe()
	tr, err := resume.Read(t.Context(), nc, "t", "j")
	if err != nil || tr.Broken != nil || tr.Tokens() != 5 {
		t.Errorf("transcript %+v, %v; want 5 tokens", tr, err)
	}
}

// Records that aged out look like a foreign write and are none.
func TestAgedOut(t *testing.T) {
	t.Parallel()
	nc, js := broker(t)
	chain := take(t, nc, "w", 1)
	s, err := js.Stream(t.Context(), topology.StreamOut)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := chain.Append(t.Context(), piece(0, 1)); err != nil {
		t.Errorf("append after the claim aged out: %v", err)
	}
}

// A job that is queued anew, as after a restore, begins to count its deliveries anew: who has the first of them is
// not behind the claims of the former message.
func TestQueuedAnew(t *testing.T) {
	t.Parallel()
	nc, _ := broker(t)
	take(t, nc, "w", 3)
	for attempt := 1; attempt <= 2; attempt++ {
		d := lease.Delivery{Attempt: attempt, Queued: time.Now().Add(time.Hour)}
		if _, _, err := lease.Take(t.Context(), nc, "t", "j", d, claim("w", attempt)); err != nil {
			t.Fatalf("attempt %d of the new message after attempt 3 of the old one: %v", attempt, err)
		}
	}
	if _, _, err := lease.Take(t.Context(), nc, "t", "j", lease.Delivery{Attempt: 1}, claim("late", 1)); !errors.Is(err, lease.ErrFenced) {
		t.Errorf("an older delivery takes the job: %v, want %v", err, lease.ErrFenced)
	}
}

// A broker that comes back from a power failure may have lost the newest records of OUT. Nothing can follow them, so
// that a holder who waited would have the job for ever; the next one goes on after what is left.
func TestLostTail(t *testing.T) {
	t.Parallel()
	nc, js := broker(t)
	cfg := (topology.Config{Memory: true}).Streams()[1]
	cfg.DenyDelete = false
	if err := js.DeleteStream(t.Context(), topology.StreamOut); err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	chain := take(t, nc, "w", 1)
	for i := range 3 {
		if err := chain.Append(t.Context(), piece(i, int32(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteMsg(t.Context(), chain.Last()); err != nil {
		t.Fatal(err)
	}
	if err := chain.Append(t.Context(), piece(3, 3)); !errors.Is(err, lease.ErrLost) {
		t.Fatalf("append after a lost record: %v, want %v", err, lease.ErrLost)
	}
	_, tr, err := lease.Take(t.Context(), nc, "t", "j", lease.Delivery{Attempt: 2}, claim("next", 2))
	if err != nil || tr.Broken != nil || tr.Tokens() != 2 {
		t.Errorf("the next holder: %v, transcript %+v; want two tokens", err, tr)
	}
}

func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	nc, _ := broker(t)
	chain := take(t, nc, "w", 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := chain.Append(ctx, &contracts.Chunk{Text: strings.Repeat("x", 2<<20)})
	if err == nil || ctx.Err() != nil {
		t.Errorf("a record of 2 MiB: %v, want a refusal at once", err)
	}
	if err := chain.Append(ctx, piece(0, 1)); err != nil {
		t.Errorf("the next record: %v", err)
	}
	nc.Close()
	if err := chain.Append(ctx, piece(1, 2)); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("append on a closed connection: %v", err)
	}
}

func deliver(t *testing.T, nc *nats.Conn, js jetstream.JetStream, wait time.Duration) (*nats.Subscription, string) {
	t.Helper()
	cfg := topology.Config{}.Consumers("m")[0]
	cfg.AckWait = wait
	if _, err := js.UpdateConsumer(t.Context(), topology.StreamJobs, cfg); err != nil {
		t.Fatal(err)
	}
	job := subject.Job{Model: "m", Class: contracts.P0, Size: contracts.SizeS, Tenant: "t", Job: "j"}
	if _, err := js.Publish(t.Context(), job.String(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	sub, err := nc.SubscribeSync(nc.NewRespInbox())
	if err != nil {
		t.Fatal(err)
	}
	next := "$JS.API.CONSUMER.MSG.NEXT.JOBS." + cfg.Durable
	if err := nc.PublishRequest(next, sub.Subject, []byte(`{"batch":8,"expires":20000000000}`)); err != nil {
		t.Fatal(err)
	}
	return sub, next
}

// While a lease lives its job is delivered to nobody else; handed back, it comes at once.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	nc, js := broker(t)
	sub, _ := deliver(t, nc, js, 2*time.Second) // a busy machine is not silent for so long
	msg, err := sub.NextMsg(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lease.New(nc, msg, 100*time.Millisecond)
	if err != nil || l.Delivery().Attempt != 1 {
		t.Fatalf("lease of a first delivery: %v", err)
	}
	if m, err := sub.NextMsg(3 * time.Second); err == nil {
		t.Fatalf("delivered again while kept alive: %s", m.Subject)
	}
	if err := l.Nak(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if msg, err = sub.NextMsg(time.Minute); err != nil {
		t.Fatal(err)
	}
	if l, err = lease.New(nc, msg, time.Hour); err != nil || l.Delivery().Attempt != 2 {
		t.Fatalf("lease of the second delivery: %v", err)
	}
	l.Stop() // as after a loss: the broker hears nothing and delivers again
	if msg, err = sub.NextMsg(time.Minute); err != nil {
		t.Fatal(err)
	}
	if l, err = lease.New(nc, msg, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := l.Ack(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), topology.StreamJobs)
	if err != nil || s.CachedInfo().State.Msgs != 0 {
		t.Errorf("%d jobs left after the ack, %v", s.CachedInfo().State.Msgs, err)
	}
}

// A holder that writes nothing learns that the job was taken from it, and stops keeping it alive.
func TestGuard(t *testing.T) {
	t.Parallel()
	nc, js := broker(t)
	sub, _ := deliver(t, nc, js, 300*time.Millisecond)
	msg, err := sub.NextMsg(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	chain := take(t, nc, "first", 1)
	if chain.Lost(t.Context()) {
		t.Fatal("lost right after the claim")
	}
	l, err := lease.New(nc, msg, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	l.Guard(chain.Lost, func() { close(told) })
	take(t, nc, "second", 2)
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Fatal("the first holder heard nothing")
	}
	if _, err := sub.NextMsg(time.Minute); err != nil {
		t.Errorf("the job is still kept alive: %v", err)
	}
	l.Stop()
}

func TestNotADelivery(t *testing.T) {
	t.Parallel()
	nc, _ := broker(t)
	if _, err := lease.New(nc, &nats.Msg{Subject: "x", Reply: "_INBOX.y"}, time.Second); err == nil {
		t.Error("a message that no consumer delivered got a lease")
	}
}
