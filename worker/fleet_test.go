package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/resume"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

const tenant = "t.1"

// patience is how long a test waits for what must come, also on a busy machine.
const patience = 5 * time.Minute

// fleet is a broker and its workers, without a dispatcher: submit puts admitted jobs into the queue.
type fleet struct {
	t   testing.TB
	srv *server.Server
	nc  *nats.Conn
	js  jetstream.JetStream
	tok *tokenizer.Tokenizer

	mu       sync.Mutex
	finals   map[string]*contracts.Chunk
	news     chan struct{} // closed and replaced at each record
	pieces   map[string]int
	claims   map[string]int
	releases map[string]int
}

func newFleet(t testing.TB, ackWait time.Duration) *fleet {
	t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		t.Fatal("broker did not start")
	}
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	f := &fleet{t: t, srv: srv, finals: map[string]*contracts.Chunk{}, pieces: map[string]int{}, claims: map[string]int{}, releases: map[string]int{}, news: make(chan struct{})}
	f.nc = f.connect()
	if f.js, err = jetstream.New(f.nc); err != nil {
		t.Fatal(err)
	}
	if f.tok, err = tokenizer.Parse(sim.TokenizerJSON(), sim.ChatTemplate()); err != nil {
		t.Fatal(err)
	}
	layout := topology.Config{Memory: true}
	if _, err := topology.Ensure(t.Context(), f.js, layout, "m"); err != nil {
		t.Fatal(err)
	}
	for _, c := range layout.Consumers("m") {
		c.AckWait = ackWait
		if _, err := f.js.UpdateConsumer(t.Context(), topology.StreamJobs, c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.nc.Subscribe(subject.AllLive, f.onLive); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleet) connect() *nats.Conn {
	f.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(f.srv), nats.ReconnectBufSize(-1))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

func (f *fleet) onLive(m *nats.Msg) {
	var c contracts.Chunk
	switch err := contracts.Decode(m.Data, &c); {
	case contracts.CodeOf(err) == contracts.CodeUnimplemented:
		return // the test's own
	case err != nil:
		f.t.Errorf("record on %s: %v", m.Subject, err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Final() {
		if f.finals[c.Job] != nil {
			f.t.Errorf("second final record of job %s: %+v", c.Job, c)
		}
		f.finals[c.Job] = &c
	}
	f.pieces[c.Job] += len(c.Tokens)
	switch {
	case c.IsClaim() && c.Claim.Released != "":
		f.releases[c.Job]++
	case c.IsClaim():
		f.claims[c.Job]++
	}
	close(f.news)
	f.news = make(chan struct{})
}

// await blocks until ready says so; it is asked at each record.
func (f *fleet) await(what string, ready func() bool) {
	f.t.Helper()
	late := time.After(patience)
	for {
		f.mu.Lock()
		ok, news := ready(), f.news
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-late:
			f.mu.Lock()
			defer f.mu.Unlock()
			f.t.Fatalf("no %s within %v: claims %v, releases %v, tokens %v, %d finals", what, patience, f.claims, f.releases, f.pieces, len(f.finals))
		}
	}
}

func (f *fleet) final(id string) *contracts.Chunk {
	f.t.Helper()
	var final *contracts.Chunk
	f.await("final record of job "+id, func() bool {
		final = f.finals[id]
		return final != nil
	})
	return final
}

// crew is one running worker.
type crew struct {
	*worker.Worker
	conn   *nats.Conn
	engine *fakeEngine
	stop   context.CancelFunc
	done   chan struct{}
	err    error // what Run returned, after done
}

// hire starts a worker; change may alter its configuration.
func (f *fleet) hire(name string, e *fakeEngine, change ...func(*worker.Config)) *crew {
	f.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("WORKER_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	c := &crew{conn: f.connect(), engine: e, done: make(chan struct{})}
	cfg := worker.Config{Name: name, Conn: c.conn, Engine: e, Tokenizer: f.tok, EOS: []int32{eos}, Sweep: 50 * time.Millisecond, AckWait: 600 * time.Millisecond, Logger: log}
	for _, ch := range change {
		ch(&cfg)
	}
	var err error
	if c.Worker, err = worker.New(cfg); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	go func() {
		defer close(c.done)
		if c.err = c.Run(ctx); c.err != nil && !c.conn.IsClosed() && !errors.Is(c.err, batch.ErrHung) {
			f.t.Errorf("worker %s: %v", name, c.err)
		}
	}()
	f.t.Cleanup(func() {
		cancel()
		select {
		case <-c.done:
		case <-time.After(patience):
			f.t.Errorf("worker %s did not stop", name)
		}
		if m := e.Memory(); m.Reserved != 0 && !errors.Is(c.err, batch.ErrHung) {
			f.t.Errorf("worker %s stopped with %d bytes of KV cache open", name, m.Reserved)
		}
		if h := c.Snapshot(); h.KV.Reserved != 0 || len(h.Jobs) != 0 {
			f.t.Errorf("worker %s stopped with %d bytes reserved and jobs %v", name, h.KV.Reserved, h.Jobs)
		}
	})
	return c
}

func ptr[T any](v T) *T { return &v }

// order is a job as a dispatcher admits it, with changes.
func order(id string, prompt string, max int, change ...func(*contracts.Admitted)) *contracts.Admitted {
	a := &contracts.Admitted{V: 1, Digest: "d-" + id, Job: contracts.Job{
		V: 1, ID: id, Tenant: tenant, Model: "m", Kind: contracts.KindText, Class: contracts.P2, Submitted: time.Now().UnixMilli(),
		Params: contracts.Params{MaxTokens: ptr(max), Temperature: ptr(0.0), N: ptr(1), Seed: ptr(int64(7))},
	}}
	for _, b := range []byte(prompt) {
		a.Tokens = append(a.Tokens, int32(b))
	}
	for _, c := range change {
		c(a)
	}
	a.KVTokens = *a.Job.Params.N * (len(a.Tokens) + max)
	return a
}

func class(c contracts.Class) func(*contracts.Admitted) {
	return func(a *contracts.Admitted) { a.Job.Class = c }
}

func params(f func(*contracts.Params)) func(*contracts.Admitted) {
	return func(a *contracts.Admitted) { f(&a.Job.Params) }
}

// submit publishes a job and rings the bell; it returns the job's sequence in the queue.
func (f *fleet) submit(a *contracts.Admitted) uint64 {
	f.t.Helper()
	data, err := contracts.Encode(a)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.enqueue(subject.Job{Model: "m", Class: a.Job.Class, Size: contracts.SizeFor(a.KVTokens), Tenant: tenant, Job: a.Job.ID}, data)
}

func (f *fleet) enqueue(to subject.Job, data []byte) uint64 {
	f.t.Helper()
	ack, err := f.js.Publish(f.t.Context(), to.String(), data)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.nc.Publish(subject.Bell("m"), subject.Ring(to.Class, to.Size)); err != nil {
		f.t.Fatal(err)
	}
	return ack.Sequence
}

// answer is what a job's stream holds, checked against the invariants of contracts.Chunk.
type answer struct {
	text     []string // of each choice
	tokens   [][]int32
	logprobs [][]contracts.TokenLogprob
	finish   []string
	final    *contracts.Chunk
	fences   []uint64          // of the claims
	claims   []contracts.Claim // claims and releases
	pieces   int
}

// read fetches and checks the whole stream of a finished job.
func (f *fleet) read(id string) answer {
	f.t.Helper()
	return f.check(id, f.records(id))
}

func (f *fleet) records(id string) []*contracts.Chunk {
	f.t.Helper()
	cons, err := f.js.OrderedConsumer(f.t.Context(), topology.StreamOut, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject.Out(tenant, id)}})
	if err != nil {
		f.t.Fatal(err)
	}
	last, err := resume.Last(f.t.Context(), f.nc, tenant, id)
	if err != nil || last == nil {
		f.t.Fatalf("job %s has no records: %v", id, err)
	}
	var out []*contracts.Chunk
	for {
		msg, err := cons.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			f.t.Fatal(err)
		}
		var c contracts.Chunk
		if err := contracts.Decode(msg.Data(), &c); err != nil {
			f.t.Fatal(err)
		}
		out = append(out, &c)
		if m, _ := msg.Metadata(); m.Sequence.Stream >= last.Seq {
			return out
		}
	}
}

func (f *fleet) check(id string, records []*contracts.Chunk) answer {
	f.t.Helper()
	var a answer
	var sum stream.Checksum
	fence := uint64(0)
	for i, c := range records {
		holder := c.IsClaim() && (c.Claim.Released == "" || c.Claim.Released == contracts.ReleaseLost)
		if c.Fence < fence || holder != (c.Fence == fence+1) && !c.Final() || a.final != nil {
			f.t.Errorf("job %s record %d: fence %d after %d, after the final record: %v", id, i, c.Fence, fence, a.final != nil)
		}
		fence = c.Fence
		sum.Add(c)
		if c.IsClaim() {
			a.claims = append(a.claims, *c.Claim)
			if n := len(a.tokens); n > 0 && c.Index != len(a.tokens[0]) {
				f.t.Errorf("job %s record %d: a claim with index %d after %d tokens", id, i, c.Index, len(a.tokens[0]))
			}
			if c.Claim.Released == "" {
				a.fences = append(a.fences, c.Fence)
			}
			continue
		}
		for len(a.tokens) <= c.Choice {
			a.tokens, a.text, a.finish, a.logprobs = append(a.tokens, nil), append(a.text, ""), append(a.finish, ""), append(a.logprobs, nil)
		}
		a.text[c.Choice] += c.Text
		if c.Finish != "" {
			a.finish[c.Choice] = c.Finish
		}
		if c.Final() {
			a.final = c
			if c.Index != len(a.tokens[0]) || len(c.Tokens) > 0 || c.Claim == nil {
				f.t.Errorf("job %s: final record %+v after %d tokens of choice 0", id, c, len(a.tokens[0]))
			}
			continue
		}
		if c.Index != len(a.tokens[c.Choice]) {
			f.t.Errorf("job %s record %d: index %d of choice %d after %d tokens", id, i, c.Index, c.Choice, len(a.tokens[c.Choice]))
		}
		a.tokens[c.Choice] = append(a.tokens[c.Choice], c.Tokens...)
		a.logprobs[c.Choice] = append(a.logprobs[c.Choice], c.Logprobs...)
		a.pieces++
	}
	if a.final != nil {
		if a.final.Checksum != sum.Sum() {
			f.t.Errorf("job %s: final record with the checksum %q, the stream has %q", id, a.final.Checksum, sum.Sum())
		}
		n := 0
		for _, tokens := range a.tokens {
			n += len(tokens)
		}
		if u := a.final.Usage; u.CompletionTokens != n || u.TotalTokens != u.PromptTokens+n {
			f.t.Errorf("job %s: usage %+v, the stream has %d tokens", id, u, n)
		}
	}
	return a
}

// same compares two answers token by token, with their logprobs.
func (f *fleet) same(got, want answer, what string) {
	f.t.Helper()
	if fmt.Sprint(got.tokens) != fmt.Sprint(want.tokens) || !slices.Equal(got.text, want.text) || !slices.Equal(got.finish, want.finish) {
		f.t.Errorf("%s:\n got %q %v %v\nwant %q %v %v", what, got.text, got.finish, got.tokens, want.text, want.finish, want.tokens)
	}
	if fmt.Sprint(got.logprobs) != fmt.Sprint(want.logprobs) {
		f.t.Errorf("%s: other logprobs", what)
	}
}

// empty waits until nothing is left in the queue.
func (f *fleet) empty() {
	f.t.Helper()
	late := time.Now().Add(patience)
	for {
		s, err := f.js.Stream(f.t.Context(), topology.StreamJobs)
		if err != nil {
			f.t.Fatal(err)
		}
		n := s.CachedInfo().State.Msgs
		if n == 0 {
			return
		}
		if time.Now().After(late) {
			f.t.Fatalf("%d jobs are left in the queue", n)
		}
	}
}

// waiting blocks until the broker sees so many jobs in a's line, which may be a moment after it took them.
func (f *fleet) waiting(a *contracts.Admitted, jobs uint64) {
	f.t.Helper()
	for late := time.Now().Add(patience); ; {
		c, err := f.js.Consumer(f.t.Context(), topology.StreamJobs, subject.Consumer("m", a.Job.Class, contracts.SizeFor(a.KVTokens)))
		if err != nil || time.Now().After(late) {
			f.t.Fatalf("job %s does not appear: %v", a.Job.ID, err)
		}
		if c.CachedInfo().NumPending >= jobs {
			return
		}
	}
}

// seen waits until a worker that has no room for a job has looked and found it waiting; from then on it
// holds for it. (Consumers see a job a moment after its publish was acknowledged.)
func (f *fleet) seen(a *contracts.Admitted) {
	f.t.Helper()
	f.waiting(a, 1)
	consumer := subject.Consumer("m", a.Job.Class, contracts.SizeFor(a.KVTokens))
	looks, err := f.nc.SubscribeSync("$JS.API.CONSUMER.INFO." + topology.StreamJobs + "." + consumer)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := looks.NextMsg(patience); err != nil {
		f.t.Fatalf("nobody looked for job %s: %v", a.Job.ID, err)
	}
	_ = looks.Unsubscribe()
}

// nak hands a delivered job back behind its holder's back, as a dispatcher does for a dead worker.
func (f *fleet) nak(a *contracts.Admitted, sequence uint64) {
	f.t.Helper()
	consumer := subject.Consumer("m", a.Job.Class, contracts.SizeFor(a.KVTokens))
	c, err := f.js.Consumer(f.t.Context(), topology.StreamJobs, consumer)
	if err != nil {
		f.t.Fatal(err)
	}
	delivered := c.CachedInfo().Delivered.Consumer // the broker ignores numbers outside what is unacknowledged
	ack := strings.Join([]string{"$JS", "ACK", topology.StreamJobs, consumer, "1", fmt.Sprint(sequence), fmt.Sprint(delivered), fmt.Sprint(time.Now().UnixNano()), "0"}, ".")
	if _, err := f.nc.Request(ack, []byte("-NAK"), patience); err != nil {
		f.t.Fatal(err)
	}
}

// lose takes a job from its holder, as a dispatcher does whose worker fell silent.
func (f *fleet) lose(id string) {
	f.t.Helper()
	for late := time.Now().Add(patience); time.Now().Before(late); {
		tr, err := resume.Read(f.t.Context(), f.nc, tenant, id)
		if err != nil || len(tr.History) == 0 || tr.Final != nil {
			f.t.Fatalf("nobody holds job %s: %+v, %v", id, tr, err)
		}
		c := &contracts.Chunk{V: 1, Job: id, Fence: tr.Fence + 1, Claim: &tr.History[len(tr.History)-1]}
		c.Claim.Released = contracts.ReleaseLost
		if len(tr.Choices) > 0 {
			c.Index = len(tr.Choices[0].Tokens)
		}
		data, err := contracts.Encode(c)
		if err != nil {
			f.t.Fatal(err)
		}
		if _, err := f.js.Publish(f.t.Context(), subject.Out(tenant, id), data, jetstream.WithExpectLastSequencePerSubject(tr.Last)); err == nil {
			return
		}
	}
	f.t.Fatalf("job %s: its holder always wrote first", id)
}

func (f *fleet) cancel(id string)  { f.tell(subject.CtlCancel(tenant, id)) }
func (f *fleet) preempt(id string) { f.tell(subject.CtlPreempt(tenant, id)) }

// tell sends a control message to the workers; it is on its way when tell returns.
func (f *fleet) tell(control string) {
	if err := errors.Join(f.nc.Publish(control, nil), f.nc.Flush()); err != nil {
		f.t.Errorf("%s: %v", control, err)
	}
}

// dead fetches the dead letter of a job.
func (f *fleet) dead(id string) contracts.Dead {
	f.t.Helper()
	s, err := f.js.Stream(f.t.Context(), topology.StreamDead)
	if err != nil {
		f.t.Fatal(err)
	}
	msg, err := s.GetLastMsgForSubject(f.t.Context(), subject.Dead(tenant, id))
	if err != nil {
		f.t.Fatalf("dead letter of %s: %v", id, err)
	}
	var d contracts.Dead
	if err := contracts.Decode(msg.Data, &d); err != nil {
		f.t.Fatal(err)
	}
	return d
}
