package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	t     testing.TB
	nc    *nats.Conn
	js    jetstream.JetStream
	log   *relay.Log
	relay *relay.Relay
	live  *nats.Subscription
}

func setup(t testing.TB, c relay.Config) *fixture {
	t.Helper()
	nc := contractstest.Server(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Ensure(testContext(t), js, topology.Config{Memory: true}, "m"); err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, nc: nc, js: js, log: relay.NewLog(nc, topology.StreamOut, 30*time.Second)}
	c.Conn, c.Out = nc, f.log
	f.relay = relay.New(c)
	if f.live, err = f.relay.Subscribe(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.live.Unsubscribe(); f.relay.Close() })
	return f
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (f *fixture) write(job string, c contracts.Chunk) uint64 {
	f.t.Helper()
	c.V, c.Job = 1, job
	data, err := contracts.Encode(&c)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.raw(job, data)
}

func (f *fixture) raw(job string, data []byte) uint64 {
	f.t.Helper()
	ack, err := f.js.Publish(testContext(f.t), subject.Out("t", job), data)
	if err != nil {
		f.t.Fatal(err)
	}
	return ack.Sequence
}

// answer writes a whole stream of n one-token pieces.
func (f *fixture) answer(job string, from, n int) {
	f.t.Helper()
	for i := from; i < n; i++ {
		f.write(job, contracts.Chunk{Fence: 1, Index: i, Tokens: []int32{int32(i)}, Text: "x"})
	}
	f.write(job, contracts.Chunk{Fence: 1, Index: n, Finish: contracts.FinishStop, Usage: &contracts.Usage{CompletionTokens: n}})
}

func (f *fixture) open(job string, replay bool) *relay.Reader {
	f.t.Helper()
	r, err := f.relay.Open(testContext(f.t), "t", job, replay)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// read is what a reader yields, as text: "0 1 2 end", or the error's code at the end.
func (f *fixture) read(r *relay.Reader) string {
	f.t.Helper()
	var got []string
	for c, err := range r.Chunks(testContext(f.t)) {
		switch {
		case err != nil:
			got = append(got, string(contracts.CodeOf(err)))
		case c.Final():
			got = append(got, "end")
		default:
			got = append(got, strconv.Itoa(c.Index))
		}
	}
	return strings.Join(got, " ")
}

func (f *fixture) want(what, got, want string) {
	f.t.Helper()
	if got != want {
		f.t.Errorf("%s: got %q, want %q", what, got, want)
	}
	if n := f.relay.Readers(); n != 0 {
		f.t.Errorf("%s: %d readers are left", what, n)
	}
}

func TestLiveAndReplay(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{})
	r := f.open("j", false)
	f.write("j", contracts.Chunk{Fence: 1, Claim: &contracts.Claim{Worker: "w", Attempt: 1}})
	f.answer("j", 0, 3)
	f.want("live", f.read(r), "0 1 2 end")
	f.want("replay", f.read(f.open("j", true)), "0 1 2 end")
}

func TestFullBufferIsRefilled(t *testing.T) {
	t.Parallel()
	refilled := 0
	f := setup(t, relay.Config{Buffer: 2, Refilled: func(string, string) { refilled++ }})
	r := f.open("j", false)
	f.answer("j", 0, 20) // nobody reads yet: 2 records are kept, 19 dropped, the final one among them
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 20 {
		want = append(want, strconv.Itoa(i))
	}
	f.want("slow", f.read(r), strings.Join(want, " ")+" end")
}

// inOrder is what a reader of a whole stream of n pieces yields.
func inOrder(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d ", i)
	}
	return b.String() + "end"
}

// TestSlowAmongFast: a reader that never reads costs its own buffer and nothing else; when it reads at
// last, it misses nothing.
func TestSlowAmongFast(t *testing.T) {
	t.Parallel()
	const buffer, records = 16, 400
	f := setup(t, relay.Config{Buffer: buffer})
	stuck := f.open("j", false)
	var fast sync.WaitGroup
	for i := range 50 {
		r := f.open("j", false)
		fast.Go(func() {
			if got := f.read(r); got != inOrder(records) {
				t.Errorf("fast reader %d got %d bytes that end in %.20q", i, len(got), got[max(0, len(got)-20):])
			}
		})
	}
	f.answer("j", 0, records)
	fast.Wait()
	if n := f.relay.Buffered(); n != buffer {
		t.Errorf("%d records are buffered for the only reader left, want %d", n, buffer)
	}
	f.want("stuck", f.read(stuck), inOrder(records))
}

// TestReconnectStorm: 300 readers that come back at once in the middle of a stream all get the whole.
func TestReconnectStorm(t *testing.T) {
	t.Parallel()
	const records = 100
	f := setup(t, relay.Config{})
	for i := range records / 2 {
		f.write("j", contracts.Chunk{Fence: 1, Index: i, Tokens: []int32{int32(i)}, Text: "x"})
	}
	var readers sync.WaitGroup
	for i := range 300 {
		r := f.open("j", true)
		readers.Go(func() {
			if got := f.read(r); got != inOrder(records) {
				t.Errorf("reader %d got %q", i, got)
			}
		})
	}
	f.answer("j", records/2, records)
	readers.Wait()
	f.want("storm", "", "")
}

// TestAgedOut: a stream that is gone while its reader waits ends, whatever the reader has seen.
func TestAgedOut(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{Idle: 10 * time.Millisecond})
	r := f.open("j", false)
	r.Vanished = func(context.Context) error { return contracts.Errorf(contracts.CodeNotFound, "gone") }
	f.write("j", contracts.Chunk{Fence: 1, Tokens: []int32{0}})
	var got []string
	for c, err := range r.Chunks(testContext(t)) {
		if err != nil {
			got = append(got, string(contracts.CodeOf(err)))
			continue
		}
		got = append(got, strconv.Itoa(c.Index))
		out, err := f.js.Stream(testContext(t), topology.StreamOut)
		if err == nil {
			err = out.Purge(testContext(t))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f.want("aged out", strings.Join(got, " "), "0 not_found")
}

// TestLateAnswer: when nobody can tell for a moment whether a job is gone, its reader waits on.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{Idle: 10 * time.Millisecond})
	r := f.open("j", true)
	asked := 0
	r.Vanished = func(context.Context) error {
		if asked++; asked < 3 {
			return contracts.Errorf(contracts.CodeUnavailable, "the broker is slow")
		}
		f.answer("j", 0, 2)
		return nil
	}
	f.want("late", f.read(r), "0 1 end")
}

// halting is a connection to a server on which the first batch that is asked for stops after one message.
type halting struct {
	net.Conn
	to     nats.InProcessConnProvider
	halted *bool
}

func (c halting) InProcessConn() (net.Conn, error) {
	conn, err := c.to.InProcessConn()
	return halting{conn, c.to, c.halted}, err
}

func (c halting) Write(p []byte) (int, error) {
	if batch := []byte(`"batch"`); !*c.halted && bytes.Contains(p, batch) {
		*c.halted = true
		p = bytes.Replace(p, batch, []byte(`"other"`), 1)
	}
	return c.Conn.Write(p)
}

// TestLateReplay: after a silence the broker tells that there are records and is late with them: the reader asks again.
func TestLateReplay(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{})
	halted := false
	nc, err := nats.Connect("", nats.InProcessServer(halting{nil, f.nc.Opts.InProcessServer, &halted}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	f.relay = relay.New(relay.Config{Conn: f.nc, Out: relay.NewLog(nc, topology.StreamOut, time.Second), Idle: 30 * time.Millisecond}) // hears nothing live
	t.Cleanup(f.relay.Close)
	r := f.open("j", false)
	f.answer("j", 0, 2)
	f.want("late", f.read(r), "0 1 end")
}

// TestLostTail: a broker lost the end of OUT in a power failure, and the next holder writes it anew, while a
// reader is there (the first record of a later fence shows it) or while it was away (what cannot follow shows it).
func TestLostTail(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{false, true} {
		f := setup(t, relay.Config{Idle: time.Hour})
		for i := range 6 {
			f.write("j", contracts.Chunk{Fence: 1, Index: i, Tokens: []int32{int32(i)}, Text: "x"})
		}
		var got []string
		for c, err := range f.open("j", true).Chunks(testContext(t)) {
			if err != nil {
				got = append(got, string(contracts.CodeOf(err)))
				continue
			}
			got = append(got, fmt.Sprintf("%d%s", c.Index, c.Text))
			if c.Index != 5 {
				continue
			}
			// A new stream stands for the old one without its tail.
			cfg := (topology.Config{Memory: true}).Streams()[1]
			if away {
				cfg.RePublish = nil
			}
			if err := f.js.DeleteStream(testContext(t), topology.StreamOut); err != nil {
				t.Fatal(err)
			}
			if _, err := f.js.CreateStream(testContext(t), cfg); err != nil {
				t.Fatal(err)
			}
			f.write("j", contracts.Chunk{Fence: 1, Tokens: []int32{0}, Text: "x"})
			f.write("j", contracts.Chunk{Fence: 2, Index: 1, Claim: &contracts.Claim{}})
			f.write("j", contracts.Chunk{Fence: 2, Index: 1, Tokens: []int32{1, 2, 3, 4, 5}, Text: "xxxxx"})
			for i := 6; i < 10; i++ {
				f.write("j", contracts.Chunk{Fence: 2, Index: i, Tokens: []int32{int32(i)}, Text: "x"})
			}
			f.write("j", contracts.Chunk{Fence: 2, Index: 10, Finish: contracts.FinishStop, Usage: &contracts.Usage{CompletionTokens: 10}})
			if away {
				f.relay.Doubt()
			}
		}
		f.want(fmt.Sprintf("away %t", away), strings.Join(got, " "), "0x 1x 2x 3x 4x 5x 6x 7x 8x 9x 10")
	}
}

// TestChecksum: what is not the worker's stream does not pass for it.
func TestChecksum(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{})
	f.write("j", contracts.Chunk{Fence: 1, Tokens: []int32{0}})
	f.write("j", contracts.Chunk{Fence: 1, Index: 1, Finish: contracts.FinishStop, Checksum: "00", Usage: &contracts.Usage{CompletionTokens: 1}})
	f.want("checksum", f.read(f.open("j", true)), "0 internal")
}

// BenchmarkResume reads 500 tokens from OUT, as a reader that comes back does.
func BenchmarkResume(b *testing.B) {
	f := setup(b, relay.Config{})
	f.answer("j", 0, 500)
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if got := f.read(f.open("j", true)); !strings.HasSuffix(got, " 499 end") {
			b.Fatalf("got %q", got)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	for _, p := range []int{50, 95} {
		b.ReportMetric(float64(took[(len(took)-1)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
	}
}

// TestLostLiveRecords: what never came live is found in OUT, with a doubt, and without one after a
// silence.
func TestLostLiveRecords(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{Idle: 30 * time.Millisecond})
	if err := f.live.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	r := f.open("j", false)
	f.answer("j", 0, 3)
	f.want("silence", f.read(r), "0 1 2 end")

	f2 := setup(t, relay.Config{Idle: time.Hour})
	if err := f2.live.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	r = f2.open("j", false)
	f2.answer("j", 0, 3)
	f2.relay.Doubt()
	f2.want("doubt", f2.read(r), "0 1 2 end")
}

// TestReplicaBehind: a reader that comes back does not wait long for what was live before it listened and
// what the replica that it read did not have yet.
func TestReplicaBehind(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{Idle: time.Hour})
	if err := f.live.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	f.write("j", contracts.Chunk{Fence: 1, Tokens: []int32{0}})
	r := f.open("j", true)
	var got []string
	for c, err := range r.Chunks(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if c.Index == 0 {
			f.answer("j", 1, 2)
		}
		got = append(got, strconv.Itoa(c.Index))
	}
	f.want("after the replay", strings.Join(got, " "), "0 1 2")
}

// TestForgedRecords: what somebody publishes on the live subject without its being in OUT is not
// believed.
func TestForgedRecords(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{})
	r := f.open("j", false)
	f.write("j", contracts.Chunk{Fence: 1, Index: 0, Tokens: []int32{0}, Text: "x"})
	for _, h := range []nats.Header{
		nil,
		{"Nats-Stream": {"OUT"}},
		{"Nats-Stream": {"OUT"}, "Nats-Sequence": {"x"}, "Nats-Last-Sequence": {"1"}},
		{"Nats-Stream": {"JOBS"}, "Nats-Sequence": {"2"}, "Nats-Last-Sequence": {"1"}},
	} {
		data, err := contracts.Encode(&contracts.Chunk{V: 1, Job: "j", Fence: 9, Index: 1, Finish: "stop", Usage: &contracts.Usage{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.nc.PublishMsg(&nats.Msg{Subject: subject.Live("t", "j"), Header: h, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	f.answer("j", 1, 2)
	f.want("forged", f.read(r), "0 1 end")
}

func TestDamage(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{})
	f.write("j", contracts.Chunk{Fence: 1, Index: 0, Tokens: []int32{0}})
	f.raw("j", []byte("not msgpack"))
	f.want("damaged record", f.read(f.open("j", true)), "0 internal")
	f.write("gone", contracts.Chunk{Fence: 1, Index: 7, Tokens: []int32{7}})
	f.want("records before 7 aged out", f.read(f.open("gone", true)), "not_found")
}

func TestEnds(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{Idle: 10 * time.Millisecond})
	r := f.open("never", true)
	r.Vanished = func(context.Context) error { return contracts.Errorf(contracts.CodeNotFound, "gone") }
	f.want("vanished", f.read(r), "not_found")

	r = f.open("left", true)
	f.answer("left", 0, 3)
	for range r.Chunks(testContext(t)) {
		break
	}
	f.want("left", "", "")

	ctx, cancel := context.WithCancelCause(context.Background())
	r, err := f.relay.Open(ctx, "t", "j", false) // never ranged over
	if err != nil {
		t.Fatal(err)
	}
	cancel(errors.New("no more interest"))
	for f.relay.Readers() > 0 {
		time.Sleep(time.Millisecond) // the context's own goroutine unregisters it
	}
	r.Close()

	r = f.open("j", false)
	f.relay.Close()
	f.want("closed", f.read(r), "unavailable")
	if _, err := f.relay.Open(testContext(t), "t", "j", false); contracts.CodeOf(err) != contracts.CodeUnavailable {
		t.Errorf("open after close: %v", err)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{})
	ctx := testContext(t)
	if m, err := f.log.Last(ctx, "out.t.none"); m != nil || err != nil {
		t.Errorf("last of nothing: %v %v", m, err)
	}
	if err := f.log.Read(ctx, "out.t.none", 1, func(*relay.Message) bool { t.Error("visited"); return true }); err != nil {
		t.Error(err)
	}
	const n = 1300 // more than two batches
	for i := range n {
		f.raw(fmt.Sprintf("j%d", i%3), []byte(strconv.Itoa(i)))
	}
	got := 0
	if err := f.log.Read(ctx, "out.t.j1", 1, func(m *relay.Message) bool {
		if string(m.Data) != strconv.Itoa(3*got+1) || m.Subject != "out.t.j1" || m.Seq != uint64(3*got+2) || time.Since(m.Time) > time.Minute {
			t.Fatalf("message %d: %+v", got, m)
		}
		got++
		return true
	}); err != nil || got != 433 {
		t.Errorf("read %d of 433, %v", got, err)
	}
	all := 0
	if err := f.log.Read(ctx, subject.AllOut, 100, func(*relay.Message) bool { all++; return true }); err != nil || all != n-99 {
		t.Errorf("read %d of %d from 100 on, %v", all, n-99, err)
	}
	m, err := f.log.Last(ctx, "out.*.j2")
	if err != nil || m == nil || m.Subject != "out.t.j2" || string(m.Data) != "1298" {
		t.Errorf("last with a wildcard: %+v %v", m, err)
	}
	if m, err := f.log.Next(ctx, "out.t.j0", 2); err != nil || m.Seq != 4 {
		t.Errorf("next: %+v %v", m, err)
	}
	if m, err := f.log.At(ctx, 7); err != nil || m.Seq != 7 {
		t.Errorf("at 7: %+v %v", m, err)
	}
	if m, err := f.log.At(ctx, 7000); m != nil || err != nil {
		t.Errorf("at 7000: %+v %v", m, err)
	}
	last, err := f.log.LastOf(ctx, []string{"out.t.j0", "out.t.j1", "out.t.none"})
	if err != nil || len(last) != 2 || last["out.t.j0"].Seq != 1300 {
		t.Errorf("last of: %v %v", last, err)
	}
	page, err := f.log.Page(ctx, "out.t.j0", 1, 10)
	if err != nil || len(page) != 10 {
		t.Errorf("page of %d, %v", len(page), err)
	}
	missing := relay.NewLog(f.nc, "NONE", 100*time.Millisecond)
	if _, err := missing.Last(ctx, "x"); contracts.CodeOf(err) != contracts.CodeUnavailable {
		t.Errorf("a stream that does not exist: %v", err)
	}
	if _, err := missing.Page(ctx, "x", 1, 1); contracts.CodeOf(err) != contracts.CodeUnavailable {
		t.Errorf("a page of a stream that does not exist: %v", err)
	}
}

// A message is deleted once; one that is gone, or never was, is no error. A stream that does not let messages be
// deleted says so.
func TestDelete(t *testing.T) {
	t.Parallel()
	f := setup(t, relay.Config{})
	ctx := testContext(t)
	ack, err := f.js.Publish(ctx, subject.Held("t", "j"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	sched := relay.NewLog(f.nc, topology.StreamSched, 30*time.Second)
	for _, seq := range []uint64{ack.Sequence, ack.Sequence, 7000} {
		if err := sched.Delete(ctx, seq); err != nil {
			t.Errorf("delete %d: %v", seq, err)
		}
	}
	if m, err := sched.At(ctx, ack.Sequence); m != nil || err != nil {
		t.Errorf("a deleted message: %+v %v", m, err)
	}
	// On disk a queue that runs empty has no file any more, and the broker answers otherwise.
	if _, err := f.js.CreateStream(ctx, jetstream.StreamConfig{Name: "FILE", Subjects: []string{"file"}, Storage: jetstream.FileStorage}); err != nil {
		t.Fatal(err)
	}
	if ack, err = f.js.Publish(ctx, "file", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := relay.NewLog(f.nc, "FILE", 30*time.Second).Delete(ctx, ack.Sequence); err != nil {
			t.Errorf("delete of the only message on disk: %v", err)
		}
	}
	if err := f.log.Delete(ctx, f.raw("j", []byte("x"))); contracts.CodeOf(err) != contracts.CodeUnavailable {
		t.Errorf("a record of OUT: %v", err)
	}
	if err := relay.NewLog(f.nc, "NONE", 100*time.Millisecond).Delete(ctx, 1); contracts.CodeOf(err) != contracts.CodeUnavailable {
		t.Errorf("a stream that does not exist: %v", err)
	}
}

// TestReadsAreSmall: a read of a job that has no records costs little; hundreds at once made half a MiB each while
// they held the lock of the connection, and everybody else waited.
func TestReadsAreSmall(t *testing.T) {
	f := setup(t, relay.Config{})
	const reads = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range reads {
		if err := f.log.Read(testContext(t), subject.Out("t", "none"), 1, func(*relay.Message) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / reads; n > 128<<10 {
		t.Errorf("a read allocates %d bytes", n)
	}
}
