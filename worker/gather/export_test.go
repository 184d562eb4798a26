package gather

// Waiting is how many calls wait; safe from any goroutine.
func (l *Loop) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}
