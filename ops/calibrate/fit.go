package calibrate

import (
	"errors"
	"math"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sim"
)

// Result is a profile and how well it fits.
type Result struct {
	Profile sim.Profile
	Error   float64 // root mean square over the points of what the profile is off by, as a share of the step
	Worst   float64 // the largest of these
}

// constants are what is fitted, in seconds: of a step that reads the weights, of one that computes, of a
// prompt token, of a row, of a token that is held.
type constants [5]float64

const (
	reads = iota // C0 + Sched
	sched
	token
	row
	held
)

// terms are what the constants of a step are multiplied with; computes tells which of the two kinds it is.
func (p Point) terms(computes bool) (x constants) {
	x[held] = float64(p.Held)
	if computes {
		x[sched], x[token], x[row] = 1, float64(p.Prompt), float64(p.Rows)
	} else {
		x[reads] = 1
	}
	return x
}

func (c constants) of(x constants) (sum float64) {
	for i := range x {
		sum += c[i] * x[i]
	}
	return sum
}

// took is what the model says of a step: the longer of its two kinds.
func (c constants) took(p Point) float64 { return max(c.of(p.terms(false)), c.of(p.terms(true))) }

// off is the mean square of what c is off by, as a share of each step.
func (c constants) off(points []Point) float64 {
	sum := 0.0
	for _, p := range points {
		d := c.took(p)/p.Median().Seconds() - 1
		sum += d * d
	}
	return sum / float64(len(points))
}

// Fit fits the constants of [sim.Profile.Step] to the points by least squares of the relative error. Which
// steps are bound by reading the weights is tried out: those that feed up to so many tokens, for each
// number that occurs. A row costs what a prompt token does unless the points say otherwise.
func Fit(points []Point, info engine.Info, memory engine.Memory) (Result, error) {
	if len(points) < len(constants{}) {
		return Result{}, errors.New("too few kinds of steps were measured to fit a profile: give the worker more memory")
	}
	best, least := fit(points)
	alike := make([]Point, len(points)) // if a row costs what a prompt token does
	for i, p := range points {
		alike[i] = Point{Prompt: p.Prompt + p.Rows, Held: p.Held, Took: p.Took}
	}
	if one, off := fit(alike); math.Sqrt(least) > 0.8*math.Sqrt(off)-0.002 {
		best, least = one, off
		best[row] = best[token]
	}
	span := func(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
	r := Result{Error: math.Sqrt(least), Profile: sim.Profile{
		Name: info.Model, Variant: info.Variant, C0: span(max(0, best[reads]-best[sched])), Sched: span(best[sched]), PerToken: span(best[token]), PerRow: span(best[row]),
		KVBandwidth: float64(info.KVBytesPerToken) / max(best[held], 1e-15), KVBytesPerToken: info.KVBytesPerToken, KVMemory: memory.Budget,
		Jitter: spread(points), ContextLength: info.ContextLength,
	}}
	for _, p := range points {
		r.Worst = max(r.Worst, math.Abs(r.Profile.Step(p.Prompt, p.Rows, p.Held).Seconds()/p.Median().Seconds()-1))
	}
	return r, r.Profile.Validate()
}

// fit is the best of the fits for each knee, and its mean square.
func fit(points []Point) (best constants, least float64) {
	least = math.Inf(1)
	for _, knee := range points {
		small := func(p Point) bool { return p.Prompt+p.Rows <= knee.Prompt+knee.Rows }
		for range 20 {
			c := solve(points, small)
			if off := c.off(points); off < least*(1-1e-9) {
				best, least = c, off
			}
			small = func(p Point) bool { return c.of(p.terms(false)) > c.of(p.terms(true)) }
		}
	}
	return best, least
}

// solve is the least squares fit, none of the constants negative, when small says which steps read. Each
// constant in turn takes its best value until none changes (coordinate descent, which finds the least of
// such a sum).
func solve(points []Point, small func(Point) bool) (c constants) {
	var a [len(c)][len(c)]float64
	var b constants
	for _, p := range points {
		x, t := p.terms(!small(p)), p.Median().Seconds()
		for i := range x {
			b[i] += x[i] / t // of x/t against 1
			for k := range x {
				a[i][k] += x[i] * x[k] / (t * t)
			}
		}
	}
	for range 20_000 {
		changed := 0.0
		for i := range c {
			if a[i][i] == 0 {
				continue
			}
			rest := b[i]
			for k := range c {
				if k != i {
					rest -= a[i][k] * c[k]
				}
			}
			v := max(0, rest/a[i][i])
			changed = max(changed, math.Abs(v-c[i])/max(v, 1e-12))
			c[i] = v
		}
		if changed < 1e-10 {
			break
		}
	}
	return c
}
