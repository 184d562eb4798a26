package simulate

import "time"

// epoch is when every simulation begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is virtual time and what is due: a heap of events, of which those of one moment come in the order
// in which they were planned.
type clock struct {
	at    time.Duration // since epoch
	order uint64
	heap  []event
}

type event struct {
	at    time.Duration
	order uint64
	run   func()
}

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.order < o.order
}

// now is the time as the fleet's parts take it.
func (c *clock) now() time.Time { return epoch.Add(c.at) }

// after plans run for when d has passed.
func (c *clock) after(d time.Duration, run func()) {
	c.order++
	c.heap = append(c.heap, event{c.at + max(0, d), c.order, run})
	for i := len(c.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !c.heap[i].before(&c.heap[up]) {
			break
		}
		c.heap[i], c.heap[up] = c.heap[up], c.heap[i]
		i = up
	}
}

// every repeats run until it says no more.
func (c *clock) every(d time.Duration, run func() bool) {
	c.after(d, func() {
		if run() {
			c.every(d, run)
		}
	})
}

// step goes on to the next event, false when there is none.
func (c *clock) step() bool {
	last := len(c.heap) - 1
	if last < 0 {
		return false
	}
	e := c.heap[0]
	c.heap[0] = c.heap[last]
	c.heap[last] = event{}
	c.heap = c.heap[:last]
	for i := 0; ; {
		least := i
		for _, down := range [2]int{2*i + 1, 2*i + 2} {
			if down < last && c.heap[down].before(&c.heap[least]) {
				least = down
			}
		}
		if least == i {
			break
		}
		c.heap[i], c.heap[least] = c.heap[least], c.heap[i]
		i = least
	}
	c.at = e.at
	e.run()
	return true
}
