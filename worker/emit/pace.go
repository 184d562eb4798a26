package emit

import (
	"sync"
	"time"
)

// What holds unless a worker's configuration says otherwise, beside [FlushInterval].
const (
	FlushMost  = 100 * time.Millisecond // what the interval grows to with the records of the fleet
	RecordRate = 2000                   // records a second of the whole fleet above which it grows
)

const (
	// paceWindow is how long records are counted before the interval is changed.
	paceWindow = 100 * time.Millisecond
	// paceStep is by how much the interval changes at once.
	paceStep = 1.5
	// paceShare is how many times as long as the broker takes to store a record a stream waits at least.
	paceShare = 8
	// paceKeeps is what a record leaves of what earlier ones told of that time.
	paceKeeps = 0.95
	// storeMost is what a record's time counts for at most: while the broker elects a leader it says nothing.
	storeMost = 250 * time.Millisecond
	// SlowMost is what the interval grows to while the broker is slow.
	SlowMost = 500 * time.Millisecond
)

// Pace says how long the records of streams wait for more tokens, by two signs of what the broker can bear.
// It numbers the records of the whole fleet, so what it answers to one worker tells all of them how many come
// a second: above the budget the interval grows, below it shrinks again. And the time that it takes to store a
// record is at most a ninth of a stream's: a broker that writes each record to three disks gets fewer, so that
// first tokens do not wait behind them. A first token never waits. Safe from any goroutine.
type Pace struct {
	least, most time.Duration
	budget      float64 // records a second, of the fleet

	mu       sync.Mutex
	interval time.Duration // by the records
	took     time.Duration // to store one, on average
	seq      uint64        // at the start of the window
	since    time.Time
}

// NewPace begins with the least interval.
func NewPace(least, most time.Duration, budget float64) *Pace {
	return &Pace{least: least, most: max(least, most), budget: budget, interval: least}
}

// Stored says that the broker stored a record under a number of its stream, and how long that took.
func (p *Pace) Stored(seq uint64, took time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took += time.Duration((1 - paceKeeps) * float64(min(took, storeMost)-p.took))
	span := now.Sub(p.since)
	if span < paceWindow {
		return
	}
	if span < 100*paceWindow && seq > p.seq { // else it is the first one, or one after a silence
		over := float64(seq-p.seq) / span.Seconds() / p.budget
		next := time.Duration(float64(p.interval) * min(paceStep, max(1/paceStep, over)))
		p.interval = min(p.most, max(p.least, next))
	}
	p.seq, p.since = seq, now
}

// Interval is the least time between two records of a choice now.
func (p *Pace) Interval() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.interval, min(SlowMost, paceShare*p.took))
}

// Calm tells whether the interval is at its least.
func (p *Pace) Calm() bool { return p.Interval() == p.least }
