package contracts

import "math"

// StepSums sum up a worker's recent forward passes so that what a step takes can be fitted to
// milliseconds = a + b*prompt tokens + c*other rows, over one worker or, added up, over several. Each sum
// is over the same steps, of which older ones count less.
type StepSums struct {
	Budget int     `msgpack:"budget" json:"budget"` // most prompt tokens that the worker feeds in one step
	N      float64 `msgpack:"n" json:"n"`           // steps
	P      float64 `msgpack:"p" json:"p"`           // prompt tokens
	R      float64 `msgpack:"r" json:"r"`           // rows of one generated token
	T      float64 `msgpack:"t" json:"t"`           // milliseconds
	PP     float64 `msgpack:"pp" json:"pp"`         // products of two of them
	PR     float64 `msgpack:"pr" json:"pr"`
	RR     float64 `msgpack:"rr" json:"rr"`
	PT     float64 `msgpack:"pt" json:"pt"`
	RT     float64 `msgpack:"rt" json:"rt"`
	TT     float64 `msgpack:"tt" json:"tt"`
}

// Add counts one step after all others lost the share fade of their weight.
func (s *StepSums) Add(prompt, rows, ms, fade float64) {
	s.Sum(StepSums{N: 1, P: prompt, R: rows, T: ms, PP: prompt * prompt, PR: prompt * rows, RR: rows * rows,
		PT: prompt * ms, RT: rows * ms, TT: ms * ms}, 1-fade)
}

// Sum adds other steps after those of s were weighted by keep.
func (s *StepSums) Sum(o StepSums, keep float64) {
	for _, f := range [][2]*float64{{&s.N, &o.N}, {&s.P, &o.P}, {&s.R, &o.R}, {&s.T, &o.T}, {&s.PP, &o.PP}, {&s.PR, &o.PR},
		{&s.RR, &o.RR}, {&s.PT, &o.PT}, {&s.RT, &o.RT}, {&s.TT, &o.TT}} {
		*f[0] = *f[0]*keep + *f[1]
	}
}

// mostSum bounds the sums that are believed: of more than a year of steps, squared.
const mostSum = 1e24

// Sound tells whether the sums can be those of steps: numbers, none negative or beyond reason, and steps take
// time. Others would spoil the sums that they are added to.
func (s *StepSums) Sound() bool {
	for _, f := range []float64{s.N, s.P, s.R, s.T, s.PP, s.PR, s.RR, s.PT, s.RT, s.TT} {
		if !(f >= 0 && f <= mostSum) { // NaN is neither
			return false
		}
	}
	return s.Budget > 0 && s.Budget <= MaxMaxTokens && (s.N == 0 || s.T >= s.N*1e-6)
}

// enoughSteps is how many steps a fit must stand on to be believed.
const enoughSteps = 20

// StepFit says how long a step of a device takes: Step + PerToken*prompt tokens + PerRow*other rows.
type StepFit struct {
	Step     float64 // milliseconds of a step, whatever it holds
	PerToken float64 // milliseconds of a prompt token
	PerRow   float64 // milliseconds of a row that feeds one generated token
	Error    float64 // root mean square of what it is off by, as a share of the mean step
	Steps    float64 // weight of the steps that it stands on
}

// Known tells whether f stands on enough steps.
func (f StepFit) Known() bool { return f.Steps >= enoughSteps }

// Took is how many milliseconds a step takes that feeds so many prompt tokens beside so many rows.
func (f StepFit) Took(prompt, rows float64) float64 {
	return f.Step + f.PerToken*prompt + f.PerRow*rows
}

// Fit finds the constants by least squares, none of them negative: of the eight choices of constants that
// are not zero it takes the one that fits best. The zero StepFit for no steps.
func (s *StepSums) Fit() StepFit {
	if s.N <= 0 || s.T <= 0 {
		return StepFit{}
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
	return StepFit{Step: best[0], PerToken: best[1], PerRow: best[2], Steps: s.N, Error: math.Sqrt(max(0, least)/s.N) / (s.T / s.N)}
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
