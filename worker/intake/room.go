package intake

import (
	"context"
	"errors"
	"sync"

	"github.com/pelton-run/pelton/runtime/memory"
)

// ErrNeverFits: the job needs more than this worker has in all. Another worker may be larger.
var ErrNeverFits = errors.New("the job does not fit into this worker's memory")

// Room is what a worker can still take: KV bytes and slots. Safe from any goroutine.
type Room struct {
	budget *memory.Budget
	slots  int // in all

	mu        sync.Mutex // bytes and slots change together
	freeSlots int
	freed     chan struct{}
}

// NewRoom is an empty worker with so many KV bytes and slots (sequences at once).
func NewRoom(bytes int64, slots int) *Room {
	return &Room{budget: memory.NewBudget(bytes), slots: slots, freeSlots: slots, freed: make(chan struct{}, 1)}
}

// Total is the room of an empty worker.
func (r *Room) Total() (bytes int64, slots int) { return r.budget.Total(), r.slots }

// Free is what nobody has reserved.
func (r *Room) Free() (bytes int64, slots int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.budget.Free(), r.freeSlots
}

// Freed carries a value after room was given back.
func (r *Room) Freed() <-chan struct{} { return r.freed }

// Reserve takes bytes and slots, or nothing and returns nil.
func (r *Room) Reserve(bytes int64, slots int) *Reservation {
	v := &Reservation{room: r}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !v.resize(bytes, slots) {
		return nil
	}
	return v
}

// Reservation is what one job holds of a Room. Safe from any goroutine.
type Reservation struct {
	room  *Room
	bytes int64 // guarded by room.mu
	slots int
}

// resize makes v hold bytes and slots if that much is there; holding less always works. The room is
// locked.
func (v *Reservation) resize(bytes int64, slots int) bool {
	r := v.room
	ds := slots - v.slots
	if slots < 0 || ds > r.freeSlots || !r.budget.Resize(v.bytes, bytes) {
		return false
	}
	less := bytes < v.bytes || ds < 0
	r.freeSlots -= ds
	v.bytes, v.slots = bytes, slots
	if less {
		select {
		case r.freed <- struct{}{}:
		default:
		}
	}
	return true
}

// Fit makes v hold exactly bytes and slots. Less than before is given back at once; for more it waits
// until others gave enough back or ctx ends. Only one goroutine may wait: the one that also takes
// jobs, so that nothing else is taken meanwhile and the wait ends when the jobs that run now have
// ended. ErrNeverFits when the whole room is too small.
func (v *Reservation) Fit(ctx context.Context, bytes int64, slots int) error {
	if bytes > v.room.budget.Total() || slots > v.room.slots {
		return ErrNeverFits
	}
	for !v.try(bytes, slots) {
		select {
		case <-v.room.freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (v *Reservation) try(bytes int64, slots int) bool {
	v.room.mu.Lock()
	defer v.room.mu.Unlock()
	return v.resize(bytes, slots)
}

// Release gives part of v back: a sequence ended. What v does not hold is not given.
func (v *Reservation) Release(bytes int64, slots int) {
	v.room.mu.Lock()
	defer v.room.mu.Unlock()
	v.resize(max(0, v.bytes-bytes), max(0, v.slots-slots))
}

// Held is what v holds.
func (v *Reservation) Held() (bytes int64, slots int) {
	v.room.mu.Lock()
	defer v.room.mu.Unlock()
	return v.bytes, v.slots
}

// Close gives back all that v holds. It may be called more than once.
func (v *Reservation) Close() { v.try(0, 0) }
