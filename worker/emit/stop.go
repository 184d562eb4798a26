package emit

// stopper ends a text at the first of its stop strings. It sees the text in pieces and holds back no
// more than what may still turn out to be the start of a stop string, so the rest streams on at once.
//
// The stop string that ends first wins; of those that end at the same byte, the longest. The result is
// a pure function of the whole text, however it was cut. It belongs to one choice.
type stopper struct {
	stops   []stop
	held    string // text not yet returned
	stopped bool
}

// stop is one string with its Knuth-Morris-Pratt failure table.
type stop struct {
	text    string
	border  []int // border[i]: longest proper border of text[:i+1]
	matched int   // bytes of text that the end of the seen text matches
}

// newStopper returns a stopper for stops; empty strings among them are ignored.
func newStopper(stops []string) *stopper {
	s := &stopper{}
	for _, text := range stops {
		if text != "" {
			s.stops = append(s.stops, stop{text: text, border: borders(text)})
		}
	}
	return s
}

func borders(text string) []int {
	b := make([]int, len(text))
	for i, k := 1, 0; i < len(text); i++ {
		for k > 0 && text[i] != text[k] {
			k = b[k-1]
		}
		if text[i] == text[k] {
			k++
		}
		b[i] = k
	}
	return b
}

// advance takes the next byte of the text and reports whether the stop string ends there.
func (s *stop) advance(c byte) bool {
	for s.matched > 0 && s.text[s.matched] != c {
		s.matched = s.border[s.matched-1]
	}
	if s.text[s.matched] == c {
		s.matched++
	}
	return s.matched == len(s.text)
}

// Push adds text and returns what may be emitted now: everything before a stop string, if stopped, or
// everything that no stop string can begin in. After it stopped, it returns "", true.
func (s *stopper) Push(text string) (emit string, stopped bool) {
	if s.stopped {
		return "", true
	}
	if len(s.stops) == 0 {
		return text, false
	}
	all := s.held + text
	for i := len(s.held); i < len(all); i++ {
		longest := 0
		for k := range s.stops {
			if s.stops[k].advance(all[i]) {
				longest = max(longest, len(s.stops[k].text))
			}
		}
		if longest > 0 {
			s.stopped, s.held = true, ""
			return all[:i+1-longest], true
		}
	}
	hold := 0
	for k := range s.stops {
		hold = max(hold, s.stops[k].matched)
	}
	s.held = all[len(all)-hold:]
	return all[:len(all)-hold], false
}

// Flush ends the text and returns what was held back; nothing if it stopped.
func (s *stopper) Flush() string {
	held := s.held
	s.held = ""
	for k := range s.stops {
		s.stops[k].matched = 0
	}
	return held
}
