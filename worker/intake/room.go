package intake

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrNeverFits: the job needs more than this worker has in all. Another worker may be larger.
var ErrNeverFits = errors.New("the job does not fit into this worker's memory")

// Bytes is the memory that a Room gives out; memory.Budget is one. Safe from any goroutine.
type Bytes interface {
	Total() int64           // what an empty worker could reserve now
	Size() int64            // what it could reserve again after a while, if Total is less for a while
	Free() int64            // what may be reserved now, or after a Want
	Watch() <-chan struct{} // a new channel that tells that bytes became free
	Books
}

// Books are the reservations of Bytes. What is not granted changes nothing.
type Books interface {
	Promise(bytes int64) bool        // reserves what is perhaps not needed
	Redeem(before, after int64) bool // turns a promise into a reservation
	Resize(before, after int64) bool // turns one reservation into another
}

// Shared is what Bytes may be besides: a part in memory that several models have together, in which
// this model's weights are not always loaded.
type Shared interface {
	// Awake tells whether the weights are loaded; without them, nothing can be reserved.
	Awake() bool
	// Want says how many bytes a job waits for, 0 for none, so that models are loaded and unloaded.
	Want(bytes int64)
	// Started says that a job has what it needs, once for each.
	Started()
}

// Room is what a worker can still take: KV bytes, slots, and prompts that it can soon feed. Safe from any
// goroutine.
type Room struct {
	bytes Bytes
	slots int // in all
	freed <-chan struct{}

	mu        sync.Mutex // bytes and slots change together
	freeSlots int
	prompts   int       // tokens of prompts that were taken and not fed yet, of each at most step
	step      int       // prompt tokens that are fed at once; 0 is no bound
	rest      time.Time // until when nothing is taken
	fed       chan struct{}
}

// How much a worker takes before it can feed it: two steps' worth of prompts, the next pull and claim take place
// while these run. More would wait here while other workers have time (simulated with four steps, 500 requests/s
// take 21 instead of 19 H100). Where steps are small, on a CPU, it takes some more, for the batch to have some to
// choose from. A prompt of several steps counts as one: it waits while shorter ones are fed.
const (
	stepsAhead  = 2
	tokensAhead = 256
)

// NewRoom is an empty worker with so many slots (sequences at once).
func NewRoom(bytes Bytes, slots int) *Room {
	return &Room{bytes: bytes, slots: slots, freeSlots: slots, freed: bytes.Watch(), fed: make(chan struct{}, 1)}
}

// Total is the room of an empty worker now.
func (r *Room) Total() (bytes int64, slots int) { return r.bytes.Total(), r.slots }

// Size is the room of an empty worker: what needs more will never fit.
func (r *Room) Size() (bytes int64, slots int) { return r.bytes.Size(), r.slots }

// Free is what may be reserved now.
func (r *Room) Free() (bytes int64, slots int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes.Free(), r.freeSlots
}

// Freed carries a value after room was given back.
func (r *Room) Freed() <-chan struct{} { return r.freed }

// Fed carries a value after so many prompts were fed that Takes has slots again.
func (r *Room) Fed() <-chan struct{} { return r.fed }

// Awake tells whether the model is in memory.
func (r *Room) Awake() bool {
	s, ok := r.bytes.(Shared)
	return !ok || s.Awake()
}

// Want says how many bytes a job waits for, 0 for none.
func (r *Room) Want(bytes int64) {
	if s, ok := r.bytes.(Shared); ok {
		s.Want(bytes)
	}
}

// Bound makes Takes say that there is no room while enough prompts wait, when so many tokens are fed in a step;
// 0 is no bound.
func (r *Room) Bound(step int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step = step
}

// full tells whether enough prompts wait. The room is locked.
func (r *Room) full() bool { return r.step > 0 && r.prompts >= max(stepsAhead*r.step, tokensAhead) }

// counts is how much of a prompt counts. The room is locked.
func (r *Room) counts(tokens int) int {
	if r.step > 0 {
		return min(tokens, r.step)
	}
	return tokens
}

// Rest makes Takes say until then that there is no room. Nobody is told when it is over: who waits looks
// now and then.
func (r *Room) Rest(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rest = until
}

// Takes is what may be taken now: what is free, and no slot while enough prompts wait. A prompt that
// waits here is no other worker's to feed, and an urgent one that comes later waits behind it.
func (r *Room) Takes(now time.Time) (bytes int64, slots int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full() || now.Before(r.rest) {
		return r.bytes.Free(), 0
	}
	return r.bytes.Free(), r.freeSlots
}

// Reserve takes bytes and slots for a job that may come, or nothing and returns nil. Until it is there, and made to
// fit, what is lent of the bytes stays lent: most questions for a job are answered with none.
func (r *Room) Reserve(bytes int64, slots int) *Reservation {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slots < 0 || slots > r.freeSlots || !r.bytes.Promise(bytes) {
		return nil
	}
	r.freeSlots -= slots
	return &Reservation{room: r, bytes: bytes, slots: slots, promised: true}
}

// Reservation is what one job holds of a Room. Safe from any goroutine.
type Reservation struct {
	room     *Room
	bytes    int64 // guarded by room.mu
	slots    int
	fed      int  // prompt tokens that wait to be fed and count
	promised bool // and nothing more
}

// Feed says that the job brought a prompt, of so many tokens.
func (v *Reservation) Feed(tokens int) {
	r := v.room
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.counts(tokens)
	v.fed += n
	r.prompts += n
}

// Fed says that a prompt of so many tokens is in the KV cache.
func (v *Reservation) Fed(tokens int) {
	v.room.mu.Lock()
	defer v.room.mu.Unlock()
	v.feed(v.room.counts(tokens))
}

// feed takes what v holds of so many counted tokens off what waits. The room is locked.
func (v *Reservation) feed(counted int) {
	r := v.room
	counted = min(counted, v.fed)
	before := r.full()
	v.fed -= counted
	r.prompts -= counted
	if before && !r.full() {
		select {
		case r.fed <- struct{}{}:
		default:
		}
	}
}

// resize makes v hold bytes and slots if that much is there; holding less always works. The room is
// locked.
func (v *Reservation) resize(bytes int64, slots int) bool {
	r := v.room
	ds, resize := slots-v.slots, r.bytes.Resize
	if v.promised {
		resize = r.bytes.Redeem
	}
	if slots < 0 || ds > r.freeSlots || !resize(v.bytes, bytes) {
		return false
	}
	r.freeSlots -= ds
	v.bytes, v.slots, v.promised = bytes, slots, false
	return true
}

// Fit makes v hold exactly bytes and slots. Less than before is given back at once; for more it waits
// until others gave enough back or ctx ends. While it waits it holds no bytes, so that two models that
// wait for a part of the same memory do not wait for each other. Only one goroutine may wait: the one
// that also takes jobs, so that nothing else is taken meanwhile and the wait ends when the jobs that
// run now have ended. ErrNeverFits when the whole room is too small.
func (v *Reservation) Fit(ctx context.Context, bytes int64, slots int) error {
	err := v.fit(ctx, bytes, slots)
	if s, ok := v.room.bytes.(Shared); ok && err == nil {
		s.Started()
	}
	return err
}

func (v *Reservation) fit(ctx context.Context, bytes int64, slots int) error {
	if v.Try(bytes, slots) {
		return nil
	}
	defer v.room.Want(0)
	for {
		if bytes > v.room.bytes.Size() || slots > v.room.slots {
			return ErrNeverFits
		}
		v.room.Want(bytes)
		v.Try(0, v.slots)
		if v.Try(bytes, slots) {
			return nil
		}
		select {
		case <-v.room.freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Try is Fit that does not wait: it tells whether v holds exactly bytes and slots now, and else changes nothing.
func (v *Reservation) Try(bytes int64, slots int) bool {
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
func (v *Reservation) Close() {
	v.room.mu.Lock()
	defer v.room.mu.Unlock()
	v.feed(v.fed)
	v.resize(0, 0)
}
