package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
)

const (
	replayBatch   = 256     // records a request
	replayBytes   = 4 << 20 // bytes a request, about
	replayTimeout = 2 * time.Second
)

// Headers of records that come from OUT, and of the ends of batches.
const (
	headerSequence     = "Nats-Sequence"
	headerLastSequence = "Nats-Last-Sequence" // of the same subject
	headerPending      = "Nats-Num-Pending"
	headerStatus       = "Status"
)

// errNoReplay says that OUT cannot be read over this connection, for whatever reason.
var errNoReplay = errors.New("the stream OUT cannot be read")

// getRequest is a direct get of JetStream (ADR-31).
type getRequest struct {
	Seq        uint64 `json:"seq,omitempty"`
	NextBySubj string `json:"next_by_subj,omitempty"`
	LastBySubj string `json:"last_by_subj,omitempty"`
	Batch      int    `json:"batch,omitempty"`
	MaxBytes   int    `json:"max_bytes,omitempty"`
}

func directGet(stream string) string { return "$JS.API.DIRECT.GET." + stream }

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
		batch, pending, err := c.replayBatch(ctx, subj, from)
		if err != nil {
			return err
		}
		for _, r := range batch {
			if err := take(r); err != nil {
				return err
			}
			from = r.seq + 1
		}
		if pending == 0 || len(batch) == 0 {
			return nil
		}
	}
}

// replayBatch reads one batch whole, so that a slow reader does not run into its time limit, and says
// how many records are left.
func (c *Client) replayBatch(ctx context.Context, subj string, from uint64) (batch []record, pending uint64, err error) {
	msgs := make(chan *nats.Msg, replayBatch+2)
	inbox := c.nc.NewInbox()
	sub, err := c.nc.ChanSubscribe(inbox, msgs)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errNoReplay, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	req, err := json.Marshal(getRequest{Seq: from, NextBySubj: subj, Batch: replayBatch, MaxBytes: replayBytes})
	if err != nil {
		return nil, 0, err
	}
	watched, stop := c.watch(ctx, directGet(topology.StreamOut), replayTimeout)
	defer stop()
	if err := c.nc.PublishRequest(directGet(topology.StreamOut), inbox, req); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errNoReplay, err)
	}
	for {
		select {
		case <-watched.Done():
			return nil, 0, c.unread(ctx, watched, topology.StreamOut, context.Cause(watched))
		case msg := <-msgs:
			if msg.Header.Get(headerStatus) != "" {
				pending, err := endOfBatch(msg)
				return batch, pending, err
			}
			r, err := parseRecord(msg)
			if err != nil {
				return nil, 0, err
			}
			batch = append(batch, r)
		}
	}
}

// endOfBatch reads the message that ends a batch.
func endOfBatch(msg *nats.Msg) (pending uint64, err error) {
	switch status := msg.Header.Get(headerStatus); status {
	case "204":
		return headerNumber(msg, headerPending), nil
	case "404":
		return 0, nil
	case "503":
		return 0, fmt.Errorf("%w: no JetStream, or no such stream, on this server", errNoReplay)
	default:
		return 0, fmt.Errorf("%w: status %s %s", errNoReplay, status, msg.Header.Get("Description"))
	}
}

// last is the sequence of the last record of a subject in a stream, 0 when there is none.
func (c *Client) last(ctx context.Context, stream, subj string) (uint64, error) {
	if !c.canReplay() {
		return 0, errNoReplay
	}
	req, err := json.Marshal(getRequest{LastBySubj: subj})
	if err != nil {
		return 0, err
	}
	watched, stop := c.watch(ctx, directGet(stream), replayTimeout)
	defer stop()
	msg, err := c.nc.RequestWithContext(watched, directGet(stream), req)
	if err != nil {
		return 0, c.unread(ctx, watched, stream, err)
	}
	if msg.Header.Get(headerStatus) != "" {
		_, err := endOfBatch(msg)
		return 0, err
	}
	return headerNumber(msg, headerSequence), nil
}

// unread says why a direct get got no answer, and remembers when OUT is closed to these credentials.
func (c *Client) unread(ctx, watched context.Context, stream string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cause := context.Cause(watched)
	if errors.Is(cause, errNoAnswer) {
		if denied := c.denied(nil, directGet(stream)); denied != nil {
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
func parseRecord(msg *nats.Msg) (record, error) {
	var c contracts.Chunk
	if err := contracts.Decode(msg.Data, &c); err != nil {
		return record{}, fmt.Errorf("record on %s: %w", msg.Subject, err)
	}
	return record{&c, headerNumber(msg, headerSequence)}, nil
}

func headerNumber(msg *nats.Msg, name string) uint64 {
	n, err := strconv.ParseUint(msg.Header.Get(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
