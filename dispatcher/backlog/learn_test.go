package backlog

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestBias: what each first token loses on its way and by what factor the device is slower than it says are told
// apart, and both are forgotten.
func TestBias(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		way    time.Duration
		factor float64
	}{"as predicted": {0, 1}, "way": {40 * time.Millisecond, 1}, "factor": {0, 1.8}, "both": {30 * time.Millisecond, 1.4}, "faster": {0, 0.7}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(1, 1))
			now := time.Unix(1000, 0)
			var b bias
			for range 500 {
				now = now.Add(5 * time.Millisecond)
				predicted := time.Duration(50+rng.IntN(400)) * time.Millisecond
				noise := time.Duration(rng.NormFloat64() * float64(5*time.Millisecond))
				b.learn(predicted, c.way+time.Duration(c.factor*float64(predicted))+noise, now)
			}
			way, factor := b.fit()
			if (way-c.way).Abs() > 8*time.Millisecond || math.Abs(factor-c.factor) > 0.05 {
				t.Errorf("learned %v and %.2f, want %v and %.2f", way, factor, c.way, c.factor)
			}
			if back := b.raw(way + time.Duration(factor*float64(time.Second))); (back - time.Second).Abs() > time.Millisecond {
				t.Errorf("the raw prediction comes back as %v, want 1s", back)
			}
			b.learn(time.Millisecond, time.Millisecond, now.Add(2*time.Minute))
			if way, factor := b.fit(); way > time.Millisecond || math.Abs(factor-1) > 0.01 {
				t.Errorf("two minutes later it still says %v and %.2f", way, factor)
			}
		})
	}
}

// TestMargin: it grows until one first token in twenty is later than it allows, stays within its bounds, and is
// forgotten.
func TestMargin(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(2, 2))
	now := time.Unix(1000, 0)
	var m margin
	sum, n := 0.0, 0
	for i := range 4000 {
		now = now.Add(time.Millisecond)
		late := time.Duration(rng.Float64() * float64(40*time.Millisecond)) // evenly up to a fifth of the objective
		m.learn(Prediction{Class: "p2", Predicted: 100 * time.Millisecond, Actual: 100*time.Millisecond + late, Want: 200 * time.Millisecond}, now)
		if i >= 1000 {
			sum, n = sum+m.part("p2", now), n+1
		}
	}
	if mean := sum / float64(n); mean < 0.17 || mean > 0.2 {
		t.Errorf("a margin of %.3f on average, want a little less than 0.19", mean)
	}
	for range 200 {
		m.learn(Prediction{Class: "p2", Predicted: 1, Actual: time.Hour, Want: time.Second}, now)
	}
	if got := m.part("p2", now); math.Abs(got-3*marginMost) > 1e-9 {
		t.Errorf("hopeless: a margin of %.3f, want %.3f", got, 3*marginMost)
	}
	if got := m.part("p2", now.Add(time.Minute)); math.Abs(got-3*marginFirst) > 1e-6 {
		t.Errorf("a minute later a margin of %.3f, want %.3f", got, 3*marginFirst)
	}
}
