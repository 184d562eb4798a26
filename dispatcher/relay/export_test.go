package relay

// Readers is how many readers are open.
func (r *Relay) Readers() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	for _, readers := range r.readers {
		n += len(readers)
	}
	return n
}

// Buffered is how many live records wait for readers: at most Config.Buffer for each.
func (r *Relay) Buffered() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	for _, readers := range r.readers {
		for reader := range readers {
			n += len(reader.buffer)
		}
	}
	return n
}
