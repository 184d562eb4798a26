package fleet

import (
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// DefaultTTL is how long a worker may be silent: five of its heartbeats.
const DefaultTTL = 5 * time.Second

// Watch keeps a [Registry] up to date from hb.*. Safe for concurrent use.
type Watch struct {
	ttl time.Duration

	mu       sync.RWMutex
	registry *Registry
	since    time.Time // heartbeats arrive without interruption since then; zero while they do not
	swept    time.Time // last Expire
}

// NewWatch returns a watch that has not begun to listen. A ttl of 0 is [DefaultTTL].
func NewWatch(ttl time.Duration) *Watch {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	return &Watch{ttl: ttl, registry: NewRegistry(ttl)}
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
	if now.Sub(w.swept) > w.ttl {
		w.swept = now
		w.registry.Expire(now)
	}
}

// Live lists the live workers by name.
func (w *Watch) Live() []contracts.Heartbeat {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.registry.Live(time.Now())
}

// Offer sums up the live workers of a model that take jobs.
func (w *Watch) Offer(model string) Offer {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.registry.Offer(model, time.Now())
}

// Holds tells whether a live worker says that it holds the job; true while that is not sure, because
// heartbeats were missed within the TTL.
func (w *Watch) Holds(tenant, job string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	now := time.Now()
	return w.since.IsZero() || now.Sub(w.since) <= w.ttl || w.registry.Holds(tenant, job, now)
}

// Dead tells whether a worker surely does not live: it was silent for the TTL while this watch
// listened.
func (w *Watch) Dead(worker string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	now := time.Now()
	return !w.since.IsZero() && now.Sub(w.since) > w.ttl && !w.registry.Alive(worker, now)
}
