package contracts_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
)

// steps sums up steps of a device of three constants, off by noise (a share of each step).
func steps(rng *rand.Rand, n int, a, b, c, noise float64) contracts.StepSums {
	s := contracts.StepSums{Budget: 512}
	for range n {
		prompt, rows := float64(rng.IntN(513)), float64(rng.IntN(100))
		s.Add(prompt, rows, (a+b*prompt+c*rows)*(1+noise*rng.NormFloat64()), 0.002)
	}
	return s
}

func near(got, want, share float64) bool { return math.Abs(got-want) <= share*want+1e-9 }

func TestFitFindsTheConstants(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	sums := steps(rng, 200, 6.2, 0.02, 0.07, 0)
	exact := sums.Fit()
	if !near(exact.Step, 6.2, 1e-6) || !near(exact.PerToken, 0.02, 1e-6) || !near(exact.PerRow, 0.07, 1e-6) || exact.Error > 1e-4 || !exact.Known() {
		t.Errorf("without noise: %+v, want 6.2, 0.02, 0.07", exact)
	}
	sums = steps(rng, 2000, 6.2, 0.02, 0.07, 0.05)
	noisy := sums.Fit()
	if !near(noisy.Step, 6.2, 0.1) || !near(noisy.PerToken, 0.02, 0.1) || !near(noisy.PerRow, 0.07, 0.15) || !near(noisy.Error, 0.05, 0.3) {
		t.Errorf("with noise of 5 %%: %+v, want 6.2, 0.02, 0.07, error 0.05", noisy)
	}
	if f := (&contracts.StepSums{}).Fit(); f.Known() || f != (contracts.StepFit{}) {
		t.Errorf("of nothing: %+v", f)
	}
}

// Whatever was measured: no constant is negative, and the fit is never worse than the mean alone.
func TestFitIsSane(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := contracts.StepSums{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			s.Add(float64(rapid.IntRange(0, 600).Draw(t, "prompt")), float64(rapid.IntRange(0, 300).Draw(t, "rows")), rapid.Float64Range(0.01, 500).Draw(t, "ms"), 0.002)
		}
		f := s.Fit()
		if f.Step < 0 || f.PerToken < 0 || f.PerRow < 0 || math.IsNaN(f.Took(1, 1)) {
			t.Fatalf("%+v", f)
		}
		mean := s.T / s.N
		if alone := math.Sqrt(max(0, s.TT/s.N-mean*mean)) / mean; f.Error > alone+1e-3 {
			t.Fatalf("error %.4f, the mean alone has %.4f: %+v", f.Error, alone, f)
		}
	})
}
