package cost

import (
	"math"

	"github.com/pelton-run/pelton/contracts"
)

// enough is how many steps a fit must stand on to be believed.
const enough = 20

// Fit says how long a step of a device takes: Step + PerToken*prompt tokens + PerRow*other rows.
type Fit struct {
	Step     float64 // milliseconds of a step, whatever it holds
	PerToken float64 // milliseconds of a prompt token
	PerRow   float64 // milliseconds of a row that feeds one generated token
	Error    float64 // root mean square of what it is off by, as a share of the mean step
	Steps    float64 // weight of the steps that it stands on
}

// Known tells whether f stands on enough steps.
func (f Fit) Known() bool { return f.Steps >= enough }

// Took is how many milliseconds a step takes that feeds so many prompt tokens beside so many rows.
func (f Fit) Took(prompt, rows float64) float64 { return f.Step + f.PerToken*prompt + f.PerRow*rows }

// Of fits the constants by least squares, none of them negative: of the eight choices of constants that
// are not zero it takes the one that fits best. The zero Fit for no steps.
func Of(s contracts.StepSums) Fit {
	if s.N <= 0 || s.T <= 0 {
		return Fit{}
	}
	a := [3][3]float64{{s.N, s.P, s.R}, {s.P, s.PP, s.PR}, {s.R, s.PR, s.RR}}
	b := [3]float64{s.T, s.PT, s.RT}
	best, least := [3]float64{}, math.Inf(1)
	for mask := 1; mask < 8; mask++ {
		x, ok := solve(a, b, mask)
		if rest := residual(a, b, s.TT, x); ok && rest < least*(1-1e-9) {
			best, least = x, rest
		}
	}
	return Fit{Step: best[0], PerToken: best[1], PerRow: best[2], Steps: s.N, Error: math.Sqrt(max(0, least)/s.N) / (s.T / s.N)}
}

// solve solves the rows and columns of a*x = b that mask names; false when there is no solution, or when a
// part of it is negative. A tiny ridge keeps measurements apart that always come together.
func solve(a [3][3]float64, b [3]float64, mask int) (x [3]float64, ok bool) {
	for i := range 3 {
		if mask&(1<<i) == 0 {
			a[i], b[i] = [3]float64{}, 0
			for k := range 3 {
				a[k][i] = 0
			}
			a[i][i] = 1
		} else {
			a[i][i] *= 1 + 1e-9
		}
	}
	for i := range 3 {
		if a[i][i] <= 0 {
			return x, false
		}
		for k := i + 1; k < 3; k++ {
			f := a[k][i] / a[i][i]
			for j := range 3 {
				a[k][j] -= f * a[i][j]
			}
			b[k] -= f * b[i]
		}
	}
	for i := 2; i >= 0; i-- {
		x[i] = b[i]
		for j := i + 1; j < 3; j++ {
			x[i] -= a[i][j] * x[j]
		}
		x[i] /= a[i][i]
		if x[i] < 0 || math.IsNaN(x[i]) || math.IsInf(x[i], 0) {
			return x, false
		}
	}
	return x, true
}

// residual is the sum of the squares of what x is off by.
func residual(a [3][3]float64, b [3]float64, tt float64, x [3]float64) float64 {
	rest := tt
	for i := range 3 {
		rest -= 2 * x[i] * b[i]
		for j := range 3 {
			rest += x[i] * a[i][j] * x[j]
		}
	}
	return rest
}
