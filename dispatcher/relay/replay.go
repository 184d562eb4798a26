package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
)

// Bounds of one batch that a [Log] asks for.
const (
	batchRecords = 512
	batchBytes   = 4 << 20
)

// The broker's answers to the delete of a message that is not there: the second one when the queue is empty, on disk.
const (
	codeSequenceNotFound = 10043
	codeDeleteFailed     = 10057
)

// Message is one stored message of a stream.
type Message struct {
	Subject string
	Seq     uint64 // sequence in the stream
	Time    time.Time
	Data    []byte
	Behind  int // how many follow that were asked for too, in batches
}

// Log reads the stored messages of one stream by direct get, which any replica answers and which needs
// no consumer, and removes those that nobody needs any more. Its errors are [*contracts.Error] with CodeUnavailable, or the context's. Safe for
// concurrent use.
type Log struct {
	conn    *nats.Conn
	stream  string
	timeout time.Duration // of one answer
}

// NewLog returns a log over a stream that allows direct gets.
func NewLog(nc *nats.Conn, stream string, timeout time.Duration) *Log {
	return &Log{conn: nc, stream: stream, timeout: timeout}
}

// query is the request of the direct get API (NATS ADR-31).
type query struct {
	Seq       uint64   `json:"seq,omitempty"`
	LastFor   string   `json:"last_by_subj,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	UpToSeq   uint64   `json:"up_to_seq,omitempty"`
}

// Last returns the last message of a subject, which may hold wildcards; nil when there is none.
func (l *Log) Last(ctx context.Context, subject string) (*Message, error) {
	return l.one(ctx, query{LastFor: subject})
}

// Next returns the first message of a subject at or after seq; nil when there is none.
func (l *Log) Next(ctx context.Context, subject string, seq uint64) (*Message, error) {
	return l.one(ctx, query{NextFor: subject, Seq: max(seq, 1)})
}

// At returns the message with the sequence seq; nil when it is gone.
func (l *Log) At(ctx context.Context, seq uint64) (*Message, error) {
	return l.one(ctx, query{Seq: seq})
}

func (l *Log) one(ctx context.Context, q query) (*Message, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	m, err := l.conn.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+l.stream, data)
	if err != nil {
		return nil, l.unavailable(err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return parse(m)
	case "404":
		return nil, nil
	default:
		return nil, l.unavailable(fmt.Errorf("status %s %s", status, m.Header.Get("Description")))
	}
}

// Delete removes the message with the sequence seq; one that is gone is no error.
func (l *Log) Delete(ctx context.Context, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	m, err := l.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.DELETE."+l.stream, fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, seq))
	if err != nil {
		return l.unavailable(err)
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return l.unavailable(err)
	}
	e := answer.Error
	if e == nil || e.ErrorCode == codeSequenceNotFound || e.ErrorCode == codeDeleteFailed && e.Description == "no message found" {
		return nil
	}
	return l.unavailable(e)
}

// Fill is what is in a stream, and the most that may be.
type Fill struct{ Bytes, MaxBytes, Messages, MaxMessages int64 }

// Fill tells how full the stream is.
func (l *Log) Fill(ctx context.Context) (Fill, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	m, err := l.conn.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+l.stream, nil)
	if err != nil {
		return Fill{}, l.unavailable(err)
	}
	var answer struct {
		jetstream.StreamInfo
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return Fill{}, l.unavailable(err)
	}
	if answer.Error != nil {
		return Fill{}, l.unavailable(answer.Error)
	}
	return Fill{int64(answer.State.Bytes), answer.Config.MaxBytes, int64(answer.State.Msgs), answer.Config.MaxMsgs}, nil
}

// Read hands every message of a subject (which may hold wildcards) from seq on to visit, in the order
// of the stream, until visit says false or there are no more. Messages that are stored meanwhile are
// read too.
func (l *Log) Read(ctx context.Context, subject string, seq uint64, visit func(*Message) bool) error {
	for seq = max(seq, 1); ; {
		last, more, err := l.batch(ctx, query{NextFor: subject, Seq: seq, Batch: batchRecords, MaxBytes: batchBytes}, visit)
		if err != nil || !more {
			return err
		}
		seq = last + 1
	}
}

// Count tells how many messages a subject has, which may hold wildcards.
func (l *Log) Count(ctx context.Context, subject string) (int, error) {
	n := 0
	_, _, err := l.batch(ctx, query{NextFor: subject, Seq: 1, Batch: 1}, func(m *Message) bool {
		n = 1 + m.Behind
		return false
	})
	return n, err
}

// Page reads up to count messages of a subject from seq on: less when their bytes reach a bound.
func (l *Log) Page(ctx context.Context, subject string, seq uint64, count int) ([]*Message, error) {
	var page []*Message
	_, _, err := l.batch(ctx, query{NextFor: subject, Seq: max(seq, 1), Batch: count, MaxBytes: batchBytes}, func(m *Message) bool {
		page = append(page, m)
		return true
	})
	return page, err
}

// LastOf returns the last message of each of the subjects, at most 1,000, without wildcards; those that
// have none are left out. The broker cuts an answer that is too large, and then is asked for the rest.
func (l *Log) LastOf(ctx context.Context, subjects []string) (map[string]*Message, error) {
	found := make(map[string]*Message, len(subjects))
	if len(subjects) == 0 {
		return found, nil
	}
	for {
		before := len(found)
		_, more, err := l.batch(ctx, query{MultiLast: subjects, Batch: len(subjects)}, func(m *Message) bool {
			found[m.Subject] = m
			return true
		})
		if err != nil || !more || len(found) == before {
			return found, err
		}
		subjects = slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return found[s] != nil })
	}
}

// batch sends one batch request and hands its messages to visit. It returns the last sequence and
// whether there is more.
func (l *Log) batch(ctx context.Context, q query, visit func(*Message) bool) (last uint64, more bool, err error) {
	data, err := json.Marshal(q)
	if err != nil {
		return 0, false, err
	}
	inbox := l.conn.NewInbox()
	answers := make(chan *nats.Msg, q.Batch+1) // SubscribeSync makes one of 512 KiB, under the lock that all who use the connection share
	sub, err := l.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return 0, false, l.unavailable(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, and then it is gone
	if err := l.conn.PublishRequest("$JS.API.DIRECT.GET."+l.stream, inbox, data); err != nil {
		return 0, false, l.unavailable(err)
	}
	for {
		m, err := l.next(ctx, answers)
		if err != nil {
			return last, false, l.unavailable(err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204": // end of the batch
			return last, last > 0 && m.Header.Get("Nats-Num-Pending") != "0", nil
		case "404":
			return last, false, nil
		default:
			return last, false, l.unavailable(fmt.Errorf("status %s %s", status, m.Header.Get("Description")))
		}
		stored, err := parse(m)
		if err != nil {
			return last, false, err
		}
		last = stored.Seq
		if !visit(stored) {
			return last, false, nil
		}
	}
}

func (l *Log) next(ctx context.Context, answers <-chan *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	select {
	case m := <-answers:
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return nil, nats.ErrNoResponders
		}
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *Log) unavailable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return contracts.Errorf(contracts.CodeUnavailable, "stream %s cannot be reached: %v: retry", l.stream, err)
}

func parse(m *nats.Msg) (*Message, error) {
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil, contracts.Errorf(contracts.CodeUnavailable, "the broker's answer has no sequence: %v", err)
	}
	stamp, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return nil, contracts.Errorf(contracts.CodeUnavailable, "the broker's answer has no time: %v", err)
	}
	behind, _ := strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
	return &Message{Behind: behind, Subject: m.Header.Get("Nats-Subject"), Seq: seq, Time: stamp, Data: m.Data}, nil
}
