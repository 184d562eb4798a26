package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stored"
	"github.com/pelton-run/pelton/contracts/topology"
)

const (
	replayBatch   = 256             // records a request
	replayBytes   = 4 << 20         // bytes a request, about
	replayTimeout = 5 * time.Second // a record
)

// Headers of records that come from OUT.
const (
	headerSequence     = "Nats-Sequence"
	headerLastSequence = "Nats-Last-Sequence" // of the same subject
)

// errNoReplay says that OUT cannot be read over this connection, for whatever reason.
var errNoReplay = errors.New("the stream OUT cannot be read")

// record is a chunk with its sequence in OUT.
type record struct {
	chunk *contracts.Chunk
	seq   uint64
}

// replay reads the records of subj from sequence from on, in order, and gives each to take until that
// returns an error, which replay returns.
func (c *Client) replay(ctx context.Context, subj string, from uint64, take func(record) error) error {
	if !c.canReplay() {
		return errNoReplay
	}
	for {
		batch, more, err := c.replayBatch(ctx, subj, from)
		if err != nil {
			return err
		}
		for _, r := range batch {
			if err := take(r); err != nil {
				return err
			}
			from = r.seq + 1
		}
		if !more {
			return nil
		}
	}
}

// replayBatch reads one batch whole, so that a slow reader does not run into its time limit, and says
// whether records are left. The limit is for each record: over a slow line a batch takes as long as it takes.
func (c *Client) replayBatch(ctx context.Context, subj string, from uint64) (batch []record, more bool, err error) {
	watched, stop := c.watch(ctx, stored.Subject(topology.StreamOut))
	defer stop()
	var bad error
	q := stored.Query{Seq: from, NextFor: subj, Batch: replayBatch, MaxBytes: replayBytes}
	_, more, err = stored.Batch(watched, c.nc, topology.StreamOut, q, replayTimeout, func(m *stored.Message) bool {
		var r record
		if r, bad = parseRecord(m.Subject, m.Data, m.Seq); bad == nil {
			batch = append(batch, r)
		}
		return bad == nil
	})
	if err != nil {
		return nil, false, c.unread(ctx, watched, topology.StreamOut, err)
	}
	return batch, more, bad
}

// last is the sequence of the last record of a subject in a stream, 0 when there is none.
func (c *Client) last(ctx context.Context, stream, subj string) (uint64, error) {
	if !c.canReplay() {
		return 0, errNoReplay
	}
	limited, done := context.WithTimeoutCause(ctx, replayTimeout, errNoAnswer)
	defer done()
	watched, stop := c.watch(limited, stored.Subject(stream))
	defer stop()
	m, err := stored.One(watched, c.nc, stream, stored.Query{LastFor: subj})
	if err != nil {
		return 0, c.unread(ctx, watched, stream, err)
	}
	if m == nil {
		return 0, nil
	}
	return m.Seq, nil
}

// unread says why a direct get got no answer, and remembers when OUT is closed to these credentials.
func (c *Client) unread(ctx, watched context.Context, stream string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cause := context.Cause(watched)
	if cause == nil && errors.Is(err, context.DeadlineExceeded) { // of one record
		cause = errNoAnswer
	}
	if errors.Is(cause, errNoAnswer) {
		if denied := c.denied(nil, stored.Subject(stream)); denied != nil {
			cause = denied
		}
	}
	if stream == topology.StreamOut && contracts.CodeOf(cause) == contracts.CodePermissionDenied {
		c.noOut.Store(true)
	}
	if cause == nil {
		cause = err
	}
	return fmt.Errorf("%w: %w", errNoReplay, cause)
}

// parseRecord decodes a record; its sequence is 0 when it came without one.
func parseRecord(subj string, data []byte, seq uint64) (record, error) {
	var c contracts.Chunk
	if err := contracts.Decode(data, &c); err != nil {
		return record{}, fmt.Errorf("record on %s: %w", subj, err)
	}
	return record{&c, seq}, nil
}

func headerNumber(msg *nats.Msg, name string) uint64 {
	n, err := strconv.ParseUint(msg.Header.Get(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
