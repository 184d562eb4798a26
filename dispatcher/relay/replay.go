package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stored"
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
type Message = stored.Message

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

// Last returns the last message of a subject, which may hold wildcards; nil when there is none.
func (l *Log) Last(ctx context.Context, subject string) (*Message, error) {
	return l.one(ctx, stored.Query{LastFor: subject})
}

// Next returns the first message of a subject at or after seq; nil when there is none.
func (l *Log) Next(ctx context.Context, subject string, seq uint64) (*Message, error) {
	return l.one(ctx, stored.Query{NextFor: subject, Seq: max(seq, 1)})
}

// At returns the message with the sequence seq; nil when it is gone.
func (l *Log) At(ctx context.Context, seq uint64) (*Message, error) {
	return l.one(ctx, stored.Query{Seq: seq})
}

func (l *Log) one(ctx context.Context, q stored.Query) (*Message, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	m, err := stored.One(ctx, l.conn, l.stream, q)
	if err != nil {
		return nil, l.unavailable(err)
	}
	return m, nil
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
		last, more, err := l.batch(ctx, stored.Query{NextFor: subject, Seq: seq, Batch: batchRecords, MaxBytes: batchBytes}, visit)
		if err != nil || !more {
			return err
		}
		seq = last + 1
	}
}

// Count tells how many messages a subject has, which may hold wildcards.
func (l *Log) Count(ctx context.Context, subject string) (int, error) {
	n := 0
	_, _, err := l.batch(ctx, stored.Query{NextFor: subject, Seq: 1, Batch: 1}, func(m *Message) bool {
		n = 1 + m.Behind
		return false
	})
	return n, err
}

// Page reads up to count messages of a subject from seq on: less when their bytes reach a bound.
func (l *Log) Page(ctx context.Context, subject string, seq uint64, count int) ([]*Message, error) {
	var page []*Message
	_, _, err := l.batch(ctx, stored.Query{NextFor: subject, Seq: max(seq, 1), Batch: count, MaxBytes: batchBytes}, func(m *Message) bool {
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
		_, more, err := l.batch(ctx, stored.Query{MultiLast: subjects, Batch: len(subjects)}, func(m *Message) bool {
			found[m.Subject] = m
			return true
		})
		if err != nil || !more || len(found) == before {
			return found, err
		}
		subjects = slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return found[s] != nil })
	}
}

// LastUnder returns the last message of each subject of a pattern, of which there may be at most 1,000.
func (l *Log) LastUnder(ctx context.Context, pattern string) (found []*Message, err error) {
	_, _, err = l.batch(ctx, stored.Query{MultiLast: []string{pattern}, Batch: 1000}, func(m *Message) bool {
		found = append(found, m)
		return true
	})
	return found, err
}

// batch sends one batch request and hands its messages to visit. It returns the last sequence and
// whether there is more.
func (l *Log) batch(ctx context.Context, q stored.Query, visit func(*Message) bool) (last uint64, more bool, err error) {
	last, more, err = stored.Batch(ctx, l.conn, l.stream, q, l.timeout, visit)
	if err != nil {
		err = l.unavailable(err)
	}
	return last, more, err
}

func (l *Log) unavailable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return contracts.Errorf(contracts.CodeUnavailable, "stream %s cannot be reached: %v: retry", l.stream, err)
}
