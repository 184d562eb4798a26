package scaler

import (
	"cmp"
	"math"
	"slices"
)

// Forecast says how large a series will be some windows ahead, with a margin that it learns. What the last
// window had is hard to beat on the mean; what pays is the margin, an upper quantile of how the series grew
// lately. So it keeps several candidates, the last value and a damped trend (Holt) each with several
// quantiles of what they were off by, and answers with the one that would have cost least so far. Pure; not
// safe for concurrent use.
type Forecast struct {
	// Ahead is the number of windows between a decision and its effect; at least 1.
	Ahead int
	// Memory is how many windows are remembered; default 144.
	Memory int
	// Weight is how many times worse load is that nobody planned for than capacity that nobody needs;
	// default 4.
	Weight float64

	past         []float64
	level, trend float64
	bases        [2]base
}

// base is a way to guess, and what its guesses were off by.
type base struct {
	guesses []float64 // for each window that follows; the oldest first
	grown   []float64 // actual divided by guessed, of the windows that came
	margins [4]margin
}

// margin is a quantile of base.grown, and what planning by it would have cost.
type margin struct {
	plans []float64 // as base.guesses
	cost  float64
}

var quantiles = [4]float64{0.5, 0.75, 0.9, 0.97}

// Smoothing of the damped trend: of the level, of the trend, and how much of it is left a window later.
const (
	smoothLevel = 0.8
	smoothTrend = 0.2
	damping     = 0.8
	fade        = 0.98 // of costs, at each window
)

func (f *Forecast) withDefaults() {
	f.Ahead = max(1, f.Ahead)
	f.Memory = cmp.Or(f.Memory, 144)
	f.Weight = cmp.Or(f.Weight, 4)
}

// Add notes what the latest window had.
func (f *Forecast) Add(v float64) {
	f.withDefaults()
	for i := range f.bases {
		f.bases[i].judge(v, f)
	}
	if len(f.past) == 0 {
		f.level = v
	} else {
		before := f.level
		f.level = smoothLevel*v + (1-smoothLevel)*(f.level+damping*f.trend)
		f.trend = smoothTrend*(f.level-before) + (1-smoothTrend)*damping*f.trend
	}
	f.past = last(append(f.past, v), f.Memory)
	f.bases[0].plan(v)
	f.bases[1].plan(max(0, f.level+f.trend*damping*(1-math.Pow(damping, float64(f.Ahead)))/(1-damping)))
}

// judge compares what was guessed for this window with what it had.
func (b *base) judge(v float64, f *Forecast) {
	if len(b.guesses) < f.Ahead {
		return
	}
	if g := b.guesses[0]; g > 0 {
		b.grown = last(append(b.grown, v/g), f.Memory)
	}
	b.guesses = b.guesses[1:]
	for i := range b.margins {
		m := &b.margins[i]
		m.cost = m.cost*fade + f.Weight*max(0, v-m.plans[0]) + max(0, m.plans[0]-v)
		m.plans = m.plans[1:]
	}
}

// plan guesses for the window that is so far ahead.
func (b *base) plan(guess float64) {
	b.guesses = append(b.guesses, guess)
	sorted := slices.Sorted(slices.Values(b.grown))
	for i := range b.margins {
		b.margins[i].plans = append(b.margins[i].plans, guess*quantile(sorted, quantiles[i]))
	}
}

// Upper is what should be planned for the window that is Ahead windows after the last one. It is 0 before
// the first.
func (f *Forecast) Upper() float64 {
	best, upper := math.Inf(1), 0.0
	for i := range f.bases {
		for _, m := range f.bases[i].margins {
			if len(m.plans) > 0 && m.cost < best {
				best, upper = m.cost, m.plans[len(m.plans)-1]
			}
		}
	}
	return upper
}

// quantile of sorted values; 1 for none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 1
	}
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// last is the end of s of at most n elements.
func last(s []float64, n int) []float64 { return s[max(0, len(s)-n):] }
