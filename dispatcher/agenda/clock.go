package agenda

import (
	"sync/atomic"
	"time"
)

// Clock knows the broker's time beside the machine's, so that a machine whose clock is wrong ends no job early. The zero
// value knows the machine's alone. Safe for concurrent use.
type Clock struct{ told atomic.Pointer[told] }

// told is what the broker said that the time is, and when it was asked.
type told struct{ broker, own time.Time }

// Tell notes the broker's time, for which it was asked at a time of the machine, as time.Now gives it. It returns by
// how much the machine's clock is ahead of the broker's; up to how long the answer took, it is not known.
func (c *Clock) Tell(broker, asked time.Time) (ahead time.Duration) {
	c.told.Store(&told{broker, asked})
	return asked.Round(0).Sub(broker)
}

// Broker is the broker's time, at the latest.
func (c *Clock) Broker() time.Time {
	if t := c.told.Load(); t != nil {
		return t.broker.Add(time.Since(t.own))
	}
	return time.Now()
}

// Now is the earlier of the broker's time and the machine's: one of them is right.
func (c *Clock) Now() time.Time {
	own := time.Now()
	if broker := c.Broker(); broker.Before(own) {
		return broker
	}
	return own
}
