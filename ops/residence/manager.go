package residence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts/trace"
	"github.com/pelton-run/pelton/runtime/memory"
)

// Trace hears what a manager does. Each function is optional, called by the goroutine that loads, and
// must not block.
type Trace struct {
	Loaded   func(model string, bytes int64, took time.Duration)
	Unloaded func(model string, bytes int64)
	Failed   func(model string, err error)
}

// Config of a [Manager].
type Config struct {
	Budget *memory.Budget   // of everything that models and their jobs take
	Now    func() time.Time // default time.Now
	Trace  Trace
	Logger *slog.Logger // default: discards
}

// Manager loads and unloads the models that share a budget. Add is for one goroutine, before Run.
type Manager struct {
	cfg    Config
	budget *memory.Budget
	kick   chan struct{}

	mu      sync.Mutex
	settled *sync.Cond // a seat is no longer busy
	seats   []*Seat
	wants   wants
}

// Retry is how long a model that does not load is left alone; it doubles with each failure in a row.
const (
	retryFirst = time.Second
	retryMost  = time.Minute
)

var errNoRoom = errors.New("not enough memory")

// New makes a manager without models.
func New(cfg Config) *Manager {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Trace = *trace.Full(&cfg.Trace)
	m := &Manager{cfg: cfg, budget: cfg.Budget, kick: make(chan struct{}, 1)}
	m.settled = sync.NewCond(&m.mu)
	return m
}

// Add loads a model, for which idle ones may be unloaded, and gives it a seat. The error says that it
// does not load, or that it does not fit beside the pinned models.
func (m *Manager) Add(ctx context.Context, model Model) (*Seat, error) {
	m.mu.Lock()
	s := &Seat{m: m, id: len(m.seats), model: model, size: model.Bytes}
	m.seats = append(m.seats, s)
	m.mu.Unlock()
	for range 2 { // the second time, its size is known
		m.mu.Lock()
		victims, ok := m.room(s, 0)
		m.mu.Unlock()
		if !ok {
			break
		}
		m.unload(victims)
		if err := m.load(ctx, s); !errors.Is(err, errNoRoom) {
			return s, err
		}
	}
	m.mu.Lock()
	there := m.unpinned(s, m.budget.Total())
	m.mu.Unlock()
	return s, fmt.Errorf("%w: it takes %s, and %s are there for models that are not pinned: give the worker more memory or pin fewer", errNoRoom,
		memory.FormatSize(s.Footprint()), memory.FormatSize(there))
}

// Run makes room and loads models until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	freed := m.budget.Watch()
	for {
		again := m.serve(ctx)
		timer := time.NewTimer(again)
		select {
		case <-freed:
		case <-m.kick:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// Bytes is what the models that are loaded, or being loaded, take beside their jobs.
func (m *Manager) Bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var n int64
	for _, s := range m.seats {
		if s.loaded != nil || s.busy {
			n += s.size
		}
	}
	return n
}

// serve does all that can be done for those who wait now, and says when to try again by itself.
func (m *Manager) serve(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		m.mu.Lock()
		s, victims, again := m.next()
		m.mu.Unlock()
		switch {
		case s == nil:
			return again
		case len(victims) > 0:
			m.unload(victims)
		default:
			if err := m.load(ctx, s); err != nil && !errors.Is(err, errNoRoom) {
				m.failed(s, err)
			}
		}
	}
	return time.Hour
}

// next finds the first in the queue for whom something can be done: victims to unload, or none when it
// can be loaded.
func (m *Manager) next() (_ *Seat, victims []int, again time.Duration) {
	again = time.Hour
	for _, w := range m.wants {
		s := m.seats[w.seat]
		if wait := s.retry.Sub(m.cfg.Now()); wait > 0 {
			again = min(again, wait)
			continue
		}
		if s.loaded != nil && !m.urgent(w) {
			continue
		}
		victims, ok := m.room(s, min(w.bytes, m.total(s)))
		if ok && (len(victims) > 0 || s.loaded == nil) {
			return s, victims, 0
		}
	}
	return nil, nil, again
}

// urgent tells whether models are unloaded so that a job of a loaded one can start, which would get its
// memory by waiting for other jobs to end: only when it has waited long, or when that is not enough.
func (m *Manager) urgent(w want) bool {
	var jobs int64
	for _, s := range m.seats {
		jobs += s.reserved
	}
	return w.passed >= Patience || w.bytes > m.budget.Free()+jobs
}

// room finds the idle models to unload so that a seat's model, if it is asleep, and jobs of so many
// bytes fit.
func (m *Manager) room(s *Seat, bytes int64) (victims []int, ok bool) {
	need := bytes + m.budget.Reserved() - m.budget.Total()
	if s.loaded == nil {
		need += s.size
	}
	if need <= 0 {
		return nil, true
	}
	return Victims(m.idle(s), need)
}

// idle lists the models that may be unloaded for a seat. One whose job waits too is among them if it waits for less long,
// or two that need each other's memory would wait for ever.
func (m *Manager) idle(s *Seat) (idle []Candidate) {
	for _, o := range m.seats {
		if o != s && o.loaded != nil && !o.busy && !o.closed && !o.model.Pinned && o.reserved == 0 && !m.wants.before(o.id, s.id) {
			idle = append(idle, Candidate{Seat: o.id, Bytes: o.size, Load: o.took, Uses: o.uses.now(m.cfg.Now())})
		}
	}
	return idle
}

// total is what the jobs of a seat could have together.
func (m *Manager) total(s *Seat) int64 { return m.left(s, m.budget.Total()) }

// left is what of a total is left for the jobs of a seat.
func (m *Manager) left(s *Seat, total int64) int64 { return max(m.unpinned(s, total)-s.size, 0) }

// unpinned is what of a total other models that stay leave for a seat and its jobs.
func (m *Manager) unpinned(s *Seat, total int64) int64 {
	for _, o := range m.seats {
		if o != s && o.model.Pinned && !o.closed {
			total -= o.size
		}
	}
	return max(total, 0)
}

// held tells whether a seat takes no new job, because another has waited too long.
func (m *Manager) held(s *Seat) bool {
	for _, w := range m.wants {
		if w.passed >= Patience && m.total(m.seats[w.seat]) > 0 && m.seats[w.seat].retry.IsZero() {
			return w.seat != s.id
		}
	}
	return false
}

func (m *Manager) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// load opens a seat's model. errNoRoom means that it took more than was thought, and is closed again.
func (m *Manager) load(ctx context.Context, s *Seat) error {
	m.mu.Lock()
	guess, first := s.size, s.took == 0
	if s.closed || s.loaded != nil || !m.budget.Reserve(guess) {
		m.mu.Unlock()
		return errNoRoom
	}
	s.busy = true
	m.mu.Unlock()
	start := time.Now()
	loaded, err := s.model.Open(ctx)
	took := time.Since(start)
	size := guess
	if err == nil && first { // later, others' jobs would disturb the measurement
		weights, arena := loaded.Footprint()
		size = max(weights, 0) + max(arena, 0)
		if !m.budget.Resize(guess, size) {
			err = errors.Join(errNoRoom, loaded.Shutdown())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.busy, s.size = false, size
	m.settled.Broadcast()
	if err != nil {
		m.budget.Release(guess)
		return err
	}
	s.loaded, s.took, s.failures, s.retry = loaded, took, 0, time.Time{}
	m.budget.Notify()
	m.cfg.Trace.Loaded(s.model.Name, size, took)
	m.cfg.Logger.Info("model loaded", "model", s.model.Name, "bytes", size, "took", took)
	return nil
}

func (m *Manager) unload(victims []int) {
	for _, id := range victims {
		m.mu.Lock()
		s := m.seats[id]
		loaded := s.loaded
		if loaded == nil || s.reserved > 0 || s.busy || s.closed {
			m.mu.Unlock()
			continue
		}
		s.loaded, s.busy = nil, true
		m.mu.Unlock()
		if err := loaded.Shutdown(); err != nil {
			m.cfg.Logger.Error("model is not unloaded cleanly", "model", s.model.Name, "err", err)
		}
		m.mu.Lock()
		s.busy = false
		m.settled.Broadcast()
		m.budget.Release(s.size)
		m.mu.Unlock()
		m.cfg.Trace.Unloaded(s.model.Name, s.size)
		m.cfg.Logger.Info("model unloaded", "model", s.model.Name, "bytes", s.size)
	}
}

// failed leaves a model that does not load alone for a while.
func (m *Manager) failed(s *Seat, err error) {
	m.mu.Lock()
	s.failures++
	s.retry = m.cfg.Now().Add(min(retryFirst<<min(s.failures-1, 10), retryMost))
	m.mu.Unlock()
	m.cfg.Trace.Failed(s.model.Name, err)
	m.cfg.Logger.Error("model does not load", "model", s.model.Name, "failures", s.failures, "err", err)
}
