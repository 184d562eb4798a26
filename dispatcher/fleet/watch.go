package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// HandOverEvery is how often a dispatcher looks for jobs whose worker is dead.
const HandOverEvery = 250 * time.Millisecond

// DefaultTTL is how long a worker may be silent: four of its heartbeats.
const DefaultTTL = 2 * time.Second

// Watch keeps a [Registry] and a [Book] up to date, from hb.* and from the records that it is shown. It
// is sure of a silence only while the broker answers the caller's probes. Safe for concurrent use.
type Watch struct {
	ttl time.Duration

	mu       sync.RWMutex
	registry *Registry
	book     *Book
	since    time.Time // the broker answers without interruption since then; zero while nobody listens
	answered time.Time // the last answer
	swept    time.Time // last Expire

	listed atomic.Pointer[listing] // stored under mu
}

// NewWatch returns a watch that has not begun to listen. A ttl of 0 is [DefaultTTL].
func NewWatch(ttl time.Duration) *Watch {
	ttl = cmp.Or(ttl, DefaultTTL)
	return &Watch{ttl: ttl, registry: NewRegistry(ttl), book: NewBook(ttl)}
}

// Subscribe begins to listen. The caller ends it by unsubscribing. A heartbeat that cannot be decoded,
// or that names another worker than its subject does, is ignored.
func (w *Watch) Subscribe(nc *nats.Conn) (*nats.Subscription, error) {
	sub, err := nc.Subscribe(subject.AllHeartbeats, w.observe)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject.AllHeartbeats, err)
	}
	w.Restart()
	return sub, nil
}

// Restart says that heartbeats may have been missed until now, as after a reconnect: for the TTL no
// worker is called dead.
func (w *Watch) Restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = time.Now()
	w.answered = w.since
}

// ProbeEvery is how often the broker is to be asked for an answer.
func (w *Watch) ProbeEvery() time.Duration { return w.ttl / 8 }

// Answered says that the broker answered a probe just now. After a gap of half the TTL nothing that was
// not heard before counts as silence.
func (w *Watch) Answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.since.IsZero() && now.Sub(w.answered) > w.ttl/2 {
		w.since = now
	}
	w.answered = now
}

// sure tells whether a worker that lives was heard of. The caller holds the lock.
func (w *Watch) sure(now time.Time) bool {
	return !w.since.IsZero() && now.Sub(w.since) > w.ttl && now.Sub(w.answered) <= w.ttl/2
}

// Record shows the watch a record of a job's stream.
func (w *Watch) Record(tenant, job string, c *contracts.Chunk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.book.Record(tenant, job, c, time.Now())
}

// Lost lists the jobs whose holder is dead, until they are forgotten.
func (w *Watch) Lost() []Holding {
	w.mu.RLock()
	defer w.mu.RUnlock()
	now := time.Now()
	if !w.sure(now) {
		return nil
	}
	return w.book.Of(w.registry.Dead(now))
}

// Ask finds out whether workers that are silent, and were slow lately, are still connected: who is not, is
// dead. It waits for the broker for an eighth of the TTL at most, and only when there are such workers.
func (w *Watch) Ask(ctx context.Context, nc *nats.Conn) {
	w.mu.RLock()
	names := w.registry.Suspects(time.Now())
	w.mu.RUnlock()
	ctx, cancel := context.WithTimeout(ctx, w.ttl/8)
	defer cancel()
	var asked sync.WaitGroup
	for _, name := range names {
		asked.Go(func() {
			// Workers ignore a word on this subject; the broker answers in their place when nobody listens.
			_, err := nc.RequestWithContext(ctx, subject.CtlRest(name), []byte("there?"))
			if errors.Is(err, nats.ErrNoResponders) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.registry.Gone(name, time.Now())
			}
		})
	}
	asked.Wait()
}

// Forget drops a holding that Lost listed.
func (w *Watch) Forget(h Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.book.Forget(h)
}

func (w *Watch) observe(m *nats.Msg) {
	var h contracts.Heartbeat
	if contracts.Decode(m.Data, &h) != nil || subject.Heartbeat(h.Worker) != m.Subject {
		return
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.registry.Observe(h, now)
	w.listed.Store(nil)
	w.book.Beat(h, now)
	if now.Sub(w.swept) > w.ttl {
		w.swept = now
		w.registry.Expire(now)
	}
}

// Live lists the live workers by name, as of a moment ago. The list is shared: nobody may change it.
func (w *Watch) Live() []contracts.Heartbeat {
	now := time.Now()
	if l := w.listed.Load(); l != nil && now.Before(l.until) {
		return l.live
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	l := &listing{w.registry.Live(now), now.Add(w.ttl / 100)}
	w.listed.Store(l)
	return l.live
}

// listing is what Live says until a time, or until a heartbeat comes.
type listing struct {
	live  []contracts.Heartbeat
	until time.Time
}

// Offer sums up the live workers of a model that take jobs.
func (w *Watch) Offer(model string) Offer {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.registry.Offer(model, time.Now())
}

// Holds tells whether a live worker says that it holds the job; true while that is not sure.
func (w *Watch) Holds(tenant, job string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	now := time.Now()
	return !w.sure(now) || w.registry.Holds(tenant, job, now)
}

// Dead tells whether a worker surely does not live: see [Registry.Dead].
func (w *Watch) Dead(worker string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	now := time.Now()
	return w.sure(now) && w.registry.Dead(now)(worker)
}
