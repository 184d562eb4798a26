package sampler_test

import (
	"math"
	"slices"
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
		"constraint":      {sampler.Params{Constraint: &only{}}, false},
	} {
		if got := sampler.New(c.p, []int32{1}).Greedy(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// only is a constraint to some tokens.
type only struct {
	tokens   []int32
	accepted []int32
}

func (o *only) Restrict(logits []float32) bool {
	for id := range logits {
		if !slices.Contains(o.tokens, int32(id)) {
			logits[id] = float32(math.Inf(-1))
		}
	}
	return len(o.tokens) > 0
}

func (o *only) Accept(token int32) bool {
	o.accepted = append(o.accepted, token)
	return slices.Contains(o.tokens, token)
}

func (o *only) Expect(n int) []int32 { return o.tokens[:min(n, len(o.tokens))] }

func TestConstraint(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]sampler.Params{
		"greedy": {}, "hot": {Temperature: 2, Seed: 3}, "cut": {Temperature: 1, TopK: 1, TopP: 0.1, MinP: 0.9},
		"against a bias": {LogitBias: map[int32]float32{0: 100, 2: -100}}, "penalties": {RepetitionPenalty: 2, PresencePenalty: 2},
	} {
		o := &only{tokens: []int32{2, 3}}
		p.Constraint, p.TopLogprobs = o, 2
		s := sampler.New(p, []int32{2})
		for position := range 20 {
			c := s.Sample([]float32{9, 8, 1, 0}, position)
			if c.Token != 2 && c.Token != 3 {
				t.Fatalf("%s: token %d", name, c.Token)
			}
			if want := sampler.New(sampler.Params{TopLogprobs: 2}, nil).Sample([]float32{9, 8, 1, 0}, 0); !slices.Equal(c.Top, want.Top) {
				t.Fatalf("%s: log probabilities %v, want the model's own, %v", name, c.Top, want.Top)
			}
			s.Accept(c.Token)
		}
		if len(o.accepted) != 20 {
			t.Errorf("%s: the constraint heard of %d tokens", name, len(o.accepted))
		}
		if got := s.Expect(1); !slices.Equal(got, []int32{2}) || sampler.New(sampler.Params{}, nil).Expect(1) != nil {
			t.Errorf("%s: %v is expected", name, got)
		}
		panics(t, name, func() { s.Accept(1) })
		o.tokens = nil
		panics(t, name, func() { s.Sample([]float32{1, 2}, 0) })
	}
}

func panics(t *testing.T, name string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", name)
		}
	}()
	f()
}
