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
	// most bounds the deadlines that are remembered, twice what the queue holds. Jobs beyond are found by
	// a later search of the queue; until then the worker that gets one ends it.
	most = 200_000
	// atOnce is how many expired jobs are ended at the same time.
	atOnce = 16
	// later is when a job is looked at again whose expire says so.
	later = 5 * time.Second
)

// due is a job and when it is looked at.
type due struct {
	tenant, job string
	at          time.Time
}

type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// Agenda calls expire for each added job when its deadline has passed. A job that started or ended by
// then is expire's to notice; when it returns true, the job is looked at again a little later. Safe for
// concurrent use.
type Agenda struct {
	expire func(ctx context.Context, tenant, job string) (again bool)
	added  chan struct{} // rings when an earlier deadline came

	mu    sync.Mutex
	heap  dueHeap
	known map[[2]string]bool
}

// New returns an empty agenda.
func New(expire func(ctx context.Context, tenant, job string) bool) *Agenda {
	return &Agenda{expire: expire, added: make(chan struct{}, 1), known: map[[2]string]bool{}}
}

// Add notes a job; deadline is in Unix milliseconds, 0 is none. Adding it again changes nothing.
func (a *Agenda) Add(tenant, job string, deadline int64) {
	if deadline > 0 {
		a.push(due{tenant, job, time.UnixMilli(deadline)})
	}
}

func (a *Agenda) push(x due) {
	key := [2]string{x.tenant, x.job}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known[key] || len(a.heap) >= most {
		return
	}
	a.known[key] = true
	heap.Push(&a.heap, x)
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
		return nil, time.Hour
	}
	if wait := a.heap[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	x := heap.Pop(&a.heap).(due)
	delete(a.known, [2]string{x.tenant, x.job})
	return &x, 0
}

// Run serves until ctx ends, and returns when no expire is running any more.
func (a *Agenda) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	places := make(chan struct{}, atOnce)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		ready, wait := a.next(time.Now())
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
				a.push(due{ready.tenant, ready.job, time.Now().Add(later)})
			}
		})
	}
}
