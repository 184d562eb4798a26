package chaos

import (
	"slices"
	"time"
)

// Gaps are the pauses that readers had when a job changed hands in the middle of its stream: from the
// last piece of one holder to the first of the next, by the reason of the change; "" is a holder that
// vanished without a word.
func (h *History) Gaps() map[string][]time.Duration {
	out := map[string][]time.Duration{}
	for _, records := range h.Out {
		var last Record // piece
		reason, held := "", false
		for _, r := range records {
			switch {
			case r.IsClaim() && r.Claim.Released != "":
				reason, held = string(r.Claim.Released), false
			case r.IsClaim():
				if held {
					reason = ""
				}
				held = true
			default:
				if last.Chunk != nil && last.Fence < r.Fence {
					out[reason] = append(out[reason], r.At.Sub(last.At))
				}
				last = r
			}
		}
	}
	return out
}

// Longest is the longest wait between two pieces that any reader had.
func (h *History) Longest() (longest time.Duration) {
	for _, readers := range h.Received {
		for _, r := range readers {
			longest = max(longest, r.Gap)
		}
	}
	return longest
}

// Quantile is the smallest of d that at least the share q of them do not exceed, 0 if there are none.
func Quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// Slope is how fast values grow: the least squares line through values taken at equal distances, over
// the whole of them.
func Slope(values []float64) float64 {
	n := float64(len(values))
	if n < 2 {
		return 0
	}
	var sx, sy, sxx, sxy float64
	for i, y := range values {
		x := float64(i)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx) * (n - 1)
}
