// Package stored reads what a stream holds by JetStream's direct get (NATS ADR-31), which any replica answers and
// which needs no consumer.
//
// It stands beside the walk: contracts/client, dispatcher/relay and worker/resume read records and jobs with it.
package stored

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Query says which messages are wanted. Subjects may hold wildcards.
type Query struct {
	Seq       uint64   `json:"seq,omitempty"`          // the one with this sequence; with NextFor, the first at or after it
	LastFor   string   `json:"last_by_subj,omitempty"` // the last one of a subject
	NextFor   string   `json:"next_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"` // the last one of each subject
	Batch     int      `json:"batch,omitempty"`      // at most so many
	MaxBytes  int      `json:"max_bytes,omitempty"`  // and so many bytes, about
}

// Message is one stored message of a stream.
type Message struct {
	Subject string
	Seq     uint64 // sequence in the stream
	Time    time.Time
	Data    []byte
	Behind  int // how many follow that were asked for too, in batches
}

// Subject is where a stream is asked.
func Subject(stream string) string { return "$JS.API.DIRECT.GET." + stream }

// One asks for one message; nil when there is none.
func One(ctx context.Context, nc *nats.Conn, stream string, q Query) (*Message, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	m, err := nc.RequestWithContext(ctx, Subject(stream), data)
	if err != nil {
		return nil, err
	}
	stored, _, err := parse(m)
	return stored, err
}

// Batch hands the messages of one batch to visit, in the order of the stream, until that says false or there are no
// more. last is the sequence of the last one, more tells whether the stream has others. A message that takes longer
// than quiet is an error.
func Batch(ctx context.Context, nc *nats.Conn, stream string, q Query, quiet time.Duration, visit func(*Message) bool) (last uint64, more bool, err error) {
	data, err := json.Marshal(q)
	if err != nil {
		return 0, false, err
	}
	answers := make(chan *nats.Msg, q.Batch+1) // SubscribeSync makes one of 512 KiB, under the lock that all who use the connection share
	sub, err := nc.ChanSubscribe(nc.NewInbox(), answers)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, and then it is gone
	if err := nc.PublishRequest(Subject(stream), sub.Subject, data); err != nil {
		return 0, false, err
	}
	for {
		m, err := next(ctx, answers, quiet)
		if err != nil {
			return last, false, err
		}
		stored, left, err := parse(m)
		if stored == nil || err != nil {
			return last, last > 0 && left, err
		}
		last = stored.Seq
		if !visit(stored) {
			return last, false, nil
		}
	}
}

func next(ctx context.Context, answers <-chan *nats.Msg, quiet time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	select {
	case m := <-answers:
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// parse reads an answer; it is nil when there is no message, or at the end of a batch: left tells whether there are
// others behind it.
func parse(m *nats.Msg) (_ *Message, left bool, err error) {
	switch status := m.Header.Get("Status"); status {
	case "":
	case "204":
		return nil, m.Header.Get("Nats-Num-Pending") != "0", nil
	case "404":
		return nil, false, nil
	case "503":
		return nil, false, fmt.Errorf("no JetStream, or no such stream, on this server: %w", nats.ErrNoResponders)
	default:
		return nil, false, fmt.Errorf("status %s %s", status, m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil, false, fmt.Errorf("the broker's answer has no sequence: %w", err)
	}
	stamp, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return nil, false, fmt.Errorf("the broker's answer has no time: %w", err)
	}
	behind, _ := strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
	return &Message{Behind: behind, Subject: m.Header.Get("Nats-Subject"), Seq: seq, Time: stamp, Data: m.Data}, false, nil
}
