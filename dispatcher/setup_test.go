package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	model  = "model.1" // with a dot, so that escaping is exercised everywhere
	tenant = "acme inc"
)

// byteTokenizer has a token for each byte; a chat is its contents, one after the other.
type byteTokenizer struct{}

func (byteTokenizer) Encode(text string) []int32 {
	ids := make([]int32, len(text))
	for i := range ids {
		ids[i] = int32(text[i])
	}
	return ids
}

func (b byteTokenizer) Chat(messages []tokenizer.Message, _ bool) ([]int32, error) {
	var ids []int32
	for _, m := range messages {
		if m.Role == "tool" {
			return nil, errors.New("the template has no tools")
		}
		if m.Content == "panic" {
			panic("a template went wrong")
		}
		ids = append(ids, b.Encode(m.Content)...)
	}
	return ids, nil
}

func testConfig(nc *nats.Conn) dispatcher.Config {
	return dispatcher.Config{
		Conn:      nc,
		Models:    []dispatcher.Model{{Name: model, Aliases: []string{"first"}, Tokenizer: byteTokenizer{}, ContextLength: 200, Vocab: 256}},
		WorkerTTL: time.Second,
		Timeout:   15 * time.Second, // of a broker on a busy machine
	}
}

// startDispatcher runs a dispatcher until the test ends or stop is called.
func startDispatcher(t testing.TB, cfg dispatcher.Config) (d *dispatcher.Dispatcher, stop func()) {
	t.Helper()
	d, err := dispatcher.New(cfg)
	if err != nil {
		t.Fatalf("new dispatcher: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	waitFor(t, "dispatcher ready", d.Ready)
	return d, stop
}

// start is a broker and a dispatcher.
func start(t testing.TB, change func(*dispatcher.Config)) (*dispatcher.Dispatcher, *contractstest.Broker) {
	t.Helper()
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	if change != nil {
		change(&cfg)
	}
	d, _ := startDispatcher(t, cfg)
	return d, b
}

// patience is how long a test waits for what must come, also on a busy machine.
const patience = 2 * time.Minute

// waitFor polls what has no signal of its own, with a bound.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !pollFor(patience, ok) {
		t.Fatalf("waited %v for: %s", patience, what)
	}
}

// pollFor tells whether ok came true in time.
func pollFor(span time.Duration, ok func() bool) bool {
	for end := time.Now().Add(span); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}

func textJob(id, prompt string) *contracts.Job {
	return &contracts.Job{V: 1, ID: id, Tenant: tenant, Model: model, Kind: contracts.KindText, Prompt: prompt}
}

func ptr[T any](v T) *T { return &v }

func wantCode(t testing.TB, err error, code contracts.Code, parts ...string) {
	t.Helper()
	var e *contracts.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error %v, want code %s", err, code)
	}
	for _, part := range parts {
		if !strings.Contains(e.Message, part) {
			t.Errorf("message %q does not say %q", e.Message, part)
		}
	}
}

// fakeWorker takes jobs as a worker does: pull, claim, pieces, final record, acknowledge. It answers
// with the prompt's bytes, over and over, until max_tokens.
type fakeWorker struct {
	t    testing.TB
	name string
	nc   *nats.Conn
	js   jetstream.JetStream
	// inbox gets the answers to pulls.
	inbox *nats.Subscription
	// step is called before each record; an error makes the worker vanish from the job. Optional.
	step func(ctx context.Context, a *contracts.Admitted, index int) error

	mu       sync.Mutex
	running  map[string]context.CancelFunc
	finished map[string]int // final records written, by job

	stop func() // ends the worker; the end of the test does it too
}

func startWorker(t testing.TB, nc *nats.Conn, name string, change func(*fakeWorker)) *fakeWorker {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	w := &fakeWorker{t: t, name: name, nc: nc, js: js, running: map[string]context.CancelFunc{}, finished: map[string]int{}}
	if change != nil {
		change(w)
	}
	bell := make(chan *nats.Msg, 4096)
	sub, err := nc.ChanSubscribe(subject.Bell(model), bell)
	if err != nil {
		t.Fatal(err)
	}
	if w.inbox, err = nc.SubscribeSync(nc.NewInbox()); err != nil {
		t.Fatal(err)
	}
	cancels, err := nc.Subscribe(subject.AllCtlCancels, w.onCancel)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { w.loop(ctx, bell, &work) })
	work.Go(func() { w.beat(ctx) })
	w.stop = sync.OnceFunc(func() {
		stop()
		work.Wait()
		_, _, _ = sub.Unsubscribe(), cancels.Unsubscribe(), w.inbox.Unsubscribe()
	})
	t.Cleanup(w.stop)
	return w
}

func (w *fakeWorker) loop(ctx context.Context, bell <-chan *nats.Msg, work *sync.WaitGroup) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, class := range contracts.Classes {
			for m := w.pull(ctx, class); m != nil; m = w.pull(ctx, class) {
				work.Go(func() { w.run(ctx, m) })
			}
		}
		select {
		case <-bell:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// beat says that the worker lives, and nothing of what it offers.
func (w *fakeWorker) beat(ctx context.Context) {
	for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; {
		data, err := contracts.Encode(&contracts.Heartbeat{V: 1, Worker: w.name, State: contracts.WorkerReady, Sent: time.Now().UnixMilli()})
		if err == nil {
			err = w.nc.Publish(subject.Heartbeat(w.name), data)
		}
		if err != nil && !w.nc.IsClosed() {
			w.t.Errorf("heartbeat of %s: %v", w.name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// pull asks the class's consumer of size s, the only size that these tests use. It has an inbox of its
// own: nats.go's requests find their answers by subject, which is the job's here.
func (w *fakeWorker) pull(ctx context.Context, class contracts.Class) *nats.Msg {
	consumer := subject.Consumer(model, class, contracts.SizeS)
	if err := w.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.JOBS."+consumer, w.inbox.Subject, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
		return nil
	}
	m, err := w.inbox.NextMsgWithContext(ctx)
	if err != nil || m.Header.Get("Status") != "" {
		return nil
	}
	return m
}

func (w *fakeWorker) onCancel(m *nats.Msg) {
	_, job, err := subject.ParseJobRef("ctl.cancel", m.Subject)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if cancel := w.running[job]; cancel != nil {
		cancel()
	}
}

func (w *fakeWorker) run(ctx context.Context, m *nats.Msg) {
	var a contracts.Admitted
	if err := contracts.Decode(m.Data, &a); err != nil {
		w.t.Errorf("queue holds %q: %v", m.Subject, err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.running[a.Job.ID] = cancel
	w.mu.Unlock()
	chain := &chain{js: w.js, out: subject.Out(a.Job.Tenant, a.Job.ID)}
	claim := &contracts.Claim{Worker: w.name, Attempt: 1, Model: a.Job.Model, Class: a.Job.Class, Submitted: a.Job.Submitted, Digest: a.Digest}
	if w.write(context.WithoutCancel(ctx), chain, &a, &contracts.Chunk{Claim: claim}) != nil {
		_ = m.Ack() // the final record is there already
		return
	}
	most := *a.Job.Params.MaxTokens
	for i := range most {
		id := a.Tokens[i%len(a.Tokens)]
		if err := w.write(ctx, chain, &a, &contracts.Chunk{Index: i, Tokens: []int32{id}, Text: string(rune(id))}); err != nil {
			if ctx.Err() == nil {
				return // vanished
			}
			w.end(chain, m, &a, &contracts.Chunk{Index: i, Finish: contracts.FinishCancelled, Code: contracts.CodeCanceled, Claim: claim, Usage: usage(&a, i)})
			return
		}
	}
	w.end(chain, m, &a, &contracts.Chunk{Index: most, Finish: contracts.FinishLength, Claim: claim, Usage: usage(&a, most)})
}

func usage(a *contracts.Admitted, n int) *contracts.Usage {
	return &contracts.Usage{PromptTokens: len(a.Tokens), CompletionTokens: n, TotalTokens: len(a.Tokens) + n}
}

func (w *fakeWorker) write(ctx context.Context, ch *chain, a *contracts.Admitted, c *contracts.Chunk) error {
	if w.step != nil {
		if err := w.step(ctx, a, c.Index); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.V, c.Job, c.Fence = 1, a.Job.ID, 1
	return ch.write(c)
}

func (w *fakeWorker) end(ch *chain, m *nats.Msg, a *contracts.Admitted, c *contracts.Chunk) {
	c.V, c.Job, c.Fence = 1, a.Job.ID, 1
	if ch.write(c) == nil {
		w.mu.Lock()
		w.finished[a.Job.ID]++
		w.mu.Unlock()
		_ = m.AckSync()
	}
}

// chain writes records, each expecting the one before.
type chain struct {
	js  jetstream.JetStream
	out string
	seq uint64
}

func (ch *chain) write(c *contracts.Chunk) error {
	data, err := contracts.Encode(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ack, err := ch.js.Publish(ctx, ch.out, data, jetstream.WithExpectLastSequencePerSubject(ch.seq))
	if err == nil {
		ch.seq = ack.Sequence
	}
	return err
}

func heartbeat(t testing.TB, nc *nats.Conn, h contracts.Heartbeat) {
	t.Helper()
	h.V, h.Sent = 1, time.Now().UnixMilli()
	if h.State == "" {
		h.State = contracts.WorkerReady
	}
	data, err := contracts.Encode(&h)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish(subject.Heartbeat(h.Worker), data); err != nil {
		t.Fatal(err)
	}
}

// read collects a stream and checks the invariants of its records.
func read(t testing.TB, what string, chunks func(func(*contracts.Chunk, error) bool)) (text string, final *contracts.Chunk) {
	t.Helper()
	var b strings.Builder
	tokens := 0
	for c, err := range chunks {
		switch {
		case err != nil:
			t.Fatalf("%s: after %d tokens: %v", what, tokens, err)
		case final != nil:
			t.Fatalf("%s: %+v after the final record", what, c)
		case c.Final():
			final = c
			if c.Index != tokens {
				t.Fatalf("%s: final record says %d tokens, %d came", what, c.Index, tokens)
			}
		case c.Index != tokens:
			t.Fatalf("%s: piece at %d, want %d", what, c.Index, tokens)
		}
		tokens += len(c.Tokens)
		b.WriteString(c.Text)
	}
	if final == nil {
		t.Fatalf("%s: no final record after %q", what, b.String())
	}
	return b.String(), final
}

func expected(prompt string, n int) string {
	return strings.Repeat(prompt, n/len(prompt)+1)[:n]
}

// leftInQueue is how many messages JOBS holds.
func leftInQueue(t testing.TB, nc *nats.Conn) uint64 {
	t.Helper()
	return stateOf(t, nc, topology.StreamJobs).Msgs
}

// stateOf is what a stream holds.
func stateOf(t testing.TB, nc *nats.Conn, stream string) jetstream.StreamState {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(testContext(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State
}

func storeIn(dir string) func(*server.Options) {
	return func(o *server.Options) { o.StoreDir = dir }
}

func id(i int) string { return fmt.Sprintf("job-%d", i) }
