package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

var (
	errLeft = errors.New("the reader left")
	errLost = errors.New("records are missing")
)

// reader is one pass over a Stream.
type reader struct {
	*Stream
	ctx   context.Context
	yield func(*contracts.Chunk, error) bool

	reconnects uint64    // of the connection when the pass began
	silent     int       // times in a row that nothing came for a while
	over       bool      // the job had ended when we asked
	away       time.Time // since when the broker does not answer
}

// run reads until the final record.
func (r *reader) run() error {
	r.reconnects = r.c.nc.Stats().Reconnects
	if r.attach {
		if err := r.refill(); err != nil {
			return err
		}
	}
	tick := time.NewTicker(min(r.c.idle, time.Second))
	defer tick.Stop()
	heard := time.Now()
	for !r.seq.Done() {
		var err error
		select {
		case <-r.ctx.Done():
			err = context.Cause(r.ctx)
		case msg := <-r.live:
			heard = time.Now()
			r.silent, r.over, r.away = 0, false, time.Time{}
			err = r.take(msg)
		case now := <-tick.C:
			if len(r.live) > 0 {
				break
			}
			if err = r.check(now.Sub(heard) >= r.c.idle); err == nil && now.Sub(heard) >= r.c.idle {
				heard = now
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hand gives a record to the consumer.
func (r *reader) hand(c *contracts.Chunk) error {
	if c == nil || (!c.Final() && c.Index <= r.after) {
		return nil
	}
	if err := r.seq.Err(); err != nil {
		return err
	}
	if !r.yield(c, nil) {
		return errLeft
	}
	return nil
}

// take handles a live record, after a refill if it does not follow what was seen.
func (r *reader) take(msg *nats.Msg) error {
	rec, err := parseRecord(msg.Subject, msg.Data, headerNumber(msg, headerSequence))
	if err != nil {
		return err
	}
	if rec.chunk.Job != r.job {
		return nil
	}
	last := headerNumber(msg, headerLastSequence)
	emit, gap := r.offer(rec, last)
	if gap {
		if emit, err = r.fill(rec, last); err != nil {
			return err
		}
	}
	r.reconnects = r.c.nc.Stats().Reconnects
	return r.hand(emit)
}

// fill reads from OUT what is missing before rec, then offers rec again. It is patient: a replica may
// lag behind, a broker may be electing its leader.
func (r *reader) fill(rec record, last uint64) (*contracts.Chunk, error) {
	end := time.Now().Add(r.c.timeout)
	wait := 10 * time.Millisecond
	for {
		err := r.refill()
		if err == nil {
			emit, gap := r.offer(rec, last)
			if !gap {
				return emit, nil
			}
			err = errLost
		} else if !errors.Is(err, errNoReplay) || !r.c.canReplay() {
			return nil, err
		}
		if time.Now().Add(wait).After(end) {
			return nil, err
		}
		if err := r.pause(wait); err != nil {
			return nil, err
		}
		wait = min(2*wait, time.Second)
	}
}

func (r *reader) offer(rec record, last uint64) (*contracts.Chunk, bool) {
	if rec.seq == 0 { // not republished by OUT
		return r.seq.Next(rec.chunk)
	}
	return r.seq.NextAt(rec.chunk, rec.seq, last)
}

func (r *reader) pause(d time.Duration) error {
	select {
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	case <-time.After(d):
		return nil
	}
}

// refill reads from OUT what follows the last seen record.
func (r *reader) refill() error {
	if n, err := r.sub.Dropped(); err == nil {
		r.dropped = n
	}
	err := r.replay(r.seq.Seq() + 1)
	if errors.Is(err, errLost) && r.seq.Seq() > 0 {
		r.seq.Rewind()
		err = r.replay(1)
	}
	if errors.Is(err, errNoReplay) {
		return fmt.Errorf("a gap of the stream after token %d: %w", r.seq.Tokens(0), err)
	}
	return err
}

func (r *reader) replay(from uint64) error {
	return r.c.replay(r.ctx, subject.Out(r.c.tenant, r.job), from, func(rec record) error {
		emit, gap := r.seq.ReplayAt(rec.chunk, rec.seq)
		if gap {
			return errLost
		}
		return r.hand(emit)
	})
}

// check runs when nothing arrives: it finds a closed connection and records that were dropped here and,
// after longer silence, records that never arrived.
func (r *reader) check(idle bool) error {
	if r.c.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	if n, err := r.sub.Dropped(); err == nil && n != r.dropped {
		return r.refill()
	}
	switch {
	case !idle:
		return nil
	case !r.c.nc.IsConnected():
		return r.unanswered(nats.ErrDisconnected)
	case !r.c.canReplay():
		r.away = time.Time{}
		if r.c.nc.Stats().Reconnects != r.reconnects {
			return fmt.Errorf("the connection was away and records may have been missed: %w", errNoReplay)
		}
		return r.ended()
	}
	if err := r.look(); errors.Is(err, errNoReplay) {
		return r.unanswered(err)
	} else if err != nil {
		return err
	}
	r.away = time.Time{}
	return nil
}

// look finds records that never arrived, and a job that is no more.
func (r *reader) look() error {
	seq, err := r.c.last(r.ctx, topology.StreamOut, subject.Out(r.c.tenant, r.job))
	switch {
	case err != nil:
		return err
	case seq == 0: // not begun yet, or no longer kept
		return r.exists()
	case seq == r.seq.Seq():
		return nil
	case seq < r.seq.Seq(): // OUT lost its tail: compare by index
		r.seq.Rewind()
	}
	return r.refill()
}

// unanswered is an error when the broker has not answered for longer than an outage may last.
func (r *reader) unanswered(err error) error {
	if r.away.IsZero() {
		r.away = time.Now()
	}
	if r.c.outage <= 0 || time.Since(r.away) < r.c.outage {
		return nil
	}
	return contracts.Errorf(contracts.CodeUnavailable, "the broker has not answered for %s (connection %s: %v): the job may wait, run or have ended; follow it again when the broker is back", r.c.outage, r.c.nc.Status(), err)
}

// ended asks a dispatcher, where OUT cannot be read: a broker that dies may have stored the final record
// and passed it on to nobody, and no record follows that would show the gap. What is still under way when
// the answer comes is there before the next silence. A job that waits is asked for ever more rarely.
func (r *reader) ended() error {
	r.silent++
	if !r.over && r.silent&(r.silent-1) != 0 && r.silent%16 != 0 {
		return nil
	}
	ctx, stop := context.WithTimeout(r.ctx, replayTimeout)
	defer stop()
	s, err := r.c.Status(ctx, r.job)
	gone := contracts.CodeOf(err) == contracts.CodeNotFound
	switch {
	case !gone && (err != nil || !s.State.Final()):
		return nil // nobody who knows can be asked, or it goes on
	case !r.over:
		r.over = true
		return nil
	case gone:
		return err
	}
	return fmt.Errorf("the job has ended and its last records were missed: %w", errNoReplay)
}
