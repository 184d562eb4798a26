// Package relay brings the records of a job's stream to those who read it: in order, each once,
// whatever was repeated or lost on the way.
//
// Step 13 of the walk: worker/emit wrote the records to the stream OUT, which republishes them on
// live.<tenant>.<job>; the next step is dispatcher/gateway, which writes them to an HTTP client. One
// wildcard subscription serves all readers of a dispatcher. Each reader has a bounded buffer: when it
// is full, records are dropped for that reader alone, which then refills from OUT by direct get, so
// that a slow reader costs neither memory nor another reader's time. contracts/stream decides what is
// new, stale or missing.
//
// The package writes no records and never cancels a job. A [Relay] is safe for concurrent use;
// a [Reader] belongs to one goroutine.
package relay

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// Bounds of the one subscription, before the routing: more than the callback can ever be behind.
const (
	pendingRecords = 256 << 10
	pendingBytes   = 128 << 20
)

// Config of a [Relay].
type Config struct {
	Conn   *nats.Conn
	Out    *Log          // the stream OUT
	Buffer int           // records that wait for one reader; default 256
	Idle   time.Duration // a reader that hears nothing for so long looks into OUT; default 10 s
	// Refilled is called when a reader was refilled from OUT because records were missing. Optional.
	Refilled func(tenant, job string)
	// Holder is called with the live subject and the data of each record that may say who holds a job:
	// claims, releases and final records, and seldom another one. It must return at once. Optional.
	Holder func(live string, data []byte)
	// Piece is called with the live subject of every other record. It must return at once. Optional.
	Piece func(live string)
}

// claimKey is in the data of every record that has a claim.
var claimKey = []byte("\xa5claim")

// Relay routes live records to readers.
type Relay struct {
	cfg  Config
	done chan struct{} // closed by Close

	mu      sync.RWMutex
	readers map[string]map[*Reader]struct{} // by live subject
	closed  bool
}

// record is a live record as it came, with its place in OUT.
type record struct {
	data      []byte
	seq, last uint64
}

// New returns a relay that does not listen yet.
func New(cfg Config) *Relay {
	cfg.Buffer = cmp.Or(cfg.Buffer, 256)
	cfg.Idle = cmp.Or(cfg.Idle, 10*time.Second)
	return &Relay{cfg: cfg, done: make(chan struct{}), readers: map[string]map[*Reader]struct{}{}}
}

// Subscribe begins to listen. The caller ends it by unsubscribing, then by Close.
func (r *Relay) Subscribe() (*nats.Subscription, error) {
	sub, err := r.cfg.Conn.Subscribe(subject.AllLive, r.route)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject.AllLive, err)
	}
	if err := sub.SetPendingLimits(pendingRecords, pendingBytes); err != nil {
		return nil, fmt.Errorf("pending limits of %s: %w", subject.AllLive, err)
	}
	return sub, nil
}

// Close ends every reader with CodeUnavailable.
func (r *Relay) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		close(r.done)
	}
}

// Doubt makes every reader look into OUT: call it when live records may have been lost, as after a
// reconnect or when the subscription dropped some.
func (r *Relay) Doubt() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, readers := range r.readers {
		for reader := range readers {
			reader.lose()
		}
	}
}

// Reading tells whether a reader of a job is open.
func (r *Relay) Reading(tenant, job string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.readers[subject.Live(tenant, job)]) > 0
}

// route runs in the subscription's goroutine: it never blocks and never decodes.
func (r *Relay) route(m *nats.Msg) {
	if m.Header.Get("Nats-Stream") == topology.StreamOut {
		r.watch(m)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	readers := r.readers[m.Subject]
	if len(readers) == 0 || m.Header.Get("Nats-Stream") != topology.StreamOut {
		return
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return
	}
	last, err := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64)
	if err != nil {
		return
	}
	for reader := range readers {
		select {
		case reader.buffer <- record{m.Data, seq, last}:
		default:
			reader.lose()
		}
	}
}

// watch shows a record to those who follow the whole fleet.
func (r *Relay) watch(m *nats.Msg) {
	switch {
	case bytes.Contains(m.Data, claimKey):
		if r.cfg.Holder != nil {
			r.cfg.Holder(m.Subject, m.Data)
		}
	case r.cfg.Piece != nil:
		r.cfg.Piece(m.Subject)
	}
}

// Open registers a reader of a job's stream; it buffers live records from now on. It must be closed.
// With replay it begins with what OUT holds. When ctx ends the reader is unregistered by itself.
func (r *Relay) Open(ctx context.Context, tenant, job string, replay bool) (*Reader, error) {
	reader := &Reader{
		relay: r, tenant: tenant, job: job, live: subject.Live(tenant, job), out: subject.Out(tenant, job),
		buffer: make(chan record, r.cfg.Buffer), wake: make(chan struct{}, 1),
	}
	if replay {
		reader.lose()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed
	}
	if r.readers[reader.live] == nil {
		r.readers[reader.live] = map[*Reader]struct{}{}
	}
	r.readers[reader.live][reader] = struct{}{}
	reader.stop = context.AfterFunc(ctx, reader.unregister)
	return reader, nil
}

func (r *Relay) remove(reader *Reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	readers := r.readers[reader.live]
	delete(readers, reader)
	if len(readers) == 0 {
		delete(r.readers, reader.live)
	}
}

var errClosed = contracts.Errorf(contracts.CodeUnavailable, "the dispatcher is stopping: go on at another one, or retry")
