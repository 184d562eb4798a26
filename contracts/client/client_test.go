package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func chat(text string) *contracts.Job {
	return &contracts.Job{Model: "m", Kind: contracts.KindChat, Messages: []contracts.Message{{Role: "user", Content: text}}}
}

func ptr[T any](v T) *T { return &v }

func wantCode(t *testing.T, err error, code contracts.Code, text string) {
	t.Helper()
	if contracts.CodeOf(err) != code || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("got error %v (code %q), want code %q and text %q", err, contracts.CodeOf(err), code, text)
	}
}

func TestRunText(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	contractstest.FakeFleet(t, nc)
	c := client.New(nc, "")
	j := chat("hello world")
	s, err := c.Run(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	text, usage, err := s.Text(t.Context())
	if err != nil || text != "You said: hello world" {
		t.Fatalf("got %q, %v, want %q", text, err, "You said: hello world")
	}
	if usage.CompletionTokens != 4 || usage.PromptTokens != 2 || usage.TotalTokens != 6 {
		t.Errorf("usage %+v, want 2 + 4 tokens", *usage)
	}
	if j.ID == "" || j.Tenant != "default" || j.V != 1 || j.Submitted == 0 {
		t.Errorf("the job was not filled in: %+v", j)
	}
	if a := s.Answer(); a.Job != j.ID || a.Outcome != contracts.OutcomeAdmitted || a.Live != subject.Live("default", j.ID) {
		t.Errorf("answer %+v of job %s", a, j.ID)
	}
	if _, _, err := s.Text(t.Context()); contracts.CodeOf(err) != contracts.CodeInvalidArgument {
		t.Errorf("second read: %v, want invalid_argument", err)
	}
}

func TestTenantsWithOddNames(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	contractstest.FakeFleet(t, nc)
	for _, tenant := range []string{"a.b", "x > *", "日本"} {
		j := chat("hi")
		j.ID = "id with spaces. and dots"
		s, err := client.New(nc, tenant).Run(t.Context(), j)
		if err != nil {
			t.Fatalf("tenant %q: %v", tenant, err)
		}
		if text, _, err := s.Text(t.Context()); err != nil || text != "You said: hi" {
			t.Errorf("tenant %q: got %q, %v", tenant, text, err)
		}
	}
}

func TestChoices(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	contractstest.FakeFleet(t, nc)
	j := chat("a b c")
	j.Params.N, j.Params.MaxTokens = ptr(3), ptr(4)
	s, err := client.New(nc, "t").Run(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, 3)
	var final *contracts.Chunk
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		if final != nil {
			t.Fatalf("record after the final one: %+v", c)
		}
		if c.Final() {
			final = c
			continue
		}
		texts[c.Choice] += c.Text
	}
	if final == nil || final.Index != 4 || final.Usage.CompletionTokens != 12 || final.Finish != contracts.FinishLength {
		t.Errorf("final record %+v, want index 4, 12 tokens, finish length", final)
	}
	for i, text := range texts {
		if text != "You said: a b" {
			t.Errorf("choice %d: %q", i, text)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, func(o *server.Options) { o.MaxPayload = 4096 })
	nc := b.Conn()
	c := client.New(nc, "t", client.WithTimeout(time.Minute))
	ctx := t.Context()

	_, err := c.Submit(ctx, chat("hi"))
	wantCode(t, err, contracts.CodeUnavailable, "pelton up")
	_, err = c.Cancel(ctx, "j")
	wantCode(t, err, contracts.CodeUnavailable, "no dispatcher")

	contractstest.FakeFleet(t, nc, contractstest.Models("m"))
	_, err = c.Submit(ctx, chat(strings.Repeat("x", 5000)))
	wantCode(t, err, contracts.CodePayloadTooLarge, "4096")
	j := chat("hi")
	j.Model = "other"
	_, err = c.Submit(ctx, j)
	wantCode(t, err, contracts.CodeModelNotFound, "use one of m")
	j = chat("hi")
	j.Tenant = "someone"
	_, err = c.Submit(ctx, j)
	wantCode(t, err, contracts.CodePermissionDenied, "someone")
	j = chat("hi")
	j.Params.Temperature = ptr(9.0)
	_, err = c.Run(ctx, j)
	wantCode(t, err, contracts.CodeInvalidArgument, "temperature")
	_, err = c.Cancel(ctx, "unknown")
	wantCode(t, err, contracts.CodeNotFound, "unknown")
	_, err = c.Cancel(ctx, "")
	wantCode(t, err, contracts.CodeInvalidArgument, "job id")
	_, err = c.Follow(ctx, "", -1)
	wantCode(t, err, contracts.CodeInvalidArgument, "job id")
	_, err = c.Follow(ctx, "unknown", -1)
	wantCode(t, err, contracts.CodeNotFound, "unknown")
	_, err = client.New(nc, "t", client.WithoutReplay()).Follow(ctx, "unknown", -1)
	wantCode(t, err, contracts.CodePermissionDenied, "OUT")

	first, again, other := chat("a"), chat("a"), chat("b")
	first.ID, again.ID, other.ID = "same", "same", "same"
	if _, err := c.Submit(ctx, first); err != nil {
		t.Fatal(err)
	}
	if a, err := c.Submit(ctx, again); err != nil || a.Job != "same" {
		t.Errorf("same job again: %+v, %v, want it admitted", a, err)
	}
	_, err = c.Submit(ctx, other)
	wantCode(t, err, contracts.CodeConflict, "same")
}

// TestNoAnswer: a dispatcher that takes the message and stays silent is not waited for without end.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	if _, err := nc.Subscribe(subject.AllSubmits, func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	_, err := client.New(nc, "t", client.WithTimeout(30*time.Millisecond)).Submit(t.Context(), chat("hi"))
	wantCode(t, err, contracts.CodeUnavailable, "same job id")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = client.New(nc, "t").Submit(ctx, chat("hi"))
	wantCode(t, err, contracts.CodeCanceled, "canceled")
}

func TestBadAnswer(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	for _, s := range []string{subject.AllSubmits, subject.AllCancels} {
		if _, err := nc.Subscribe(s, func(m *nats.Msg) { _ = m.Respond([]byte("\x93not a map")) }); err != nil {
			t.Fatal(err)
		}
	}
	c := client.New(nc, "t")
	_, err := c.Submit(t.Context(), chat("hi"))
	wantCode(t, err, contracts.CodeInvalidArgument, "answer to job")
	_, err = c.Cancel(t.Context(), "j")
	wantCode(t, err, contracts.CodeInvalidArgument, "answer to the cancel")
}

func TestCancel(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	pace := make(chan struct{})
	contractstest.FakeFleet(t, nc, contractstest.Paced(pace))
	c := client.New(nc, "t")
	s, err := c.Run(t.Context(), chat("a b c"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { pace <- struct{}{} }()
	var final *contracts.Chunk
	for ch, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		if ch.Final() {
			final = ch
			break
		}
		for range 2 { // a repeat gets the same answer
			st, err := c.Cancel(t.Context(), s.Job())
			if err != nil || st.State != contracts.StateCanceled || st.Finish != contracts.FinishCancelled {
				t.Fatalf("cancel: %+v, %v", st, err)
			}
		}
	}
	if final == nil || contracts.CodeOf(final.Err()) != contracts.CodeCanceled || final.Index != 1 {
		t.Errorf("final record %+v, want canceled after one token", final)
	}
}

// TestLeaving: a reader that leaves ends the job only if the job says so.
func TestLeaving(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	pace := make(chan struct{}, 100)
	contractstest.FakeFleet(t, nc, contractstest.Paced(pace))
	c := client.New(nc, "t")
	for _, cancel := range []bool{true, false} {
		j := chat("a b c")
		j.CancelOnLeave = cancel
		s, err := c.Run(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		pace <- struct{}{}
		for _, err := range s.Chunks() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !cancel {
			for range 10 {
				pace <- struct{}{}
			}
		}
		f, err := c.Follow(t.Context(), j.ID, -1)
		if err != nil {
			t.Fatal(err)
		}
		text, _, err := f.Text(t.Context())
		if want := contracts.CodeCanceled; cancel && contracts.CodeOf(err) != want {
			t.Errorf("cancel_on_leave: %v, want %s", err, want)
		}
		if want := "You said: a b c"; !cancel && (err != nil || text != want) {
			t.Errorf("leaving a job: %q, %v, want %q", text, err, want)
		}
	}
}

func TestContextEndsStream(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	contractstest.FakeFleet(t, nc, contractstest.Paced(make(chan struct{})))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := client.New(nc, "t").Run(ctx, chat("a"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, _, err = s.Text(t.Context())
	wantCode(t, err, contracts.CodeCanceled, "canceled")
	s, err = client.New(nc, "t").Run(t.Context(), chat("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Text(ctx)
	wantCode(t, err, contracts.CodeCanceled, "canceled")
	caused, end := context.WithCancelCause(t.Context())
	if s, err = client.New(nc, "t").Run(caused, chat("a")); err != nil {
		t.Fatal(err)
	}
	why := errors.New("the page was closed")
	end(why)
	for _, err = range s.Chunks() {
	}
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("a context that ended for a reason: %v", err)
	}
}

func TestConnectionClosed(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	contractstest.FakeFleet(t, b.Conn(), contractstest.Paced(make(chan struct{})))
	nc := b.Conn()
	c := client.New(nc, "t", client.WithIdle(20*time.Millisecond))
	s, err := c.Run(t.Context(), chat("a"))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	_, _, err = s.Text(t.Context())
	wantCode(t, err, contracts.CodeUnavailable, "closed")
	_, err = c.Run(t.Context(), chat("a"))
	wantCode(t, err, contracts.CodeUnavailable, "closed")
	_, err = c.Submit(t.Context(), chat("a"))
	wantCode(t, err, contracts.CodeUnavailable, "closed")
}

func TestConnect(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, func(o *server.Options) { o.Username, o.Password = "u", "p" })
	_, err := client.Connect(b.URL())
	wantCode(t, err, contracts.CodeUnauthenticated, "credentials")
	_, err = client.Connect("nats://127.0.0.1:1", nats.Timeout(time.Second))
	wantCode(t, err, contracts.CodeUnavailable, "pelton up")
	nc, err := client.Connect(b.URL(), nats.UserInfo("u", "p"), client.Inbox("a.b"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	contractstest.FakeFleet(t, nc)
	if !strings.HasPrefix(nc.NewInbox(), "_INBOX_a%2Eb.") {
		t.Errorf("inbox %s, want the prefix of the tenant", nc.NewInbox())
	}
	s, err := client.New(nc, "a.b").Run(t.Context(), chat("x"))
	if err != nil {
		t.Fatal(err)
	}
	if text, _, err := s.Text(t.Context()); err != nil || text != "You said: x" {
		t.Errorf("got %q, %v", text, err)
	}
}
