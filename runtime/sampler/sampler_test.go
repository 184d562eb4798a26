package sampler_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/sampler"
)

// Greedy sampling takes the first of the largest logits, whatever else is among them.
func TestGreedyIsTheFirstLargest(t *testing.T) {
	t.Parallel()
	inf := float32(math.Inf(1))
	odd := []float32{0, float32(math.Copysign(0, -1)), float32(math.NaN()), -float32(math.NaN()), inf, -inf, 1e-45, -1e-45, math.MaxFloat32, -math.MaxFloat32, 3, -3}
	rapid.Check(t, func(t *rapid.T) {
		logit := rapid.OneOf(rapid.SampledFrom(odd), rapid.Float32Range(-20, 20), rapid.Float32Range(-20, -1))
		logits := rapid.SliceOfN(logit, 0, 60).Draw(t, "logits")
		want, best := int32(0), -inf
		for i, l := range logits {
			if l > best {
				want, best = int32(i), l
			}
		}
		if got := sampler.New(sampler.Params{}, nil).Sample(logits, 0).Token; got != want {
			t.Fatalf("Sample(%v) = %d, want %d", logits, got, want)
		}
	})
}

func BenchmarkGreedy(b *testing.B) {
	logits := make([]float32, 49152)
	for i := range logits {
		logits[i] = float32(8 * math.Sin(float64(i)*0.7))
	}
	s := sampler.New(sampler.Params{}, nil)
	b.ReportAllocs()
	for b.Loop() {
		s.Sample(logits, 0)
	}
}

func TestGreedy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p    sampler.Params
		want bool
	}{
		"nothing":         {sampler.Params{}, true},
		"top-k":           {sampler.Params{TopK: 3, TopP: 0.5, Seed: 4}, true},
		"temperature":     {sampler.Params{Temperature: 0.1}, false},
		"almost none":     {sampler.Params{Temperature: 1e-9}, true},
		"bias":            {sampler.Params{LogitBias: map[int32]float32{1: 2}}, false},
		"penalty":         {sampler.Params{PresencePenalty: 1}, false},
		"repetition":      {sampler.Params{RepetitionPenalty: 1.1}, false},
		"log probability": {sampler.Params{Logprobs: true}, false},
	} {
		if got := sampler.New(c.p, []int32{1}).Greedy(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
