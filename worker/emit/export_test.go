package emit

// NewStopper makes what ends a choice's text.
func NewStopper(stops []string) *stopper { return newStopper(stops) }

// Stopped reports whether a stop string was seen.
func (s *stopper) Stopped() bool { return s.stopped }
