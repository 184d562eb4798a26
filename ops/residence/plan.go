package residence

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Patience is how many jobs of other models may start while one waits for memory.
const Patience = 32

// halfLife is how fast a past use of a model loses weight.
const halfLife = 10 * time.Minute

// Candidate is a loaded model that may be unloaded.
type Candidate struct {
	Seat  int
	Bytes int64         // that unloading frees
	Load  time.Duration // that loading it again takes
	Uses  float64       // jobs, recent ones weighing more
}

// cost is what a byte of memory that the candidate holds is worth.
func (c Candidate) cost() float64 { return c.Load.Seconds() * c.Uses / float64(max(c.Bytes, 1)) }

// Victims chooses the seats to unload so that need bytes become free, the cheapest first, and none that
// is not needed. It returns false when all of them together are not enough.
func Victims(idle []Candidate, need int64) ([]int, bool) {
	byCost := slices.Clone(idle)
	slices.SortStableFunc(byCost, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.cost(), b.cost()), cmp.Compare(b.Bytes, a.Bytes))
	})
	var chosen []Candidate
	for _, c := range byCost {
		if need <= 0 {
			break
		}
		chosen = append(chosen, c)
		need -= c.Bytes
	}
	if need > 0 {
		return nil, false
	}
	var out []int
	for _, c := range slices.Backward(chosen) { // the dearest first: it may stay if the others are enough
		if need+c.Bytes <= 0 {
			need += c.Bytes
			continue
		}
		out = append(out, c.Seat)
	}
	slices.Reverse(out)
	return out, true
}

// uses counts jobs, each of which weighs half as much after a half-life.
type uses struct {
	count float64
	at    time.Time
}

func (u *uses) add(now time.Time) { u.count, u.at = u.now(now)+1, now }

func (u *uses) now(now time.Time) float64 {
	return u.count * math.Exp2(-float64(now.Sub(u.at))/float64(halfLife))
}

// want is a seat whose job waits for memory.
type want struct {
	seat   int
	bytes  int64
	passed int // jobs of other seats that started meanwhile
}

// wants is the queue of those who wait, longest first.
type wants []want

// set makes a seat wait for so many bytes, 0 for none, and tells whether that is news. Its place and
// its patience stay.
func (w *wants) set(seat int, bytes int64) bool {
	i := slices.IndexFunc(*w, func(x want) bool { return x.seat == seat })
	switch {
	case i < 0 && bytes == 0:
		return false
	case i < 0:
		*w = append(*w, want{seat: seat, bytes: bytes})
	case bytes == 0:
		*w = slices.Delete(*w, i, i+1)
	default:
		changed := (*w)[i].bytes != bytes
		(*w)[i].bytes = bytes
		return changed
	}
	return true
}

// served takes a seat that got so many bytes out of the queue if it waited for no more, and tells
// whether it did.
func (w *wants) served(seat int, bytes int64) bool {
	i := slices.IndexFunc(*w, func(x want) bool { return x.seat == seat && bytes >= x.bytes })
	if i >= 0 {
		*w = slices.Delete(*w, i, i+1)
	}
	return i >= 0
}

// started notes that a seat's job took memory.
func (w wants) started(seat int) {
	for i := range w {
		if w[i].seat != seat {
			w[i].passed++
		}
	}
}

// before tells whether a seat waits, and for longer than another one, if that waits at all.
func (w wants) before(seat, other int) bool {
	i := slices.IndexFunc(w, func(x want) bool { return x.seat == seat || x.seat == other })
	return i >= 0 && w[i].seat == seat
}
