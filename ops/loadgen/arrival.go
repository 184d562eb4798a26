package loadgen

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Process is a random process of arrivals.
type Process struct {
	Kind string  // "poisson", "gamma" or "constant"
	Rate float64 // arrivals a second, above 0
	CV   float64 // coefficient of variation of the gaps, only of gamma: 1 is Poisson, above is burstier
}

// Validate tells what is wrong with p.
func (p Process) Validate() error {
	switch {
	case p.Kind != "poisson" && p.Kind != "gamma" && p.Kind != "constant":
		return fmt.Errorf("arrival %q: the processes are poisson, gamma and constant", p.Kind)
	case p.Rate <= 0 || math.IsInf(p.Rate, 0) || math.IsNaN(p.Rate):
		return fmt.Errorf("rate %v: it must be above 0", p.Rate)
	case p.Kind == "gamma" && (p.CV <= 0 || p.CV > 100 || math.IsNaN(p.CV)):
		return fmt.Errorf("cv %v: it must be above 0 and at most 100", p.CV)
	}
	return nil
}

// Draw returns the times of the arrivals before until, at most most of them (0: no bound).
func (p Process) Draw(rng *rand.Rand, until time.Duration, most int) []time.Duration {
	var out []time.Duration
	for at := 0.0; ; {
		at += p.gap(rng)
		if at >= until.Seconds() || (most > 0 && len(out) == most) { // in seconds: a gap may be longer than a Duration
			return out
		}
		out = append(out, time.Duration(at*float64(time.Second)))
	}
}

// gap is the time to the next arrival in seconds.
func (p Process) gap(rng *rand.Rand) float64 {
	switch p.Kind {
	case "gamma":
		return gamma(rng, 1/(p.CV*p.CV)) * p.CV * p.CV / p.Rate
	case "constant":
		return 1 / p.Rate
	}
	return rng.ExpFloat64() / p.Rate
}

// gamma draws from the Gamma distribution of a shape and scale 1 (Marsaglia and Tsang, 2000).
func gamma(rng *rand.Rand, shape float64) float64 {
	if shape < 1 { // boost: a draw of shape+1 times a power of a uniform number
		return gamma(rng, shape+1) * math.Pow(1-rng.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := math.Pow(1+c*x, 3)
		if v > 0 && math.Log(1-rng.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// weibull draws from the Weibull distribution of a shape and scale 1.
func weibull(rng *rand.Rand, shape float64) float64 {
	return math.Pow(rng.ExpFloat64(), 1/shape)
}
