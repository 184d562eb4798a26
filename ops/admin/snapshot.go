package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// chunkBytes is how much of a stream travels in one message, unless the broker takes less.
	chunkBytes = 128 << 10
	// stall is how long the broker may send nothing, or be silent about what it was sent, before a copy is
	// given up. It is its own patience with us, and some more.
	stall = 30 * time.Second
)

// taken is what the broker says of a stream when it begins to copy it.
type taken struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

// counts is what of a stream's state is shown.
type counts struct {
	Messages  uint64 `json:"messages"`
	Bytes     int64  `json:"bytes"`
	Consumers int    `json:"consumer_count"`
}

func (t taken) counts() (c counts, err error) {
	return c, json.Unmarshal(t.State, &c)
}

// snapshot writes a copy of a stream and its consumers to w, as the broker sends it, and reports how many
// bytes came of how many (before compression) there are.
func snapshot(ctx context.Context, nc *nats.Conn, stream string, w io.Writer, report func(done, total int64)) (t taken, err error) {
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return t, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, -1); err != nil { // the broker has at most 8 MiB under way
		return t, err
	}
	request := map[string]any{"deliver_subject": inbox, "jsck": true, "chunk_size": min(chunkBytes, nc.MaxPayload())}
	if err := call(ctx, nc, "STREAM.SNAPSHOT."+stream, request, &t); err != nil {
		return t, err
	}
	c, err := t.counts()
	if err != nil {
		return t, err
	}
	var done int64
	for n := 1; ; n++ {
		m, err := next(ctx, sub)
		if err != nil {
			return t, err
		}
		if len(m.Data) == 0 {
			report(c.Bytes, c.Bytes)
			return t, ended(m)
		}
		if err := inOrder(m, n); err != nil {
			return t, err
		}
		if _, err := w.Write(m.Data); err != nil {
			return t, err
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return t, err
			}
		}
		done += int64(len(m.Data))
		report(min(done, c.Bytes), c.Bytes)
	}
}

func next(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stall, fmt.Errorf("the broker sent nothing for %v: run it again to go on", stall))
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	return m, nil
}

// inOrder checks that no piece is missing: the last token of the reply subject counts them. The last one
// has none.
func inOrder(m *nats.Msg, want int) error {
	if m.Reply == "" {
		return nil
	}
	got, err := strconv.Atoi(m.Reply[strings.LastIndexByte(m.Reply, '.')+1:])
	if err != nil || got != want {
		return fmt.Errorf("piece %d of the stream arrived in place of piece %d: run it again", got, want)
	}
	return nil
}

// ended tells whether the empty last message says that all went well.
func ended(m *nats.Msg) error {
	if status := m.Header.Get("Status"); status != "" && status != "204" {
		return fmt.Errorf("the broker gave the copy up: %s %s", status, m.Header.Get("Description"))
	}
	return nil
}

// refill makes a stream of a copy: its configuration is config, its messages and consumers are what r
// holds.
func refill(ctx context.Context, nc *nats.Conn, stream string, config, state json.RawMessage, r io.Reader, report func(done int64)) error {
	var to struct {
		Subject string `json:"deliver_subject"`
	}
	if err := call(ctx, nc, "STREAM.RESTORE."+stream, map[string]any{"config": config, "state": state}, &to); err != nil {
		return err
	}
	piece, done := make([]byte, min(chunkBytes, nc.MaxPayload())), int64(0)
	for {
		n, err := io.ReadFull(r, piece)
		if n > 0 {
			if err := push(ctx, nc, to.Subject, piece[:n], stall); err != nil {
				return err
			}
			done += int64(n)
			report(done)
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return push(ctx, nc, to.Subject, nil, 10*stall) // the broker answers when all is in place
		case err != nil:
			return err
		}
	}
}

// push sends one piece and waits until it is taken. An answer with text is the result of the whole.
func push(ctx context.Context, nc *nats.Conn, subject string, piece []byte, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, piece)
	if err != nil {
		return unanswered(subject, err)
	}
	if len(m.Data) == 0 && len(piece) > 0 {
		return nil
	}
	return decode(m.Data, nil)
}
