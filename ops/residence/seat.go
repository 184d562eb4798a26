package residence

import (
	"context"
	"time"
)

// Model is what a seat loads.
type Model struct {
	Name   string
	Pinned bool  // never unloaded
	Bytes  int64 // guess of what it takes, before it was loaded for the first time
	Open   func(context.Context) (Loaded, error)
}

// Loaded is a model in memory.
type Loaded interface {
	// Footprint is what it takes beside its jobs, in bytes.
	Footprint() (weights, arena int64)
	Shutdown() error
}

// Seat is a model's part in the shared memory, for one engine. It implements intake.Bytes and
// intake.Shared. Safe from any goroutine.
type Seat struct {
	m     *Manager
	id    int
	model Model

	// Guarded by m.mu.
	loaded   Loaded // nil while asleep
	busy     bool   // being loaded or unloaded
	closed   bool
	size     int64 // bytes that it takes, as measured; a guess before
	took     time.Duration
	reserved int64 // bytes of its jobs
	uses     uses
	failures int
	retry    time.Time // of a load that failed
}

// Loaded is the model in memory, nil while it is asleep. It may be unloaded as soon as no job has a
// reservation.
func (s *Seat) Loaded() Loaded {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.loaded
}

// Footprint is what the model takes while it is loaded, in bytes.
func (s *Seat) Footprint() int64 {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.size
}

// Total is what its jobs could have together if nothing but it and the pinned models were loaded.
func (s *Seat) Total() int64 {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.m.total(s)
}

// Size is what Total is but for a while, see memory.Budget.
func (s *Seat) Size() int64 {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.m.left(s, s.m.budget.Size())
}

// Free is what its jobs may reserve now, or could after a Want by which it is loaded and idle models
// are unloaded.
func (s *Seat) Free() int64 {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	switch {
	case s.loaded == nil:
		return s.m.total(s)
	case s.m.held(s):
		return 0
	}
	free := s.m.budget.Free()
	for _, c := range s.m.idle(s) {
		free += c.Bytes
	}
	return min(free, s.m.total(s))
}

// Resize turns a reservation of its jobs into another. None is given while the model is asleep.
func (s *Seat) Resize(before, after int64) bool { return s.resize(before, after, s.m.budget.Resize) }

// Promise is Resize from nothing for a job that may come, see memory.Budget.
func (s *Seat) Promise(bytes int64) bool {
	return s.resize(0, bytes, func(_, after int64) bool { return s.m.budget.Promise(after) })
}

// Redeem is Resize of a promise.
func (s *Seat) Redeem(before, after int64) bool { return s.resize(before, after, s.m.budget.Redeem) }

func (s *Seat) resize(before, after int64, how func(before, after int64) bool) bool {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if after > before && s.loaded == nil || !how(before, after) {
		return false
	}
	s.reserved += after - before
	if s.m.wants.served(s.id, after-before) {
		s.m.budget.Notify() // others may have been held for it
	}
	return true
}

// Started notes that a job has its memory, once for each: pulls reserve on suspicion, and choices end one by one.
func (s *Seat) Started() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.uses.add(s.m.cfg.Now())
	s.m.wants.started(s.id)
}

// Watch is a new channel that carries a value when more may have become free.
func (s *Seat) Watch() <-chan struct{} { return s.m.budget.Watch() }

// Awake tells whether the model is loaded.
func (s *Seat) Awake() bool { return s.Loaded() != nil }

// Want says that a job waits for so many bytes, 0 for none. If the model is asleep, it is loaded when
// there is room.
func (s *Seat) Want(bytes int64) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.closed {
		return
	}
	if s.m.wants.set(s.id, bytes) {
		s.m.wake()
		if bytes == 0 {
			s.m.budget.Notify() // others may have been held for it
		}
	}
}

// Close unloads the model for good. Its jobs have ended.
func (s *Seat) Close() error {
	s.m.mu.Lock()
	for s.busy {
		s.m.settled.Wait()
	}
	loaded := s.loaded
	s.closed, s.loaded = true, nil
	s.m.wants.set(s.id, 0)
	s.m.mu.Unlock()
	if loaded == nil {
		return nil
	}
	err := loaded.Shutdown()
	s.m.budget.Release(s.size)
	return err
}

// Abandon leaves the model as it is for good: a call to it never came back.
func (s *Seat) Abandon() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.closed = true
	s.m.wants.set(s.id, 0)
}
