package relay

import (
	"context"
	"iter"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
)

// refillWaits are the pauses before OUT is asked again for records that are known to exist: a replica
// may answer before it has them.
var refillWaits = []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, time.Second, 2 * time.Second}

// soon is after how much silence a reader looks into OUT again that has just read it: the replica that
// answered may have been behind what was live before the reader listened.
const soon = time.Second

// Reader reads one job's stream. It belongs to one goroutine.
//
//	buffering ──Chunks──▶ live ◀──▶ refilling (records missing, buffer overflowed, doubt, idle)
//	                        └─▶ ended: final record, error, or the caller left
type Reader struct {
	// Vanished is asked when OUT stays empty; its error ends the stream. Optional; set it before Chunks.
	Vanished func(ctx context.Context) error

	relay       *Relay
	tenant, job string
	live, out   string // subjects
	buffer      chan record
	wake        chan struct{} // signals lost
	lost        atomic.Bool   // records may be missing: look into OUT
	stop        func() bool
	sequence    stream.Sequencer
}

// lose notes that records may be missing. It may be called from any goroutine.
func (r *Reader) lose() {
	r.lost.Store(true)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Replay makes the reader begin with what OUT holds, when it was opened without.
func (r *Reader) Replay() { r.lose() }

// Close unregisters the reader. It may be called more than once.
func (r *Reader) Close() {
	r.stop()
	r.unregister()
}

func (r *Reader) unregister() { r.relay.remove(r) }

// Chunks yields the pieces and the final record in order, each once, and ends after the final record,
// or with one [*contracts.Error]: the stream cannot be read (CodeUnavailable), records are no longer
// kept or the job is gone (CodeNotFound), a record is damaged (CodeInternal), or ctx ended. It can be
// ranged over once; the reader is closed when it ends or is left.
func (r *Reader) Chunks(ctx context.Context) iter.Seq2[*contracts.Chunk, error] {
	return func(yield func(*contracts.Chunk, error) bool) {
		defer r.Close()
		idle := time.NewTicker(r.relay.cfg.Idle)
		defer idle.Stop()
		out := &sink{yield: yield}
		for !out.left && !r.sequence.Done() {
			if err := r.step(ctx, idle, out); err != nil {
				if !out.left {
					yield(nil, contracts.AsError(err))
				}
				return
			}
		}
	}
}

// AwaitFinal returns when a live record that looks final arrived or the patience is over; it is an error
// only when ctx or the relay ended. It decides nothing: the caller looks into OUT. Not to be mixed with
// Chunks.
func (r *Reader) AwaitFinal(ctx context.Context, patience time.Duration) error {
	over := time.NewTimer(patience)
	defer over.Stop()
	for {
		select {
		case rec := <-r.buffer:
			var c contracts.Chunk
			if contracts.Decode(rec.data, &c) == nil && c.Final() {
				return nil
			}
		case <-r.wake:
			return nil
		case <-over.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.relay.done:
			return errClosed
		}
	}
}

// sink hands chunks to the caller until it leaves.
type sink struct {
	yield func(*contracts.Chunk, error) bool
	left  bool
}

func (s *sink) emit(c *contracts.Chunk) {
	if c != nil && !s.left && !s.yield(c, nil) {
		s.left = true
	}
}

// step waits for one event and handles it.
func (r *Reader) step(ctx context.Context, idle *time.Ticker, out *sink) error {
	if r.lost.Swap(false) {
		idle.Reset(min(soon, r.relay.cfg.Idle))
		return r.refill(ctx, 0, out)
	}
	select {
	case rec := <-r.buffer:
		idle.Reset(r.relay.cfg.Idle)
		return r.take(ctx, rec, out)
	case <-r.wake:
		return nil
	case <-idle.C:
		idle.Reset(r.relay.cfg.Idle)
		return r.idle(ctx, out)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.relay.done:
		return errClosed
	}
}

// take hands a live record on, after the missing ones before it.
func (r *Reader) take(ctx context.Context, rec record, out *sink) error {
	var c contracts.Chunk
	if err := contracts.Decode(rec.data, &c); err != nil {
		return r.refill(ctx, rec.seq, out) // OUT has the truth about a damaged live record
	}
	emit, gap := r.sequence.NextAt(&c, rec.seq, rec.last)
	if gap {
		return r.refill(ctx, rec.seq, out)
	}
	return r.hand(emit, out)
}

// hand hands a chunk on, unless it ends a stream that is not what the worker wrote.
func (r *Reader) hand(c *contracts.Chunk, out *sink) error {
	if err := r.sequence.Err(); err != nil {
		return err
	}
	out.emit(c)
	return nil
}

// refill reads OUT from where the sequence stands, at least up to the sequence upTo, which is known to
// exist. It is patient with a broker that is just coming back.
func (r *Reader) refill(ctx context.Context, upTo uint64, out *sink) error {
	var fault error
	for _, wait := range refillWaits {
		if err := pause(ctx, wait); err != nil {
			return err
		}
		fault = r.replay(ctx, out)
		if fault != nil && contracts.CodeOf(fault) != contracts.CodeUnavailable {
			return fault
		}
		if fault == nil && (r.sequence.Seq() >= upTo || r.sequence.Done() || out.left) {
			return nil
		}
	}
	if fault != nil {
		return fault
	}
	return contracts.Errorf(contracts.CodeUnavailable, "record %d of job %s is not readable yet: retry", upTo, r.job)
}

// vanished asks whether the job is gone, as patiently as refill reads: one answer that is late ends no stream.
func (r *Reader) vanished(ctx context.Context) (err error) {
	for _, wait := range refillWaits {
		if err = pause(ctx, wait); err != nil {
			return err
		}
		if err = r.Vanished(ctx); contracts.CodeOf(err) != contracts.CodeUnavailable {
			return err
		}
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// replay hands on what OUT holds beyond the sequence. What cannot follow it may stand in the place of a lost
// tail of OUT: then all is compared by index.
func (r *Reader) replay(ctx context.Context, out *sink) error {
	start := r.sequence.Seq()
	var fault error
	var gap bool
	err := r.relay.cfg.Out.Read(ctx, r.out, start+1, func(m *Message) bool {
		var c contracts.Chunk
		if fault = contracts.Decode(m.Data, &c); fault != nil {
			fault = contracts.Errorf(contracts.CodeInternal, "record %d of job %s is damaged: %v", m.Seq, r.job, fault)
			return false
		}
		var emit *contracts.Chunk
		if emit, gap = r.sequence.ReplayAt(&c, m.Seq); gap {
			fault = contracts.Errorf(contracts.CodeNotFound, "records of job %s before %d are no longer kept", r.job, m.Seq)
			return false
		}
		fault = r.hand(emit, out)
		return fault == nil && !out.left && !r.sequence.Done()
	})
	if err != nil {
		return err
	}
	if gap && start > 0 {
		r.sequence.Rewind()
		return r.replay(ctx, out)
	}
	if fault == nil && start > 0 && r.sequence.Seq() > start && r.relay.cfg.Refilled != nil {
		r.relay.cfg.Refilled(r.tenant, r.job)
	}
	return fault
}

// idle looks into OUT after a silence: a live record may have been lost without a trace. When OUT has
// nothing of the job, or nothing any more, the job may be gone.
func (r *Reader) idle(ctx context.Context, out *sink) error {
	last, err := r.relay.cfg.Out.Last(ctx, r.out)
	switch {
	case contracts.CodeOf(err) == contracts.CodeUnavailable: // the broker is away: as patient as after a gap
		return r.refill(ctx, 0, out)
	case err != nil:
		return err
	case last == nil && r.Vanished != nil:
		return r.vanished(ctx)
	case last != nil && last.Seq < r.sequence.Seq(): // OUT lost its tail: compare by index
		r.sequence.Rewind()
	}
	return r.refill(ctx, 0, out)
}
