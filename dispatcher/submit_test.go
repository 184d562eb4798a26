package dispatcher_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

func TestStartStreamsTheAnswer(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf(format, args...))
	}
	d, b := start(t, func(c *dispatcher.Config) {
		c.Trace = &dispatcher.Trace{
			Admitted: func(a *contracts.Admitted, size contracts.Size, _ time.Duration) {
				note("admitted %s %s %d", a.Job.ID, size, a.KVTokens)
			},
			FirstChunk: func(a *contracts.Admitted, _ time.Duration) { note("first %s", a.Job.ID) },
			Finished: func(a *contracts.Admitted, f *contracts.Chunk, _ time.Duration) {
				note("finished %s %d", a.Job.ID, f.Index)
			},
			Attached: func(_, job string) { note("attached %s", job) },
		}
	})
	startWorker(t, b.Conn(), "w", nil)
	ctx := testContext(t)
	job := textJob("j", "abc")
	answer, chunks, err := d.Start(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Outcome != contracts.OutcomeAdmitted || answer.Live != subject.Live(tenant, "j") || answer.Job != "j" {
		t.Errorf("answer %+v", answer)
	}
	text, final := read(t, "start", chunks)
	if text != expected("abc", 16) || final.Usage.TotalTokens != 19 {
		t.Errorf("text %q, usage %+v, want 16 tokens of the default", text, final.Usage)
	}
	if text, _ := read(t, "stream of a finished job", d.Stream(ctx, tenant, "j", -1)); text != expected("abc", 16) {
		t.Errorf("replayed %q", text)
	}
	var indexes []int
	for c, err := range d.Stream(ctx, tenant, "j", 12) {
		if err != nil {
			t.Fatal(err)
		}
		indexes = append(indexes, c.Index)
	}
	if fmt.Sprint(indexes) != "[13 14 15 16]" {
		t.Errorf("after 12 came %v, want 13 14 15 and the final record 16", indexes)
	}
	again, chunks, err := d.Start(ctx, job)
	if err != nil || again.Outcome != contracts.OutcomeAdmitted {
		t.Fatalf("again: %+v %v", again, err)
	}
	if text, _ := read(t, "start again", chunks); text != expected("abc", 16) {
		t.Errorf("attached stream %q", text)
	}
	mu.Lock()
	defer mu.Unlock()
	want := "admitted j s 19, first j, finished j 16, attached j, first j, finished j 16"
	if got := strings.Join(seen, ", "); got != want {
		t.Errorf("trace:\n%s\nwant:\n%s", got, want)
	}
}

func TestNATSDoor(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	startWorker(t, b.Conn(), "w", nil)
	ctx := testContext(t)
	c := client.New(b.Conn(), tenant, client.WithTimeout(patience))
	stream, err := c.Run(ctx, &contracts.Job{Model: "first", Kind: contracts.KindChat, Messages: []contracts.Message{{Role: "user", Content: "hello"}},
		Params: contracts.Params{MaxTokens: ptr(7)}})
	if err != nil {
		t.Fatal(err)
	}
	text, final := read(t, "client", stream.Chunks())
	if text != "hellohe" || final.Claim.Model != model {
		t.Errorf("text %q, claim %+v, want the alias resolved", text, final.Claim)
	}
	s, err := c.Cancel(ctx, final.Job)
	if err != nil || s.State != contracts.StateCompleted {
		t.Errorf("cancel of a finished job: %+v %v", s, err)
	}
	_, err = c.Cancel(ctx, "nobody")
	wantCode(t, err, contracts.CodeNotFound, "nobody")
	if _, err := d.Status(ctx, "other tenant", final.Job); contracts.CodeOf(err) != contracts.CodeNotFound {
		t.Errorf("another tenant sees the job: %v", err)
	}
}

func TestMicroService(t *testing.T) {
	t.Parallel()
	_, b := start(t, nil)
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		m, err := b.Conn().Request("$SRV."+verb+".pelton-dispatcher", nil, patience)
		if err != nil || !strings.Contains(string(m.Data), `"name":"pelton-dispatcher"`) {
			t.Errorf("%s: %v %v", verb, m, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	change := func(f func(*contracts.Job)) *contracts.Job {
		j := textJob("r", "abc")
		f(j)
		return j
	}
	for name, c := range map[string]struct {
		job  *contracts.Job
		code contracts.Code
		says string
	}{
		"model":       {change(func(j *contracts.Job) { j.Model = "other" }), contracts.CodeModelNotFound, model},
		"empty":       {change(func(j *contracts.Job) { j.Prompt = "" }), contracts.CodeInvalidArgument, "not empty"},
		"template":    {&contracts.Job{ID: "r", Tenant: tenant, Model: model, Kind: contracts.KindChat, Messages: []contracts.Message{{Role: "tool", Content: "x"}}}, contracts.CodeInvalidArgument, "no tools"},
		"no tokens":   {&contracts.Job{ID: "r", Tenant: tenant, Model: model, Kind: contracts.KindChat, Messages: []contracts.Message{{Role: "user"}}}, contracts.CodeInvalidArgument, "no token"},
		"panic":       {&contracts.Job{ID: "r", Tenant: tenant, Model: model, Kind: contracts.KindChat, Messages: []contracts.Message{{Role: "user", Content: "panic"}}}, contracts.CodeInternal, "internal"},
		"token id":    {change(func(j *contracts.Job) { j.Prompt, j.Tokens = "", []int32{3, 256} }), contracts.CodeInvalidArgument, "tokens[1] is 256"},
		"prompt":      {change(func(j *contracts.Job) { j.Prompt = strings.Repeat("x", 200) }), contracts.CodeContextLengthExceeded, "200 tokens"},
		"max_tokens":  {change(func(j *contracts.Job) { j.Params.MaxTokens = ptr(198) }), contracts.CodeContextLengthExceeded, "lower max_tokens to 197"},
		"deadline":    {change(func(j *contracts.Job) { j.Deadline = 5 }), contracts.CodeDeadlineExceeded, "passed"},
		"version":     {change(func(j *contracts.Job) { j.V = 9 }), contracts.CodeUnimplemented, "version 9"},
		"temperature": {change(func(j *contracts.Job) { j.Params.Temperature = ptr(-1.0) }), contracts.CodeInvalidArgument, "temperature"},
		"class":       {change(func(j *contracts.Job) { j.Class = "p9" }), contracts.CodeInvalidArgument, "p9"},
	} {
		answer, err := d.Submit(ctx, c.job)
		wantCode(t, err, c.code, c.says)
		if answer == nil || answer.Code != c.code || answer.Outcome != contracts.OutcomeRejected || answer.Job != "r" {
			t.Errorf("%s: answer %+v", name, answer)
		}
	}
	if n := leftInQueue(t, b.Conn()); n != 0 {
		t.Errorf("%d refused jobs are in the queue", n)
	}
}

// A producer that sends what is dropped, as fast as it can, does not fill the log.
func TestDroppedRequestsAreLoggedSeldom(t *testing.T) {
	t.Parallel()
	const many = 1000
	dropped := make(chan string, many)
	var log contractstest.Log
	_, b := start(t, func(c *dispatcher.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Trace = &dispatcher.Trace{Dropped: func(subject, _ string) { dropped <- subject }}
	})
	nc, begin := b.Conn(), time.Now()
	for range many {
		if err := nc.PublishRequest(subject.Submit(tenant), "nobodys.inbox", nil); err != nil {
			t.Fatal(err)
		}
	}
	for range many {
		<-dropped
	}
	lines, most := strings.Count(log.String(), "request dropped"), 2+int(time.Since(begin).Seconds())
	if lines < 1 || lines > most {
		t.Errorf("%d lines of %d dropped requests, want 1 to %d", lines, many, most)
	}
}

func TestNATSDoorRefusals(t *testing.T) {
	t.Parallel()
	dropped := make(chan string, 10)
	_, b := start(t, func(c *dispatcher.Config) {
		c.Trace = &dispatcher.Trace{Dropped: func(subject, _ string) { dropped <- subject }}
	})
	nc := b.Conn()
	encode := func(v any) []byte {
		data, err := contracts.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	other := textJob("j", "abc")
	other.Tenant = "somebody"
	filled := textJob("filled", "abc")
	filled.Tenant = ""
	good := encode(textJob("j2", "abc"))
	for _, c := range []struct {
		name, subject string
		data          []byte
		code          contracts.Code
		job           string
	}{
		{"not msgpack", subject.Submit(tenant), []byte("{}"), contracts.CodeInvalidArgument, ""},
		{"empty", subject.Submit(tenant), nil, contracts.CodeInvalidArgument, ""},
		{"truncated", subject.Submit(tenant), good[:len(good)-3], contracts.CodeInvalidArgument, ""},
		{"wrong type", subject.Submit(tenant), encode(map[string]any{"v": 1, "job": 7}), contracts.CodeInvalidArgument, ""},
		{"newer", subject.Submit(tenant), encode(map[string]any{"v": 2}), contracts.CodeUnimplemented, ""},
		{"tenant", subject.Submit(tenant), encode(other), contracts.CodePermissionDenied, "j"},
		{"no id", subject.Submit(tenant), encode(textJob("", "abc")), contracts.CodeInvalidArgument, ""},
		{"tenant filled", subject.Submit(tenant), encode(filled), "", "filled"},
		{"cancel", subject.Cancel(tenant, "nobody"), nil, contracts.CodeNotFound, "nobody"},
		{"status", subject.Status(tenant, "nobody"), nil, contracts.CodeNotFound, "nobody"},
	} {
		m, err := nc.Request(c.subject, c.data, patience)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var a contracts.Answer
		if err := contracts.Decode(m.Data, &a); err != nil {
			t.Fatalf("%s: answer: %v", c.name, err)
		}
		if a.Code != c.code || a.Job != c.job || (c.code != "") != (a.Outcome == contracts.OutcomeRejected) {
			t.Errorf("%s: answer %+v, want code %q and job %q", c.name, a, c.code, c.job)
		}
	}
	m, err := nc.Request(subject.Status(tenant, "filled"), nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var status contracts.Status
	if err := contracts.Decode(m.Data, &status); err != nil || status.Job != "filled" || status.State != contracts.StateQueued {
		t.Errorf("status %+v, error %v, want that of a queued job", status, err)
	}
	spoofed, err := nc.SubscribeSync("live.bob.>")
	if err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"live.bob.j", "_INBOX_bob.x", "hb.w", "jobs.x"} {
		if err := nc.PublishRequest(subject.Submit(tenant), reply, good); err != nil {
			t.Fatal(err)
		}
		if got := <-dropped; got != subject.Submit(tenant) {
			t.Errorf("dropped %q", got)
		}
	}
	if err := nc.PublishRequest("submit.%zz", "_INBOX.x", good); err != nil {
		t.Fatal(err)
	}
	<-dropped
	if n, _, _ := spoofed.Pending(); n != 0 {
		t.Errorf("%d answers went to a forged reply subject", n)
	}
	if n := leftInQueue(t, nc); n != 1 { // "filled"
		t.Errorf("%d jobs in the queue, want 1", n)
	}
}

func TestWhatIsPublished(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	nc := b.Conn()
	bell, err := nc.SubscribeSync(subject.Bell(model))
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	job := textJob("j", "abc")
	job.Class, job.Deadline, job.Labels = contracts.P0, time.Now().Add(time.Hour).UnixMilli(), map[string]string{"k": "v"}
	job.Params = contracts.Params{N: ptr(2), MaxTokens: ptr(5)}
	if _, err := d.Submit(ctx, job); err != nil {
		t.Fatal(err)
	}
	for m, err := bell.NextMsg(patience); err != nil || string(m.Data) != "p0.s"; m, err = bell.NextMsg(patience) {
		if err != nil || string(m.Data) != "." {
			t.Fatalf("bell %v %v, want p0.s", m, err)
		}
	}
	if m, err := bell.NextMsg(patience); err != nil || string(m.Data) != "." {
		t.Errorf("then the bell says %v %v, want a ring for all lines", m, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, topology.StreamJobs)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(ctx, subject.Job{Model: model, Class: contracts.P0, Size: contracts.SizeS, Tenant: tenant, Job: "j"}.String())
	if err != nil {
		t.Fatal(err)
	}
	ttl, err := time.ParseDuration(m.Header.Get("Nats-TTL"))
	if err != nil || ttl < 25*time.Hour || ttl > 25*time.Hour+2*time.Minute || m.Header.Get("Nats-Msg-Id") == "" {
		t.Errorf("headers %v, want a TTL of a day behind the deadline and a message id", m.Header)
	}
	var a contracts.Admitted
	if err := contracts.Decode(m.Data, &a); err != nil {
		t.Fatal(err)
	}
	if a.KVTokens != 16 || len(a.Tokens) != 3 || a.Job.Prompt != "" || a.Job.Params.Seed == nil || a.Job.Submitted == 0 || a.Job.Labels["k"] != "v" || len(a.Digest) != 64 {
		t.Errorf("admitted %+v", a)
	}
	if job.Params.Seed != nil || job.Prompt != "abc" {
		t.Errorf("the caller's job was changed: %+v", job)
	}
	q, err := d.Queues(ctx)
	if err != nil || len(q) != 16 || q[0] != (contracts.QueueDepth{Model: model, Class: contracts.P0, Size: contracts.SizeS, State: contracts.QueueOpen, Pending: 1}) {
		t.Errorf("queues %+v %v", q, err)
	}
}

func TestSameIDAgain(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	d2, _ := startDispatcher(t, testConfig(b.Conn()))
	ctx := testContext(t)
	if _, err := d.Submit(ctx, textJob("j", "abc")); err != nil {
		t.Fatal(err)
	}
	urgent := textJob("j", "abc") // the same request in another class is the same job
	urgent.Class, urgent.Deadline = contracts.P0, time.Now().Add(time.Hour).UnixMilli()
	changed := textJob("j", "abc")
	changed.Params.MaxTokens = ptr(3)
	check := func(when string) {
		t.Helper()
		for _, j := range []*contracts.Job{textJob("j", "abc"), urgent} {
			if a, err := d2.Submit(ctx, j); err != nil || a.Outcome != contracts.OutcomeAdmitted {
				t.Errorf("%s: %+v %v", when, a, err)
			}
		}
		for _, j := range []*contracts.Job{textJob("j", "abd"), changed} {
			_, err := d2.Submit(ctx, j)
			wantCode(t, err, contracts.CodeConflict, "choose a new id")
		}
		if n := leftInQueue(t, b.Conn()); n > 1 {
			t.Errorf("%s: %d messages in the queue", when, n)
		}
	}
	check("queued")
	hold := make(chan struct{})
	w := startWorker(t, b.Conn(), "w", func(w *fakeWorker) {
		w.step = func(ctx context.Context, _ *contracts.Admitted, index int) error {
			if index == 3 {
				select {
				case <-hold:
				case <-ctx.Done():
				}
			}
			return nil
		}
	})
	waitFor(t, "running", func() bool {
		s, err := d.Status(ctx, tenant, "j")
		return err == nil && s.State == contracts.StateRunning
	})
	check("running")
	close(hold)
	read(t, "end", d2.Stream(ctx, tenant, "j", -1))
	check("finished")
	ran := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.finished["j"]
	}
	waitFor(t, "the worker to have counted", func() bool { return ran() > 0 })
	if n := ran(); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

func TestManySubmitsOfOneID(t *testing.T) {
	t.Parallel()
	d, b := start(t, nil)
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			j := textJob("j", "abc")
			j.Class = contracts.Classes[i%4]
			if a, err := d.Submit(ctx, j); err != nil || a.Outcome != contracts.OutcomeAdmitted {
				t.Errorf("submit %d: %+v %v", i, a, err)
			}
		})
	}
	wg.Wait()
	if n := leftInQueue(t, b.Conn()); n != 1 {
		t.Errorf("%d messages in the queue, want 1", n)
	}
}

func TestTooLargeForTheBroker(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, func(o *server.Options) { o.MaxPayload = 8 << 10 })
	cfg := testConfig(b.Conn())
	cfg.Models[0].ContextLength = 1 << 20
	d, _ := startDispatcher(t, cfg)
	_, err := d.Submit(testContext(t), textJob("j", strings.Repeat("\xc3\xa9", 3000)))
	wantCode(t, err, contracts.CodePayloadTooLarge, "6000 prompt tokens")
}

func TestQueueFull(t *testing.T) {
	t.Parallel()
	d, _ := start(t, func(c *dispatcher.Config) { c.Topology.JobsMaxBytes = 4 << 10 })
	ctx := testContext(t)
	for i := range 100 {
		a, err := d.Submit(ctx, textJob(id(i), "abc"))
		if err == nil {
			continue
		}
		wantCode(t, err, contracts.CodeOverloaded, "queue is full")
		if a.Outcome != contracts.OutcomeShed || a.RetryAfterMS == 0 {
			t.Errorf("answer %+v", a)
		}
		return
	}
	t.Error("the queue of 4 KiB took 100 jobs")
}

func TestFleetLimitsAdmission(t *testing.T) {
	t.Parallel()
	d, b := start(t, func(c *dispatcher.Config) { c.WorkerTTL = time.Minute }) // its one heartbeat counts for the whole test
	ctx := testContext(t)
	nc := b.Conn()
	if d.Serving("first") || len(d.Workers()) != 0 || d.Models()[0].Workers != 0 {
		t.Errorf("a fleet without workers serves: %+v", d.Models())
	}
	heartbeat(t, nc, contracts.Heartbeat{Worker: "small", Model: model, Slots: 2, ContextLength: 200, KV: contracts.KVMemory{Total: 1000, PerToken: 10}})
	waitFor(t, "worker seen", func() bool { return d.Serving("first") })
	long := textJob("a", strings.Repeat("x", 90))
	long.Params.MaxTokens = ptr(20)
	_, err := d.Submit(ctx, long)
	wantCode(t, err, contracts.CodeContextLengthExceeded, "1100 bytes", "has 1000")
	many := textJob("b", "x")
	many.Params.N = ptr(3)
	_, err = d.Submit(ctx, many)
	wantCode(t, err, contracts.CodeInvalidArgument, "2 sequences")
	heartbeat(t, nc, contracts.Heartbeat{Worker: "small", Model: model, State: contracts.WorkerStopped})
	waitFor(t, "worker gone", func() bool { return !d.Serving("") })
	if _, err := d.Submit(ctx, long); err != nil {
		t.Errorf("without workers the job waits: %v", err)
	}
}

func TestOverload(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	d, b := start(t, func(c *dispatcher.Config) {
		c.MaxSubmits = 1
		c.Models[0].Tokenizer = slowTokenizer{entered: entered, release: release}
	})
	ctx := testContext(t)
	done := make(chan error, 1)
	go func() { _, err := d.Submit(ctx, textJob("slow", "abc")); done <- err }()
	<-entered
	_, err := d.Submit(ctx, textJob("j", "abc"))
	wantCode(t, err, contracts.CodeOverloaded, "retry")
	_, err = client.New(b.Conn(), tenant, client.WithTimeout(patience)).Submit(ctx, textJob("j", "abc"))
	wantCode(t, err, contracts.CodeOverloaded, "retry")
	drained := make(chan error, 1)
	go func() { drained <- d.Drain(ctx) }()
	waitFor(t, "draining", func() bool {
		_, err := d.Submit(ctx, textJob("k", "abc"))
		return contracts.CodeOf(err) == contracts.CodeUnavailable
	})
	select {
	case err := <-drained:
		t.Errorf("drained (%v) while a submit was inside", err)
	default:
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the submit that was inside: %v", err)
	}
	if err := <-drained; err != nil || d.Ready() {
		t.Errorf("drain: %v, ready %v", err, d.Ready())
	}
}

type slowTokenizer struct {
	byteTokenizer
	entered, release chan struct{}
}

func (s slowTokenizer) Encode(text string) []int32 {
	s.entered <- struct{}{}
	<-s.release
	return s.byteTokenizer.Encode(text)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := dispatcher.New(dispatcher.Config{MaxSubmits: -1, Timeout: -time.Second})
	if err == nil {
		t.Fatal("an empty configuration was accepted")
	}
	for _, part := range []string{"connection", "model", "MaxSubmits", "Timeout"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %s", err, part)
		}
	}
	nc := contractstest.Server(t)
	twice := testConfig(nc)
	twice.Models = append(twice.Models, dispatcher.Model{Name: "first", Tokenizer: byteTokenizer{}, ContextLength: 9, Vocab: 1})
	if _, err := dispatcher.New(twice); err == nil || !strings.Contains(err.Error(), "belongs to both") {
		t.Errorf("two models of one name: %v", err)
	}
	d, err := dispatcher.New(testConfig(nc))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Submit(testContext(t), textJob("j", "abc"))
	wantCode(t, err, contracts.CodeUnavailable, "not started")
}

func TestConnectionClosed(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	nc := b.Conn()
	d, err := dispatcher.New(testConfig(nc))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(context.Background()) }()
	waitFor(t, "ready", d.Ready)
	nc.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("run ended with %v", err)
	}
	_, err = d.Submit(testContext(t), textJob("j", "abc"))
	wantCode(t, err, contracts.CodeUnavailable, "stopped")
}

// TestTwiceAtOnceIsPaidFor: a tenant that submits each job twice at the same time has no more of them than it may.
func TestTwiceAtOnceIsPaidFor(t *testing.T) {
	t.Parallel()
	const most = 5
	d, b := start(t, func(c *dispatcher.Config) {
		c.Overload.Quotas = map[string]quota.Limits{tenant: {Concurrent: most}}
	})
	ctx := testContext(t)
	for i := range 40 {
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if _, err := d.Submit(ctx, textJob(id(i), "abc")); err != nil {
					if code := contracts.CodeOf(err); code != contracts.CodeQuotaExceeded {
						t.Errorf("submit %d: %v", i, err)
					}
				}
			})
		}
		both.Wait()
	}
	if n := leftInQueue(t, b.Conn()); n != most {
		t.Errorf("%d jobs are queued, want %d", n, most)
	}
}
