package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// journal writes the records of job "j" of tenant "t" by hand.
type journal struct {
	t  testing.TB
	js jetstream.JetStream
}

// queued is where job "j" waits.
var queued = subject.Job{Model: "m", Class: contracts.P2, Size: contracts.SizeS, Tenant: "t", Job: "j"}.String()

// newJournal makes the streams, after change of OUT's layout, and a dispatcher that admits everything.
func newJournal(t testing.TB, nc *nats.Conn, change func(*jetstream.StreamConfig)) *journal {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range (topology.Config{Memory: true}).Streams() {
		if s.Name == topology.StreamOut && change != nil {
			change(&s)
		}
		if _, err := js.CreateStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	admitted, err := contracts.Encode(contracts.Answer{V: 1, Job: "j", Outcome: contracts.OutcomeAdmitted})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe(subject.AllSubmits, func(m *nats.Msg) {
		_, _ = js.Publish(context.Background(), queued, []byte{0x80}) // refused when it is there
		_ = m.Respond(admitted)
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil { // the door is open before anybody knocks
		t.Fatal(err)
	}
	return &journal{t, js}
}

func (l *journal) write(records ...*contracts.Chunk) {
	l.t.Helper()
	for _, c := range records {
		data, err := contracts.Encode(c)
		if err != nil {
			l.t.Fatal(err)
		}
		if _, err := l.js.Publish(l.t.Context(), subject.Out("t", "j"), data); err != nil {
			l.t.Fatal(err)
		}
	}
}

func claim(fence uint64, index int) *contracts.Chunk {
	return &contracts.Chunk{V: 1, Job: "j", Fence: fence, Index: index, Claim: &contracts.Claim{Attempt: int(fence)}}
}

// pieces are one-token pieces from up to to, with the text "<index> ".
func pieces(fence uint64, from, to int) []*contracts.Chunk {
	var out []*contracts.Chunk
	for i := from; i < to; i++ {
		out = append(out, &contracts.Chunk{V: 1, Job: "j", Fence: fence, Index: i, Tokens: []int32{int32(i)}, Text: fmt.Sprintf("%d ", i)})
	}
	return out
}

func finalAt(fence uint64, tokens int) *contracts.Chunk {
	return &contracts.Chunk{V: 1, Job: "j", Fence: fence, Index: tokens, Finish: contracts.FinishStop, Claim: &contracts.Claim{}, Usage: &contracts.Usage{CompletionTokens: tokens}}
}

func count(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d ", i)
	}
	return b.String()
}

func job() *contracts.Job {
	j := chat("count")
	j.ID = "j"
	return j
}

func readAll(t *testing.T, s *client.Stream, want string) {
	t.Helper()
	text, usage, err := s.Text(t.Context())
	if err != nil || text != want || usage == nil {
		t.Errorf("got %.60q (%d bytes), usage %v, error %v, want %.60q (%d bytes)", text, len(text), usage, err, want, len(want))
	}
}

// TestAttach: records written before the reader came are read from OUT, in batches.
func TestAttach(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, nil)
	c := client.New(nc, "t")
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 600)...)
	s, err := c.Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(2, 600))
	l.write(pieces(2, 600, 603)...)
	l.write(finalAt(2, 603))
	readAll(t, s, count(603))

	if s, err = c.Follow(t.Context(), "j", -1); err != nil {
		t.Fatal(err)
	}
	readAll(t, s, count(603))
	if s, err = c.Follow(t.Context(), "j", 600); err != nil {
		t.Fatal(err)
	}
	readAll(t, s, "601 602 ")
	if s, err = c.Follow(t.Context(), "j", 10_000); err != nil {
		t.Fatal(err)
	}
	readAll(t, s, "")
}

// TestSlowLine: a line that takes longer for a batch of records than the broker may take for an answer is no reason not
// to read them.
func TestSlowLine(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	out := subject.Out("t", "j")
	records := append(append([]*contracts.Chunk{claim(1, 0)}, pieces(1, 0, 3)...), finalAt(1, 3))
	stored := func(i int) *nats.Msg {
		m := nats.NewMsg("")
		var err error
		if m.Data, err = contracts.Encode(records[i]); err != nil {
			t.Error(err)
		}
		for name, value := range map[string]string{"Nats-Subject": out, "Nats-Sequence": strconv.Itoa(i + 1), "Nats-Time-Stamp": time.Now().Format(time.RFC3339Nano)} {
			m.Header.Set(name, value)
		}
		return m
	}
	if _, err := nc.Subscribe("$JS.API.DIRECT.GET.OUT", func(m *nats.Msg) {
		if strings.Contains(string(m.Data), "last_by_subj") {
			_ = m.RespondMsg(stored(len(records) - 1))
			return
		}
		for i := range records {
			_ = m.RespondMsg(stored(i))
			time.Sleep(1500 * time.Millisecond)
		}
		end := nats.NewMsg("")
		end.Header.Set("Status", "204")
		end.Header.Set("Nats-Num-Pending", "0")
		_ = m.RespondMsg(end)
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	s, err := client.New(nc, "t").Follow(t.Context(), "j", -1)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, s, count(3))
}

// TestFollowQueued: a job that still waits is waited for.
func TestFollowQueued(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, nil)
	if _, err := l.js.Publish(t.Context(), queued, []byte{0x80}); err != nil {
		t.Fatal(err)
	}
	s, err := client.New(nc, "t").Follow(t.Context(), "j", -1)
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 2)...)
	l.write(finalAt(1, 2))
	readAll(t, s, count(2))
}

// TestSlowReader: what does not fit into the buffer is read from OUT.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, nil)
	s, err := client.New(nc, "t", client.WithBuffer(2), client.WithIdle(10*time.Millisecond)).Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 100)...)
	l.write(finalAt(1, 100)) // dropped too: nothing arrives after the overflow
	readAll(t, s, count(100))
}

// TestNoSettings: settings of nothing are the defaults.
func TestNoSettings(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, nil)
	s, err := client.New(nc, "t", client.WithBuffer(-1), client.WithIdle(0)).Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(finalAt(1, 0))
	readAll(t, s, count(0))
}

// TestSilence: when no live record arrives at all, the reader looks into OUT by itself.
func TestSilence(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, func(s *jetstream.StreamConfig) { s.RePublish = nil })
	s, err := client.New(nc, "t", client.WithIdle(10*time.Millisecond)).Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 3)...)
	l.write(finalAt(1, 3))
	readAll(t, s, count(3))
}

// TestLostTail: a broker that lost the end of OUT, so that a worker starts again and sequences repeat.
func TestLostTail(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, func(s *jetstream.StreamConfig) { s.DenyDelete = false })
	s, err := client.New(nc, "t", client.WithIdle(10*time.Millisecond)).Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 8)...)
	var text strings.Builder
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(c.Text)
		if c.Index == 7 {
			// A new stream of the same name stands for the old one without its tail.
			cfg := (topology.Config{Memory: true}).Streams()[1]
			if err := l.js.DeleteStream(t.Context(), topology.StreamOut); err != nil {
				t.Fatal(err)
			}
			if _, err := l.js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			l.write(claim(2, 0))
			l.write(&contracts.Chunk{V: 1, Job: "j", Fence: 2, Tokens: make([]int32, 8), Text: count(8)})
			l.write(pieces(2, 8, 9)...)
			l.write(finalAt(2, 9))
		}
	}
	if text.String() != count(9) {
		t.Errorf("got %q, want %q", text.String(), count(9))
	}
}

// TestRecordsGone: what OUT no longer keeps is an error that says so, not an answer with a hole.
func TestRecordsGone(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = 3 })
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 9)...)
	s, err := client.New(nc, "t").Follow(t.Context(), "j", -1)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Text(t.Context())
	wantCode(t, err, contracts.CodeNotFound, "no longer kept")
}

// TestStreamGone: a reader whose job aged out while it waited is told, whether it saw records or not.
func TestStreamGone(t *testing.T) {
	t.Parallel()
	for _, seen := range []int{0, 2} {
		nc := contractstest.Server(t)
		l := newJournal(t, nc, func(s *jetstream.StreamConfig) { s.DenyPurge, s.DenyDelete = false, false })
		s, err := client.New(nc, "t", client.WithIdle(10*time.Millisecond)).Run(t.Context(), job())
		if err != nil {
			t.Fatal(err)
		}
		l.write(pieces(1, 0, seen)...)
		gone := func() {
			for _, name := range []string{topology.StreamOut, topology.StreamJobs} {
				stored, err := l.js.Stream(t.Context(), name)
				if err == nil {
					err = stored.Purge(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if seen == 0 {
			gone()
		}
		for c, err := range s.Chunks() {
			switch {
			case err != nil:
				wantCode(t, err, contracts.CodeNotFound, "kept for a limited time")
			case c.Index == seen-1:
				gone()
			}
		}
	}
}

// TestHeldJob: a job that waits for its turn or its time is waited for, however long nothing comes.
func TestHeldJob(t *testing.T) {
	t.Parallel()
	for _, waits := range []string{subject.Held("t", "j"), subject.Sched("t", "j")} {
		nc := contractstest.Server(t)
		l := newJournal(t, nc, nil)
		if _, err := l.js.Publish(t.Context(), waits, []byte("the job")); err != nil {
			t.Fatal(err)
		}
		asked := make(chan *nats.Msg, 64)
		if _, err := nc.ChanSubscribe("$JS.API.DIRECT.GET."+topology.StreamSched, asked); err != nil {
			t.Fatal(err)
		}
		s, err := client.New(nc, "t", client.WithIdle(10*time.Millisecond)).Follow(t.Context(), "j", -1)
		if err != nil {
			t.Fatalf("%s: %v", waits, err)
		}
		var written sync.WaitGroup
		written.Go(func() {
			for range 3 { // at the beginning and in two silences
				<-asked
			}
			l.write(pieces(1, 0, 3)...)
			l.write(finalAt(1, 3))
		})
		if text, _, err := s.Text(t.Context()); err != nil || text == "" {
			t.Errorf("%s: %q, %v", waits, text, err)
		}
		written.Wait()
	}
}

// TestChecksum: a final record that names another checksum is an error, not an answer.
func TestChecksum(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	l := newJournal(t, nc, nil)
	l.write(pieces(1, 0, 3)...)
	end := finalAt(1, 3)
	end.Checksum = "0000"
	l.write(end)
	s, err := client.New(nc, "t").Follow(t.Context(), "j", 1)
	if err != nil {
		t.Fatal(err)
	}
	text, usage, err := s.Text(t.Context())
	wantCode(t, err, contracts.CodeInternal, "its final record says 0000")
	if text != "2 " || usage != nil {
		t.Errorf("got %q, usage %v, want only what was read before", text, usage)
	}
}

// TestLeavingLeaksNothing: a thousand readers that leave or whose context ends give everything back.
// TestMain looks for goroutines.
func TestLeavingLeaksNothing(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	l := newJournal(t, b.Conn(), nil)
	l.write(pieces(1, 0, 2)...)
	nc := b.Conn()
	c := client.New(nc, "t")
	if _, err := c.Submit(t.Context(), job()); err != nil {
		t.Fatal(err)
	}
	before := nc.NumSubscriptions() // the one that answers come to
	for i := range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Follow(ctx, "j", -1)
		if err != nil {
			t.Fatal(err)
		}
		for c, err := range s.Chunks() {
			switch {
			case i%2 == 0:
				cancel()
			case err != nil:
				t.Fatal(err)
			}
			if i%2 == 1 || c == nil {
				break
			}
		}
		cancel()
	}
	if n := nc.NumSubscriptions(); n != before {
		t.Errorf("%d subscriptions after 1000 readers, %d before", n, before)
	}
}

// TestBrokerRestart: the broker dies in the middle of a stream and comes back, at the same address and
// with its disk; the reader goes on by itself.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	address := &url.URL{Host: contractstest.Address(t)}
	port, err := strconv.Atoi(address.Port())
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*contractstest.Broker, *journal) {
		b := contractstest.StartBroker(t, func(o *server.Options) { o.StoreDir, o.Port = dir, port })
		return b, newJournal(t, b.Conn(), func(s *jetstream.StreamConfig) { s.Storage = jetstream.FileStorage })
	}
	b, l := start()
	nc, err := client.Connect(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s, err := client.New(nc, "t", client.WithIdle(50*time.Millisecond)).Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 300)...)
	var text strings.Builder
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(c.Text)
		if c.Index == 150 {
			b.Stop()
			_, l = start()
			l.write(pieces(1, 300, 303)...) // before the reader is back, perhaps
			l.write(finalAt(1, 303))
		}
	}
	if text.String() != count(303) {
		t.Errorf("got %d bytes, want %d", text.Len(), len(count(303)))
	}
}

// TestBrokerGone: the broker dies in the middle of a stream, or no longer answers what is asked of its streams, and that
// stays so: the reader ends.
func TestBrokerGone(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]func(*contractstest.Broker, *journal){
		"dead": func(b *contractstest.Broker, _ *journal) { b.Stop() },
		"dumb": func(_ *contractstest.Broker, l *journal) {
			if err := l.js.DeleteStream(t.Context(), topology.StreamOut); err != nil {
				t.Error(err)
			}
		},
	} {
		for _, seen := range []int{0, 2} {
			b := contractstest.StartBroker(t, nil)
			l := newJournal(t, b.Conn(), nil)
			nc, err := client.Connect(b.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			s, err := client.New(nc, "t", client.WithIdle(10*time.Millisecond), client.WithOutage(50*time.Millisecond)).Run(t.Context(), job())
			if err != nil {
				t.Fatal(err)
			}
			l.write(pieces(1, 0, seen)...)
			if seen == 0 {
				gone(b, l)
			}
			var last error
			for c, err := range s.Chunks() {
				if last = err; err == nil && c.Index == seen-1 {
					gone(b, l)
				}
			}
			wantCode(t, last, contracts.CodeUnavailable, "follow it again")
			if t.Failed() {
				t.Log(name, seen)
			}
		}
	}
}

// BenchmarkFollow reads 500 tokens from OUT, as a reader that resumes does.
func BenchmarkFollow(b *testing.B) {
	nc := contractstest.Server(b)
	l := newJournal(b, nc, nil)
	l.write(pieces(1, 0, 500)...)
	l.write(finalAt(1, 500))
	c := client.New(nc, "t")
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		s, err := c.Follow(b.Context(), "j", -1)
		if err != nil {
			b.Fatal(err)
		}
		if text, _, err := s.Text(b.Context()); err != nil || len(text) != len(count(500)) {
			b.Fatalf("got %d bytes, %v", len(text), err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	for _, p := range []int{50, 95} {
		b.ReportMetric(float64(took[(len(took)-1)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
	}
}

// TestMalformedRecord: a record that is not one ends the reading with its code.
func TestMalformedRecord(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		data []byte
		code contracts.Code
	}{
		"garbage":     {[]byte("\x81\xa1"), contracts.CodeInvalidArgument},
		"new version": {[]byte("\x81\xa1v\x09"), contracts.CodeUnimplemented},
	} {
		nc := contractstest.Server(t)
		l := newJournal(t, nc, nil)
		s, err := client.New(nc, "t").Run(t.Context(), job())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.js.Publish(t.Context(), subject.Out("t", "j"), tt.data); err != nil {
			t.Fatal(err)
		}
		_, _, err = s.Text(t.Context())
		wantCode(t, err, tt.code, name[:0])
	}
}

// TestReconnect: records written while the reader's connection was away are not missed.
func TestReconnect(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	l := newJournal(t, b.Conn(), nil)
	back := make(chan struct{})
	nc := b.Conn(nats.ReconnectWait(time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { close(back) }))
	s, err := client.New(nc, "t", client.WithIdle(50*time.Millisecond)).Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 2)...)
	var text strings.Builder
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(c.Text)
		if c.Index == 1 && !c.Final() {
			if err := nc.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
			l.write(pieces(1, 2, 4)...)
			l.write(finalAt(1, 4))
			<-back
		}
	}
	if text.String() != count(4) {
		t.Errorf("got %q, want %q", text.String(), count(4))
	}
}

// awayOnce is a dialer whose second call fails: a connection that breaks is not back at once.
type awayOnce struct{ calls atomic.Int32 }

func (a *awayOnce) Dial(network, address string) (net.Conn, error) {
	if a.calls.Add(1) == 2 {
		return nil, errors.New("away")
	}
	return net.Dial(network, address)
}

// TestLeavingWhileAway: a job that is to end with its reader is canceled also when the connection is away as the
// reader leaves.
func TestLeavingWhileAway(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	pace := make(chan struct{}, 1)
	contractstest.FakeFleet(t, b.Conn(), contractstest.Paced(pace))
	nc := b.Conn(nats.SetCustomDialer(&awayOnce{}), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1))
	j := chat("a b c")
	j.CancelOnLeave = true
	s, err := client.New(nc, "t").Run(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	pace <- struct{}{}
	for _, err := range s.Chunks() {
		if err == nil {
			err = nc.ForceReconnect()
		}
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	close(pace) // if the job goes on, it ends
	f, err := client.New(b.Conn(), "t").Follow(t.Context(), j.ID, -1)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = f.Text(t.Context())
	wantCode(t, err, contracts.CodeCanceled, "cancel")
}

// permitted starts a broker whose user "producer" has only the rights of a producer of tenant "t".
func permitted(t *testing.T) (admin, producer *nats.Conn) {
	t.Helper()
	b := contractstest.StartBroker(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "a"},
			{Username: "producer", Password: "p", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"submit.t", "cancel.t.*", "status.t.*"}},
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_t.>", "live.t.*"}},
			}},
		}
	})
	return b.Conn(nats.UserInfo("admin", "a")), b.Conn(nats.UserInfo("producer", "p"), client.Inbox("t"))
}

// TestMissedEnd: who may not read OUT learns from a dispatcher that the job's end was not passed on, as
// when the broker that stored it died; a job that goes on is waited for.
func TestMissedEnd(t *testing.T) {
	t.Parallel()
	admin, nc := permitted(t)
	l := newJournal(t, admin, nil)
	asked := make(chan struct{}, 64)
	var state atomic.Pointer[contracts.Status]
	state.Store(&contracts.Status{Job: "j", Tenant: "t", State: contracts.StateRunning})
	if _, err := admin.Subscribe(subject.Status("t", "j"), func(m *nats.Msg) {
		data, err := contracts.Encode(state.Load())
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			t.Error(err)
		}
		asked <- struct{}{}
	}); err != nil {
		t.Fatal(err)
	}
	if err := admin.Flush(); err != nil {
		t.Fatal(err)
	}
	s, err := client.New(nc, "t", client.WithIdle(10*time.Millisecond)).Run(t.Context(), job())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		<-asked
		l.write(claim(1, 0))
		l.write(pieces(1, 0, 3)...)
		state.Store(&contracts.Status{Job: "j", Tenant: "t", State: contracts.StateCompleted})
	}()
	text, _, err := s.Text(t.Context())
	if text != count(3) {
		t.Errorf("got %q, want %q", text, count(3))
	}
	wantCode(t, err, contracts.CodeUnavailable, "records were missed")
}

// TestPermissions: what the credentials do not allow fails at once and says so.
func TestPermissions(t *testing.T) {
	t.Parallel()
	admin, nc := permitted(t)
	l := newJournal(t, admin, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // well below what a lost request is waited for
	defer cancel()
	patient := client.WithTimeout(5 * time.Minute)
	c := client.New(nc, "t", client.WithIdle(10*time.Millisecond), patient)

	_, err := client.New(nc, "other", patient).Submit(ctx, chat("x"))
	wantCode(t, err, contracts.CodePermissionDenied, "submit.other")
	_, err = client.New(nc, "other", patient).Run(ctx, chat("x"))
	wantCode(t, err, contracts.CodePermissionDenied, "live.other.")
	_, err = c.Follow(ctx, "j", -1)
	wantCode(t, err, contracts.CodePermissionDenied, "DIRECT.GET.OUT")

	s, err := c.Run(ctx, job())
	if err != nil {
		t.Fatal(err)
	}
	l.write(claim(1, 0))
	l.write(pieces(1, 0, 3)...)
	l.write(finalAt(1, 3))
	readAll(t, s, count(3))

	s, err = c.Run(ctx, job()) // attached too late, and OUT is closed to it
	if err != nil {
		t.Fatal(err)
	}
	l.write(pieces(1, 3, 4)...)
	_, _, err = s.Text(ctx)
	wantCode(t, err, contracts.CodeUnavailable, "OUT")
}
