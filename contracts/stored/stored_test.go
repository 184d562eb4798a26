package stored_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/stored"
)

const patience = 20 * time.Second

// stream is a broker with a stream S of ten messages: "0" to "9", on s.a and s.b in turn.
func stream(t *testing.T) *nats.Conn {
	t.Helper()
	nc := contractstest.Server(t)
	js, err := jetstream.New(nc)
	if err == nil {
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, AllowDirect: true, Storage: jetstream.MemoryStorage})
	}
	for i := 0; i < 10 && err == nil; i++ {
		_, err = js.Publish(t.Context(), "s."+"ab"[i%2:i%2+1], fmt.Append(nil, i))
	}
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func TestOne(t *testing.T) {
	t.Parallel()
	nc := stream(t)
	for _, tt := range []struct {
		q    stored.Query
		want string // subject, sequence, data; empty: there is none
	}{
		{stored.Query{Seq: 3}, "s.a 3 2"},
		{stored.Query{LastFor: "s.a"}, "s.a 9 8"},
		{stored.Query{Seq: 3, NextFor: "s.b"}, "s.b 4 3"},
		{stored.Query{Seq: 99}, ""},
		{stored.Query{LastFor: "s.c"}, ""},
		{stored.Query{Seq: 11, NextFor: "s.*"}, ""},
	} {
		m, err := stored.One(t.Context(), nc, "S", tt.q)
		got := ""
		if m != nil {
			got = fmt.Sprintf("%s %d %s", m.Subject, m.Seq, m.Data)
			if age := time.Since(m.Time); age < -time.Minute || age > 10*time.Minute {
				t.Errorf("%+v: stored at %v", tt.q, m.Time)
			}
		}
		if err != nil || got != tt.want {
			t.Errorf("%+v: %q, %v; want %q", tt.q, got, err, tt.want)
		}
	}
	if m, err := stored.One(t.Context(), nc, "none", stored.Query{Seq: 1}); m != nil || !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a stream that is not there: %v, %v", m, err)
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	nc := stream(t)
	before := nc.NumSubscriptions()
	for _, tt := range []struct {
		q    stored.Query
		most int // messages that are taken
		want string
		last uint64
		more bool
	}{
		{stored.Query{Seq: 1, NextFor: "s.*", Batch: 4}, 99, "0123", 4, true},
		{stored.Query{Seq: 5, NextFor: "s.*", Batch: 99}, 99, "456789", 10, false},
		{stored.Query{Seq: 7, NextFor: "s.*", Batch: 4}, 99, "6789", 10, false},
		{stored.Query{Seq: 1, NextFor: "s.b", Batch: 3}, 99, "135", 6, true},
		{stored.Query{Seq: 1, NextFor: "s.*", Batch: 99, MaxBytes: 1}, 99, "0", 1, true},
		{stored.Query{MultiLast: []string{"s.a", "s.b", "s.c"}, Batch: 9}, 99, "89", 10, false},
		{stored.Query{Seq: 1, NextFor: "s.*", Batch: 9}, 2, "01", 2, false},
		{stored.Query{Seq: 11, NextFor: "s.*", Batch: 9}, 99, "", 0, false},
		{stored.Query{MultiLast: []string{"s.c"}, Batch: 9}, 99, "", 0, false},
	} {
		got := ""
		last, more, err := stored.Batch(t.Context(), nc, "S", tt.q, patience, func(m *stored.Message) bool {
			got += string(m.Data)
			return len(got) < tt.most
		})
		if err != nil || got != tt.want || last != tt.last || more != tt.more {
			t.Errorf("%+v: %q to %d, more %v, %v; want %q to %d, more %v", tt.q, got, last, more, err, tt.want, tt.last, tt.more)
		}
	}
	if n := nc.NumSubscriptions(); n != before {
		t.Errorf("%d subscriptions are left, %d were there before", n, before)
	}
}

// TestBehind: each message of a batch says how many follow, so that a reader knows how far it is.
func TestBehind(t *testing.T) {
	t.Parallel()
	nc := stream(t)
	var got []int
	if _, _, err := stored.Batch(t.Context(), nc, "S", stored.Query{Seq: 7, NextFor: "s.*", Batch: 9}, patience, func(m *stored.Message) bool {
		got = append(got, m.Behind)
		return true
	}); err != nil || !slices.Equal(got, []int{3, 2, 1, 0}) {
		t.Errorf("behind %v, %v", got, err)
	}
}

// TestAnswersThatAreNone: what a broker says that cannot answer, or something else in its place.
func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	answer := nats.NewMsg("")
	sub, err := nc.Subscribe(stored.Subject("S"), func(m *nats.Msg) { _ = m.RespondMsg(answer) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	stamp := time.Now().Format(time.RFC3339Nano)
	for _, tt := range []struct {
		name string
		nats.Header
		want string
	}{
		{"no headers", nats.Header{}, "no sequence"},
		{"no time", nats.Header{"Nats-Sequence": {"1"}}, "no time"},
		{"a sequence that is none", nats.Header{"Nats-Sequence": {"-1"}, "Nats-Time-Stamp": {stamp}}, "no sequence"},
		{"a bad request", nats.Header{"Status": {"408"}, "Description": {"Bad Request"}}, "status 408 Bad Request"},
		{"too many", nats.Header{"Status": {"413"}, "Description": {"Too Many Results"}}, "status 413"},
	} {
		answer.Header = tt.Header
		one, err := stored.One(t.Context(), nc, "S", stored.Query{Seq: 1})
		if one != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, %v; want an error with %q", tt.name, one, err, tt.want)
		}
		visited := 0
		last, more, err := stored.Batch(t.Context(), nc, "S", stored.Query{Seq: 1, NextFor: "s.*", Batch: 2}, patience, func(*stored.Message) bool { visited++; return true })
		if visited+int(last) > 0 || more || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %d visited to %d, more %v, %v; want an error with %q", tt.name, visited, last, more, err, tt.want)
		}
	}
}

// TestSilence: who gets no answer, or only the beginning of a batch, is told so, and has what came.
func TestSilence(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	sub, err := nc.Subscribe(stored.Subject("S"), func(m *nats.Msg) {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Nats-Sequence": {"7"}, "Nats-Subject": {"s.a"}, "Nats-Time-Stamp": {time.Now().Format(time.RFC3339Nano)}}})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	q := stored.Query{Seq: 1, NextFor: "s.*", Batch: 2}
	last, more, err := stored.Batch(t.Context(), nc, "S", q, 50*time.Millisecond, func(*stored.Message) bool { return true })
	if last != 7 || more || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a batch that breaks off: to %d, more %v, %v", last, more, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	last, _, err = stored.Batch(ctx, nc, "S", q, patience, func(*stored.Message) bool { cancel(); return true })
	if last != 7 || !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that leaves: to %d, %v", last, err)
	}
	nc.Close()
	if _, err := stored.One(t.Context(), nc, "S", stored.Query{Seq: 1}); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("after the end of the connection: %v", err)
	}
}
