package auth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/auth"
)

func job(id, prompt string, tokens int) *contracts.Job {
	return &contracts.Job{ID: id, Model: "m", Kind: contracts.KindText, Prompt: prompt, Params: contracts.Params{MaxTokens: &tokens}}
}

// TestFleet: every part has the rights of its role only, and a job of a tenant whose name needs escaping
// goes all the way; the broker had nothing to refuse.
func TestFleet(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	nc := f.connect(auth.Producer, "ann & co.")
	ann := client.New(nc, "ann & co.", client.WithoutReplay())
	s, err := ann.Run(testContext(t), job("one", "hello", 20))
	if err != nil {
		t.Fatal(err)
	}
	tokens, finished := 0, false
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		tokens, finished = tokens+len(c.Tokens), c.Final()
	}
	if tokens != 20 || !finished {
		t.Errorf("got %d tokens, final %v, want 20 and the final record", tokens, finished)
	}
	later := job("two", "hello", 5)
	later.NotBefore = time.Now().Add(time.Second).UnixMilli()
	if s, err = ann.Run(testContext(t), later); err != nil {
		t.Fatal(err)
	}
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatalf("a scheduled job: %v\n%s", err, f.log)
		}
		if c.Final() && c.Finish != contracts.FinishLength {
			t.Errorf("a scheduled job ended with %q", c.Finish)
		}
	}
	later = job("three", "hello", 5)
	later.NotBefore = time.Now().Add(time.Hour).UnixMilli()
	if _, err := ann.Submit(testContext(t), later); err != nil {
		t.Fatal(err)
	}
	if status, err := ann.Cancel(testContext(t), "three"); err != nil || status.State != contracts.StateCanceled {
		t.Errorf("cancel of a scheduled job: %+v, %v", status, err)
	}
	if status, err := ann.Cancel(testContext(t), "one"); err != nil || status.State != contracts.StateCompleted {
		t.Errorf("cancel of a finished job: %+v, %v", status, err)
	}
	if said := f.log.String(); strings.Contains(strings.ToLower(said), "violation") {
		t.Errorf("the broker refused something of the fleet's own:\n%s", said)
	}
}

// TestRights: what each role may and may not do, asked of the broker; -v prints the matrix.
func TestRights(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	var table strings.Builder
	matrix := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	type right struct {
		subject string
		allowed bool
	}
	job := subject.Job{Model: "m", Class: contracts.P0, Size: contracts.SizeS, Tenant: "ann", Job: "x"}.String()
	for _, c := range []struct {
		role               auth.Role
		name               string
		publish, subscribe []right
	}{
		{auth.Producer, "ann", []right{
			{"submit.ann", true}, {"cancel.ann.j", true}, {"status.ann.j", true},
			{"submit.bob", false}, {"cancel.bob.j", false}, {"status.bob.j", false}, {"submit.*", false}, {job, false}, {"out.ann.j", false}, {"live.ann.j", false},
			{"ctl.cancel.ann.j", false}, {"ctl.preempt.ann.j", false}, {"ctl.drain.w1", false}, {"hb.w", false}, {"bell.m", false}, {"sched.ann.j", false}, {"dlq.ann.j", false},
			{"$JS.API.INFO", false}, {"$JS.API.STREAM.INFO.JOBS", false}, {"$JS.API.DIRECT.GET.OUT", false}, {"$JS.API.DIRECT.GET.OUT.out.ann.j", false}, {"$JS.API.CONSUMER.PAUSE.JOBS.m-p0-s", false},
			{"$JS.ACK.JOBS.m-p0-s.1.1.1.1.1", false}, {"_INBOX_bob.x", false}, {"$SYS.REQ.SERVER.PING", false}, {"$SRV.PING", false},
		}, []right{
			{"live.ann.j", true}, {"live.ann.*", true}, {"_INBOX_ann.>", true},
			{"live.bob.j", false}, {"live.*.j", false}, {"live.>", false}, {"_INBOX_bob.>", false}, {"_INBOX.>", false}, {"*.>", false}, {">", false},
			{"submit.ann", false}, {"jobs.>", false}, {"out.ann.*", false}, {"hb.*", false}, {"_PELTON.>", false}, {"_PELTON.dispatcher.dispatcher.>", false}, {"$JS.EVENT.>", false},
		}},
		{auth.Worker, "w1", []right{
			{"out.ann.j", true}, {"hb.w1", true}, {"dlq.ann.j", true}, {"bell.m", true}, {"$JS.API.CONSUMER.MSG.NEXT.JOBS.m-p0-s", true}, {"$JS.API.CONSUMER.INFO.JOBS.m-p0-s", true},
			{"$JS.ACK.JOBS.m-p0-s.9.9.9.9.9", true}, {"$JS.ACK._.hash.JOBS.m-p0-s.9.9.9.9.9", true}, {"$JS.API.DIRECT.GET.OUT.out.ann.j", true},
			{job, false}, {"submit.ann", false}, {"cancel.ann.j", false}, {"ctl.cancel.ann.j", false}, {"ctl.preempt.ann.j", false}, {"ctl.drain.w1", false}, {"sched.ann.j", false}, {"due.ann.j", false},
			{"live.ann.j", false}, {"$JS.API.DIRECT.GET.JOBS", false}, {"$JS.API.DIRECT.GET.DLQ.dlq.ann.j", false},
			{"$JS.API.CONSUMER.CREATE.JOBS.evil", false}, {"$JS.API.CONSUMER.CREATE.OUT.evil.out.>", false}, {"$JS.API.CONSUMER.DURABLE.CREATE.JOBS.evil", false},
			{"$JS.API.CONSUMER.DELETE.JOBS.m-p0-s", false}, {"$JS.API.CONSUMER.PAUSE.JOBS.m-p0-s", false}, {"$JS.API.CONSUMER.MSG.NEXT.SCHED.due", false}, {"$JS.API.STREAM.DELETE.JOBS", false}, {"$JS.API.STREAM.PURGE.JOBS", false},
			{"$JS.API.STREAM.MSG.DELETE.JOBS", false}, {"$JS.API.STREAM.UPDATE.JOBS", false}, {"$JS.API.STREAM.SNAPSHOT.OUT", false}, {"$JS.API.STREAM.RESTORE.OUT", false}, {"$JS.ACK.SCHED.due.9.9.9.9.9", false}, {"_INBOX_ann.x", false},
		}, []right{
			{"bell.m", true}, {"ctl.cancel.*.*", true}, {"ctl.preempt.*.*", true}, {"ctl.drain.w1", true}, {"_PELTON.worker.w1.>", true},
			{"jobs.>", false}, {"submit.*", false}, {"live.ann.*", false}, {"out.>", false}, {"hb.*", false}, {"_PELTON.worker.w2.>", false}, {"_PELTON.>", false}, {"_INBOX.>", false}, {"_INBOX_ann.>", false}, {">", false},
		}},
		{auth.Dispatcher, "d1", []right{
			{job, true}, {"sched.ann.j", true}, {"dlq.ann.j", false}, {"out.ann.j", true}, {"bell.m", true}, {"ctl.cancel.ann.j", true}, {"ctl.preempt.ann.j", true}, {"ctl.drain.w1", true},
			{"$JS.ACK.JOBS.m-p0-s.9.9.9.9.9", true}, {"$JS.ACK._.hash.JOBS.m-p0-s.9.9.9.9.9", true}, {"$JS.ACK.SCHED.due.9.9.9.9.9", true}, {"$JS.API.CONSUMER.MSG.NEXT.SCHED.due", true},
			{"$JS.API.STREAM.INFO.JOBS", true}, {"$JS.API.CONSUMER.INFO.JOBS.m-p0-s", true}, {"$JS.API.CONSUMER.PAUSE.JOBS.m-p0-s", true}, {"$JS.API.CONSUMER.PAUSE.SCHED.due", false}, {"$JS.API.DIRECT.GET.DLQ", true}, {"$JS.API.DIRECT.GET.OUT.out.ann.j", true},
			{"$JS.API.STREAM.MSG.DELETE.OUT", false}, {"$JS.API.STREAM.DELETE.JOBS", false}, {"$JS.API.STREAM.PURGE.OUT", false}, {"$JS.API.STREAM.CREATE.EVIL", false}, {"$JS.API.STREAM.UPDATE.JOBS", false},
			{"$JS.API.CONSUMER.CREATE.JOBS.evil", false}, {"$JS.API.CONSUMER.DELETE.JOBS.m-p0-s", false}, {"$JS.API.CONSUMER.MSG.NEXT.JOBS.m-p0-s", false},
			{"$JS.API.STREAM.SNAPSHOT.JOBS", false}, {"$JS.API.STREAM.RESTORE.JOBS", false}, {"$JS.SNAPSHOT.RESTORE.JOBS.x", false},
			{"due.ann.j", false}, {"live.ann.j", false}, {"submit.ann", false}, {"_INBOX_ann.x", false}, {"_PELTON.worker.w1.x", false},
		}, []right{
			{"submit.*", true}, {"cancel.*.*", true}, {"status.*.*", true}, {"live.*.*", true}, {"hb.*", true}, {"$SRV.PING", true}, {"_PELTON.dispatcher.d1.>", true},
			{"jobs.>", false}, {"_PELTON.dispatcher.d2.>", false}, {"_INBOX.>", false}, {"_INBOX_ann.>", false}, {"$JS.API.>", false}, {">", false},
		}},
		{auth.Console, "c", []right{
			{"$JS.API.STREAM.INFO.JOBS", false}, {"$JS.API.INFO", false}, {"anything", false},
			{"$JS.API.STREAM.DELETE.JOBS", false}, {"$JS.API.STREAM.SNAPSHOT.OUT", false}, {"$JS.API.DIRECT.GET.OUT", false}, {"$JS.API.DIRECT.GET.JOBS", false}, {"$JS.API.STREAM.MSG.GET.JOBS", false}, {"$JS.API.CONSUMER.CREATE.OUT.c.out.>", false},
			{job, false}, {"submit.c", false}, {"cancel.ann.j", false}, {"ctl.cancel.ann.j", false}, {"ctl.drain.w1", false}, {"hb.w", false},
		}, []right{
			{"hb.*", true}, {"$JS.EVENT.ADVISORY.>", true}, {"_PELTON.console.c.>", true},
			{"live.>", false}, {"out.>", false}, {"submit.*", false}, {"jobs.>", false}, {">", false}, {"_PELTON.>", false},
		}},
		{auth.Provisioner, "p", []right{
			{"$JS.API.STREAM.INFO.JOBS", true}, {"$JS.API.STREAM.NAMES", true},
			{"$JS.API.STREAM.SNAPSHOT.JOBS", true}, {"$JS.API.STREAM.RESTORE.JOBS", true}, {"$JS.SNAPSHOT.ACK.JOBS.x.1.1", true}, {"$JS.SNAPSHOT.RESTORE.JOBS.x", true},
			{job, false}, {"submit.p", false}, {"ctl.drain.w1", false}, {"out.ann.j", false}, {"$JS.ACK.JOBS.m-p0-s.9.9.9.9.9", false}, {"$SYS.REQ.SERVER.PING", false},
		}, []right{{"_PELTON.provisioner.p.>", true}, {"live.>", false}, {"jobs.>", false}, {"hb.*", false}, {">", false}}},
		{auth.Keeper, "k", []right{
			{"$JS.API.SERVER.REMOVE", true},
			{"$JS.API.STREAM.INFO.JOBS", false}, {"$JS.API.STREAM.NAMES", false}, {"$JS.API.META.LEADER.STEPDOWN", false}, {"$JS.API.ACCOUNT.PURGE.x", false}, {"$SYS.REQ.SERVER.PING", false},
			{"$SYS.REQ.CLAIMS.UPDATE", false}, {"$SYS.REQ.SERVER.x.RELOAD", false}, {job, false}, {"submit.k", false}, {"ctl.drain.w1", false},
		}, []right{{"_PELTON.keeper.k.>", true}, {"$SYS.>", false}, {"$SYS.ACCOUNT.x.CONNECT", false}, {"live.>", false}, {">", false}}},
	} {
		nc := f.connect(c.role, c.name)
		for _, r := range c.publish {
			got := mayPublish(t, nc, r.subject)
			_, _ = fmt.Fprintf(matrix, "%s\tpublish\t%s\t%s\n", c.role, r.subject, verdict(got))
			if got != r.allowed {
				t.Errorf("%s %s: publishing on %s is allowed: %v, want %v", c.role, c.name, r.subject, got, r.allowed)
			}
		}
		for _, r := range c.subscribe {
			got := maySubscribe(t, nc, r.subject)
			_, _ = fmt.Fprintf(matrix, "%s\tsubscribe\t%s\t%s\n", c.role, r.subject, verdict(got))
			if got != r.allowed {
				t.Errorf("%s %s: subscribing to %s is allowed: %v, want %v", c.role, c.name, r.subject, got, r.allowed)
			}
		}
	}
	_ = matrix.Flush()
	t.Logf("what the broker says\n%s", &table)
}

func verdict(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "refused"
}

// TestNobody: without credentials, or with those of another fleet, there is no connection.
func TestNobody(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	if nc, err := nats.Connect(f.node.NATS(), nats.RootCAs(f.certs.CA)); err == nil {
		nc.Close()
		t.Error("a client without credentials is let in")
	}
	other, err := auth.Init(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if nc, err := nats.Connect(f.node.NATS(), nats.RootCAs(f.certs.CA), nats.UserCredentials(other.Creds(auth.Provisioner))); err == nil {
		nc.Close()
		t.Error("another fleet's provisioner is let in")
	}
	if nc, err := nats.Connect(strings.Replace(f.node.NATS(), "tls:", "nats:", 1), nats.UserCredentials(f.keys.Creds(auth.Producer))); err == nil {
		nc.Close()
		t.Error("a client that does not know the certificate authority is connected")
	}
}

// TestExpiry: a connection ends with its credentials, comes back with those that replaced them in the
// file, and is closed for good when nobody replaced them.
func TestExpiry(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	back, closed := make(chan struct{}, 16), make(chan struct{})
	connect := func(handler nats.Option) (file string) {
		file = filepath.Join(t.TempDir(), "creds")
		if err := f.keys.Write(file, auth.Producer, "ann", 8*time.Second); err != nil {
			t.Fatal(err)
		}
		nc, err := client.Connect(f.node.NATS(), nats.UserCredentials(file), nats.RootCAs(f.certs.CA), client.Inbox("ann"), handler)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return file
	}
	connect(nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	replaced := connect(nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if err := f.keys.Write(replaced, auth.Producer, "ann", time.Hour); err != nil {
		t.Fatal(err)
	}
	for what, event := range map[string]chan struct{}{"closed without new credentials": closed, "back with new ones": back} {
		select {
		case <-event:
		case <-testContext(t).Done():
			t.Errorf("waited %s for a connection to be %s", patience, what)
		}
	}
}

// TestSpoofedReplies: a reply subject that its sender may not publish on never makes the dispatcher
// write there.
func TestSpoofedReplies(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	ann, bob, worker := f.connect(auth.Producer, "ann"), f.connect(auth.Producer, "bob"), f.connect(auth.Worker, "spy")
	victim, err := bob.SubscribeSync("_INBOX_bob.>")
	if err != nil {
		t.Fatal(err)
	}
	control, err := worker.SubscribeSync("ctl.cancel.*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, nc := range []*nats.Conn{bob, worker} {
		if err := nc.FlushTimeout(patience); err != nil {
			t.Fatal(err)
		}
	}
	data, err := contracts.Encode(job("j", "hello", 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"_INBOX_bob.x", "ctl.cancel.bob.j", "cancel.bob.j", "_PELTON.worker.w.x", "_PELTON.dispatcher.dispatcher.x", "out.bob.j", "jobs.m.p0.s.bob.j"} {
		if err := ann.PublishRequest("submit.ann", reply, data); err != nil {
			t.Fatal(err)
		}
		if err := ann.PublishRequest("cancel.ann.none", reply, nil); err != nil {
			t.Fatal(err)
		}
	}
	// One dispatcher takes submits in order: when this one is answered, it is through with those before.
	if _, err := client.New(ann, "ann").Submit(testContext(t), job("last", "hello", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.New(ann, "ann").Cancel(testContext(t), "none"); err == nil {
		t.Error("cancel of an unknown job: no error")
	}
	// And what the dispatcher sent to the spies is there when their own round trip is over.
	if _, err := client.New(bob, "bob").Cancel(testContext(t), "none"); err == nil {
		t.Error("cancel of an unknown job: no error")
	}
	if err := worker.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	for m, err := victim.NextMsg(time.Millisecond); err == nil; m, err = victim.NextMsg(time.Millisecond) {
		if m.Subject == "_INBOX_bob.x" {
			t.Errorf("bob got %q on %s", m.Data, m.Subject)
		}
	}
	if m, err := control.NextMsg(time.Millisecond); err == nil {
		t.Errorf("a worker got %s", m.Subject)
	}
}

// TestAnswersAreNoCancels: JetStream answers on whatever reply subject a request names, without asking
// whether its sender may publish there. What it says is not taken for a cancel.
func TestAnswersAreNoCancels(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	bob := client.New(f.connect(auth.Producer, "bob"), "bob", client.WithoutReplay())
	s, err := bob.Run(testContext(t), job("j", "hello", 200))
	if err != nil {
		t.Fatal(err)
	}
	nc := f.connect(auth.Provisioner, "p")
	for _, reply := range []string{"cancel.bob.j", "ctl.cancel.bob.j", "submit.bob"} {
		if err := nc.PublishRequest("$JS.API.STREAM.INFO.JOBS", reply, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nc.Request("$JS.API.STREAM.INFO.JOBS", nil, patience); err != nil {
		t.Fatal(err)
	}
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		if c.Final() && c.Finish != contracts.FinishLength {
			t.Errorf("the job ended with %q, want %q", c.Finish, contracts.FinishLength)
		}
	}
}

// TestProvision: who may change streams is not who uses them.
func TestProvision(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	js, err := jetstream.New(f.connect(auth.Provisioner, "p"))
	if err != nil {
		t.Fatal(err)
	}
	drift, err := topology.Ensure(testContext(t), js, topology.Config{}, "m", "another")
	if err != nil || len(drift) != len(contracts.Classes)*len(contracts.Sizes) {
		t.Errorf("provisioner: %d changes, %v, want the consumers of another model", len(drift), err)
	}
	worker := f.connect(auth.Worker, "w2")
	if js, err = jetstream.New(worker); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // a refused request has no answer
	defer cancel()
	if _, err := js.CreateConsumer(soon, topology.StreamOut, jetstream.ConsumerConfig{FilterSubject: "out.>"}); err == nil {
		t.Error("a worker made a consumer of everybody's answers")
	}
	msg, err := f.connect(auth.Provisioner, "p2").Request("$JS.API.CONSUMER.NAMES.OUT", nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var names struct {
		Consumers []string `json:"consumers"`
	}
	if err := json.Unmarshal(msg.Data, &names); err != nil || len(names.Consumers) != 0 {
		t.Errorf("consumers of OUT: %v, %v, want none", names.Consumers, err)
	}
}
