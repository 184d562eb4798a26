package topology_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// setup is an empty broker and a layout in memory.
func setup(t *testing.T) (jetstream.JetStream, topology.Config) {
	t.Helper()
	js, err := jetstream.New(contractstest.Server(t))
	if err != nil {
		t.Fatal(err)
	}
	return js, topology.Config{Memory: true, MaxJobBytes: 4096}
}

func ensure(t *testing.T, js jetstream.JetStream, c topology.Config, models ...string) []topology.Drift {
	t.Helper()
	drift, err := topology.Ensure(t.Context(), js, c, models...)
	if err != nil {
		t.Fatalf("ensure %v: %v", models, err)
	}
	return drift
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	if found, err := topology.Check(t.Context(), js, c, "m"); err != nil || len(found) != 4+1+16 || found[0].Change != "missing" {
		t.Errorf("check of an empty broker: %v, %v, want all missing", found, err)
	}
	first := ensure(t, js, c, "m", "llama 3.2")
	if len(first) != 4+1+2*16 || first[0] != (topology.Drift{Object: "stream JOBS", Change: "created"}) {
		t.Errorf("first run: %d changes %v, want 37 created", len(first), first)
	}
	if again := ensure(t, js, c, "m", "llama 3.2"); len(again) != 0 {
		t.Errorf("second run: %v, want no change", again)
	}
	if more := ensure(t, js, c, "m", "new"); len(more) != 16 {
		t.Errorf("another model: %v, want its 16 consumers", more)
	}
	for _, consumer := range c.Consumers("llama 3.2") {
		if _, err := js.Consumer(t.Context(), topology.StreamJobs, consumer.Durable); err != nil {
			t.Errorf("consumer %s: %v", consumer.Durable, err)
		}
	}
}

// TestOnDisk: the default layout is taken by a broker with files, and survives unchanged.
func TestOnDisk(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	c.Memory = false
	ensure(t, js, c, "m")
	if again := ensure(t, js, c, "m"); len(again) != 0 {
		t.Errorf("second run: %v, want no change", again)
	}
}

func TestDrift(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	ensure(t, js, c, "m")
	stream, err := js.Stream(t.Context(), topology.StreamOut)
	if err != nil {
		t.Fatal(err)
	}
	changed := stream.CachedInfo().Config
	changed.MaxAge, changed.RePublish = time.Minute, nil
	if _, err := js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	name := subject.Consumer("m", contracts.P0, contracts.SizeS)
	consumer, err := js.Consumer(t.Context(), topology.StreamJobs, name)
	if err != nil {
		t.Fatal(err)
	}
	slow := consumer.CachedInfo().Config
	slow.AckWait, slow.MaxDeliver = time.Hour, 1
	if _, err := js.UpdateConsumer(t.Context(), topology.StreamJobs, slow); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), topology.StreamJobs, subject.Consumer("m", contracts.P3, contracts.SizeX)); err != nil {
		t.Fatal(err)
	}
	found, err := topology.Check(t.Context(), js, c, "m")
	if err != nil || len(found) != 3 || found[0] != (topology.Drift{Object: "stream OUT", Change: "differs"}) || found[2] != (topology.Drift{Object: "consumer m-p3-x", Change: "missing"}) {
		t.Errorf("check: %v, %v, want three differences", found, err)
	}
	want := []topology.Drift{{Object: "stream OUT", Change: "updated"}, {Object: "consumer " + name, Change: "updated"}, {Object: "consumer m-p3-x", Change: "created"}}
	got := ensure(t, js, c, "m")
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("change %d is %v, want %v", i, got[i], want[i])
		}
	}
	if consumer, err = js.Consumer(t.Context(), topology.StreamJobs, name); err != nil || consumer.CachedInfo().Config.AckWait != topology.AckWait {
		t.Errorf("consumer after the repair: %v, ack wait %s, want %s", err, consumer.CachedInfo().Config.AckWait, topology.AckWait)
	}
	if again := ensure(t, js, c, "m"); len(again) != 0 {
		t.Errorf("after the repair: %v, want no change", again)
	}
}

// TestOlderConsumers: those with a number of copies of their own follow their stream from now on.
func TestOlderConsumers(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	ensure(t, js, c, "m")
	old := c.Consumers("m")[0]
	old.Replicas = 1
	if _, err := js.UpdateConsumer(t.Context(), topology.StreamJobs, old); err != nil {
		t.Fatal(err)
	}
	if got := ensure(t, js, c, "m"); len(got) != 1 || got[0] != (topology.Drift{Object: "consumer " + old.Durable, Change: "updated"}) {
		t.Errorf("got %v, want %s updated", got, old.Durable)
	}
	if again := ensure(t, js, c, "m"); len(again) != 0 {
		t.Errorf("afterwards: %v, want no change", again)
	}
}

// TestUnchangeable: what the broker cannot change in place is an error that names it.
func TestUnchangeable(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: topology.StreamJobs, Subjects: []string{subject.AllJobs}}); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Ensure(t.Context(), js, c); err == nil || !strings.Contains(err.Error(), "stream JOBS") {
		t.Errorf("a stream of another retention: %v, want an error that names it", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := topology.Ensure(ctx, js, c); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			_, err := topology.Ensure(t.Context(), js, c, "m")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if again := ensure(t, js, c, "m"); len(again) != 0 {
		t.Errorf("afterwards: %v, want no change", again)
	}
}

// TestLayoutHolds: the layout does what the fleet relies on.
func TestLayoutHolds(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	ensure(t, js, c, "m")
	at := subject.Job{Model: "m", Class: contracts.P1, Size: contracts.SizeM, Tenant: "t.x", Job: "j"}.String()
	publish := func(subj string, data []byte, opts ...jetstream.PublishOpt) error {
		_, err := js.Publish(t.Context(), subj, data, opts...)
		return err
	}
	if err := publish(at, []byte("one"), jetstream.WithMsgID("t.j")); err != nil {
		t.Fatal(err)
	}
	if err := publish(at, []byte("two"), jetstream.WithMsgID("other")); apiCode(err) != 10077 {
		t.Errorf("a second live copy of a job: %v, want error 10077", err)
	}
	if err := publish(strings.Replace(at, ".j", ".k", 1), make([]byte, 5000)); apiCode(err) != 10054 {
		t.Errorf("a job over MaxJobBytes: %v, want error 10054", err)
	}
	if err := publish(strings.Replace(at, ".j", ".k", 1), []byte("x"), jetstream.WithMsgTTL(time.Minute)); err != nil {
		t.Errorf("a job with a deadline: %v", err)
	}
	cons, err := js.Consumer(t.Context(), topology.StreamJobs, subject.Consumer("m", contracts.P1, contracts.SizeM))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.FetchNoWait(5)
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for range batch.Messages() {
		got++
	}
	if got != 2 {
		t.Errorf("the consumer of p1, m delivered %d jobs, want 2", got)
	}

	out, live := subject.Out("t.x", "j"), subject.Live("t.x", "j")
	sub, err := js.Conn().SubscribeSync(live)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(out, []byte("a"), jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
		t.Fatal(err)
	}
	if err := publish(out, []byte("b"), jetstream.WithExpectLastSequencePerSubject(0)); apiCode(err) != 10071 {
		t.Errorf("a record of an evicted worker: %v, want error 10071", err)
	}
	msg, err := sub.NextMsg(5 * time.Second)
	if err != nil || string(msg.Data) != "a" || msg.Header.Get("Nats-Sequence") != "1" || msg.Header.Get("Nats-Last-Sequence") != "0" {
		t.Errorf("live record %+v, %v, want \"a\" at sequence 1 after 0", msg, err)
	}
}

func apiCode(err error) jetstream.ErrorCode {
	var e *jetstream.APIError
	if errors.As(err, &e) {
		return e.ErrorCode
	}
	return 0
}

// TestMend: a consumer that is missing is made, what differs stays, and a missing stream is not made empty.
func TestMend(t *testing.T) {
	t.Parallel()
	js, c := setup(t)
	ensure(t, js, c, "m")
	if made, err := topology.Mend(t.Context(), js, c, "m"); err != nil || len(made) != 0 {
		t.Errorf("nothing is missing: %v, %v", made, err)
	}
	gone, other := subject.Consumer("m", contracts.P0, contracts.SizeS), subject.Consumer("m", contracts.P3, contracts.SizeX)
	consumer, err := js.Consumer(t.Context(), topology.StreamJobs, other)
	if err != nil {
		t.Fatal(err)
	}
	slow := consumer.CachedInfo().Config
	slow.AckWait = time.Hour
	if _, err := js.UpdateConsumer(t.Context(), topology.StreamJobs, slow); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), topology.StreamJobs, gone); err != nil {
		t.Fatal(err)
	}
	made, err := topology.Mend(t.Context(), js, c, "m")
	if err != nil || len(made) != 1 || made[0] != (topology.Drift{Object: "consumer " + gone, Change: "created"}) {
		t.Errorf("made %v, %v", made, err)
	}
	if err := js.DeleteStream(t.Context(), topology.StreamOut); err != nil {
		t.Fatal(err)
	}
	if made, err := topology.Mend(t.Context(), js, c, "m"); err == nil || len(made) != 0 {
		t.Errorf("without a stream: %v, %v, want an error", made, err)
	}
}

// TestQueueStateKept: a change of its consumers, and one that is made again, leave a queue in its state.
func TestQueueStateKept(t *testing.T) {
	t.Parallel()
	for _, state := range []contracts.QueueState{contracts.QueuePaused, contracts.QueueDraining, contracts.QueueOpen} {
		js, c := setup(t)
		ensure(t, js, c, "m", "other")
		if err := topology.SetQueue(t.Context(), js, "m", state); err != nil {
			t.Fatal(err)
		}
		consumers := c.Consumers("m")
		_, opened, _, err := topology.QueueOf(t.Context(), js, "m")
		if err != nil {
			t.Fatal(err)
		}
		for _, gone := range []string{consumers[0].Durable, consumers[7].Durable} {
			if err := js.DeleteConsumer(t.Context(), topology.StreamJobs, gone); err != nil {
				t.Fatal(err)
			}
		}
		changed := consumers[5]
		changed.AckWait = time.Hour
		if _, err := js.UpdateConsumer(t.Context(), topology.StreamJobs, changed); err != nil {
			t.Fatal(err)
		}
		if got := ensure(t, js, c, "m", "other"); len(got) != 3 {
			t.Errorf("%s: %v, want 2 created and 1 updated", state, got)
		}
		for _, want := range consumers {
			has, err := js.Consumer(t.Context(), topology.StreamJobs, want.Durable)
			if err != nil {
				t.Fatal(err)
			}
			if got, at, told := topology.Queue(has.CachedInfo()); got != state || !told || !at.Equal(opened) {
				t.Errorf("%s of a queue that is %s: %s, opened %v, told %t, want opened %v", want.Durable, state, got, at, told, opened)
			}
		}
		if _, _, told, err := topology.QueueOf(t.Context(), js, "other"); err != nil || told {
			t.Errorf("the other model's queue: told %t, %v", told, err)
		}
	}
}

// TestMendWithoutRights: who may not make a consumer is told who may.
func TestMendWithoutRights(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "all", Password: "p"}, {Username: "few", Password: "p",
			Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.CREATE.>"}}}}}
	})
	all, err := jetstream.New(b.Conn(nats.UserInfo("all", "p")))
	if err != nil {
		t.Fatal(err)
	}
	few, err := jetstream.New(b.Conn(nats.UserInfo("few", "p")))
	if err != nil {
		t.Fatal(err)
	}
	c := topology.Config{Memory: true, MaxJobBytes: 4096}
	ensure(t, all, c, "m")
	gone := subject.Consumer("m", contracts.P0, contracts.SizeS)
	if err := all.DeleteConsumer(t.Context(), topology.StreamJobs, gone); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Mend(t.Context(), few, c, "m"); err == nil || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), "pelton provision") {
		t.Errorf("%v, want the consumer and who may make it", err)
	}
}

// behind is a broker whose clock is an hour behind ours: it takes what it is told of its own time for what it is.
type behind struct {
	jetstream.JetStream
	until time.Time // of the last pause
}

func (b *behind) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	c, err := b.JetStream.Consumer(ctx, stream, name)
	return late{c}, err
}

func (b *behind) PauseConsumer(ctx context.Context, stream, name string, until time.Time) (*jetstream.ConsumerPauseResponse, error) {
	b.until = until
	return b.JetStream.PauseConsumer(ctx, stream, name, until)
}

type late struct{ jetstream.Consumer }

func (l late) CachedInfo() *jetstream.ConsumerInfo {
	info := *l.Consumer.CachedInfo()
	info.TimeStamp = info.TimeStamp.Add(-time.Hour)
	info.Paused = info.Config.PauseUntil != nil && info.TimeStamp.Before(*info.Config.PauseUntil)
	return &info
}

// TestQueueByTheBrokersClock: a queue that is opened by a machine whose clock is ahead of the broker's is open at once.
func TestQueueByTheBrokersClock(t *testing.T) {
	t.Parallel()
	js, layout := setup(t)
	ensure(t, js, layout, "m")
	b := &behind{JetStream: js}
	for _, want := range []contracts.QueueState{contracts.QueuePaused, contracts.QueueOpen} {
		if err := topology.SetQueue(t.Context(), b, "m", want); err != nil {
			t.Fatal(err)
		}
		if got, _, told, err := topology.QueueOf(t.Context(), b, "m"); got != want || !told || err != nil {
			t.Errorf("%s: %v, want %s", got, err, want)
		}
	}
	if ahead := time.Until(b.until) + time.Hour; ahead > time.Minute {
		t.Errorf("paused for another %v by the broker's clock", ahead)
	}
}
