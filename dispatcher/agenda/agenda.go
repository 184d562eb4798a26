// Package agenda remembers the deadlines of jobs and calls for each when it has passed.
//
// It belongs to step 5 of the walk: dispatcher/publish.go adds what it puts into JetStream, and
// dispatcher/deadline.go ends what nobody took in time. It keeps no job alive and knows no stream.
package agenda

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

const (
	// most bounds the deadlines that are remembered, twice what the queue holds; near ones take the places of far
	// ones. Jobs beyond are found by a later search of the queue; until then the worker that gets one ends it.
	most = 200_000
	// atOnce is how many expired jobs are ended at the same time.
	atOnce = 16
	// later is when a job is looked at again whose expire says so.
	later = 5 * time.Second
	// look is how often the clock is looked at: it may be set, and timers stand still while a machine sleeps.
	look = 5 * time.Second
)

// due is a job and when it is looked at.
type due struct {
	tenant, job string
	at          time.Time
	place       int // in the heap
}

type dueHeap []*due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *dueHeap) Push(x any) {
	d := x.(*due)
	d.place = len(*h)
	*h = append(*h, d)
}
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return x
}

// Agenda calls expire for each added job when its deadline has passed. A job that started or ended by
// then is expire's to notice; when it returns true, the job is looked at again a little later. Safe for
// concurrent use.
type Agenda struct {
	expire func(ctx context.Context, tenant, job string) (again bool)
	added  chan struct{} // rings when an earlier deadline came
	now    func() time.Time

	mu    sync.Mutex
	heap  dueHeap
	known map[[2]string]*due
}

// New returns an empty agenda by a clock.
func New(now func() time.Time, expire func(ctx context.Context, tenant, job string) bool) *Agenda {
	return &Agenda{expire: expire, added: make(chan struct{}, 1), now: now, known: map[[2]string]*due{}}
}

// Add notes a job; deadline is in Unix milliseconds, 0 is none. Of two that are noted the earlier one counts.
func (a *Agenda) Add(tenant, job string, deadline int64) {
	if deadline > 0 {
		a.push(&due{tenant: tenant, job: job, at: time.UnixMilli(deadline)})
	}
}

// Remove forgets a job that ended.
func (a *Agenda) Remove(tenant, job string) {
	key := [2]string{tenant, job}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.known[key]; x != nil {
		heap.Remove(&a.heap, x.place)
		delete(a.known, key)
	}
}

func (a *Agenda) push(x *due) {
	key := [2]string{x.tenant, x.job}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch was := a.known[key]; {
	case was != nil && x.at.Before(was.at):
		was.at, x = x.at, was
		heap.Fix(&a.heap, was.place)
	case was != nil:
		return
	default:
		if len(a.heap) >= most {
			last := a.heap[len(a.heap)-1] // not the latest of all, but a late one
			if !x.at.Before(last.at) {
				return
			}
			heap.Remove(&a.heap, last.place)
			delete(a.known, [2]string{last.tenant, last.job})
		}
		a.known[key] = x
		heap.Push(&a.heap, x)
	}
	if a.heap[0] == x {
		select {
		case a.added <- struct{}{}:
		default:
		}
	}
}

// next takes a job whose time has come, or tells how long to wait for one.
func (a *Agenda) next(now time.Time) (ready *due, wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.heap) == 0 {
		return nil, look
	}
	if wait := a.heap[0].at.Sub(now); wait > 0 {
		return nil, min(wait, look)
	}
	x := heap.Pop(&a.heap).(*due)
	delete(a.known, [2]string{x.tenant, x.job})
	return x, 0
}

// Run serves until ctx ends, and returns when no expire is running any more.
func (a *Agenda) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	places := make(chan struct{}, atOnce)
	timer := time.NewTimer(look)
	defer timer.Stop()
	for {
		ready, wait := a.next(a.now())
		if ready == nil {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-a.added:
			case <-ctx.Done():
				return
			}
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		work.Go(func() {
			defer func() { <-places }()
			if a.expire(ctx, ready.tenant, ready.job) && ctx.Err() == nil {
				a.push(&due{tenant: ready.tenant, job: ready.job, at: a.now().Add(later)})
			}
		})
	}
}
