package node

import (
	"sync"
	"time"
)

// linesASecond is how many lines a second are logged of what clients can cause as often as they like, such as a
// refused publish.
const linesASecond = 10

// seldom counts them. The zero value is ready. Safe for concurrent use.
type seldom struct {
	mu    sync.Mutex
	since time.Time
	lines int
}

// pass tells whether a line may be logged now.
func (s *seldom) pass(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.since) >= time.Second {
		s.since, s.lines = now, 0
	}
	s.lines++
	return s.lines <= linesASecond
}
