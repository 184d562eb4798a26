package dispatcher

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

const (
	// maxDeadlines bounds the deadlines that are remembered, twice what the queue holds. Jobs beyond are
	// found by a later full scan; until then the worker that gets one ends it.
	maxDeadlines = 200_000
	// expireAtOnce is how many expired jobs are ended at the same time.
	expireAtOnce = 16
	// expireAgain is when an expired job is looked at again that a worker holds or that could not be ended.
	expireAgain = 5 * time.Second
	// fullScan is how many scans go on where the one before stopped until one begins at the first job.
	fullScan = 20
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

// deadlines calls expire for each added job when its deadline has passed. A job that started or ended
// by then is expire's to notice; when it returns true, the job is looked at again a little later.
type deadlines struct {
	expire func(ctx context.Context, tenant, job string) (again bool)
	added  chan struct{} // rings when an earlier deadline came

	mu    sync.Mutex
	heap  dueHeap
	known map[[2]string]bool
}

func newDeadlines(expire func(ctx context.Context, tenant, job string) bool) *deadlines {
	return &deadlines{expire: expire, added: make(chan struct{}, 1), known: map[[2]string]bool{}}
}

// add notes a job; deadline is in Unix milliseconds, 0 is none. Adding it again changes nothing.
func (d *deadlines) add(tenant, job string, deadline int64) {
	if deadline > 0 {
		d.push(due{tenant, job, time.UnixMilli(deadline)})
	}
}

func (d *deadlines) push(x due) {
	key := [2]string{x.tenant, x.job}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known[key] || len(d.heap) >= maxDeadlines {
		return
	}
	d.known[key] = true
	heap.Push(&d.heap, x)
	if d.heap[0] == x {
		select {
		case d.added <- struct{}{}:
		default:
		}
	}
}

// next takes a job whose time has come, or tells how long to wait for one.
func (d *deadlines) next(now time.Time) (ready *due, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.heap) == 0 {
		return nil, time.Hour
	}
	if wait := d.heap[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	x := heap.Pop(&d.heap).(due)
	delete(d.known, [2]string{x.tenant, x.job})
	return &x, 0
}

// run serves until ctx ends, and returns when no expire is running any more.
func (d *deadlines) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	places := make(chan struct{}, expireAtOnce)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		ready, wait := d.next(time.Now())
		if ready == nil {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-d.added:
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
			if d.expire(ctx, ready.tenant, ready.job) && ctx.Err() == nil {
				d.push(due{ready.tenant, ready.job, time.Now().Add(expireAgain)})
			}
		})
	}
}

// expire ends a job that no worker took before its deadline, or whose worker is gone. A running job is
// its worker's to end; it is looked at again in case that worker dies.
func (d *Dispatcher) expire(ctx context.Context, tenant, job string) (again bool) {
	last, err := d.out.Last(ctx, subject.Out(tenant, job))
	if err == nil && last != nil {
		if c, err := decodeRecord(last); err != nil || c.Final() {
			return false
		}
	}
	var s settlement
	if err == nil {
		s, err = d.settle(ctx, tenant, job, ending{contracts.FinishError, contracts.CodeDeadlineExceeded, "the deadline passed before a worker finished the job"},
			func(r records) bool { return d.orphaned(tenant, job, r, r.last.Time) })
	}
	if err != nil {
		if ctx.Err() == nil {
			d.log.Warn("expired job not ended, trying again", "tenant", tenant, "job", job, "error", err)
		}
		return true
	}
	if s == settled && d.trace.Expired != nil {
		d.trace.Expired(tenant, job)
	}
	return s == isHeld
}

// rescan looks for deadlines of queued jobs that other dispatchers took in, or this one before a
// restart: at once and then every Rescan, from where it stopped, now and then from the first job.
func (d *Dispatcher) rescan(ctx context.Context) {
	tick := time.NewTicker(d.cfg.Rescan)
	defer tick.Stop()
	seq := uint64(1)
	for round := 0; ; round++ {
		if round%fullScan == 0 {
			seq = 1
		}
		err := d.jobs.Read(ctx, subject.AllJobs, seq, func(m *relay.Message) bool {
			var a contracts.Admitted
			if contracts.Decode(m.Data, &a) == nil {
				d.deadlines.add(a.Job.Tenant, a.Job.ID, a.Job.Deadline)
			}
			seq = m.Seq + 1
			return ctx.Err() == nil
		})
		if err != nil && ctx.Err() == nil {
			d.log.Warn("queue not searched for deadlines", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
