package calibrate_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/calibrate"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sim"
)

// device is a modelled one on a clock of its own.
func device(p sim.Profile) (e *sim.Engine, now func() time.Time) {
	at := time.Unix(0, 0)
	e = sim.New(sim.Config{Profile: p, Seed: 3, Sleep: func(ctx context.Context, d time.Duration) error {
		at = at.Add(d)
		return ctx.Err()
	}})
	return e, func() time.Time { return at }
}

// What a device was made of comes out of measuring it, also when its steps vary.
func TestFindsTheConstants(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"h100", "l40s-2.7b", "a100"} {
		for _, jitter := range []float64{0, 0.05} {
			want, err := sim.ProfileFor(name)
			if err != nil {
				t.Fatal(err)
			}
			want.Jitter = jitter
			e, now := device(want)
			points, err := calibrate.Sweep(t.Context(), e, 10*time.Second, now)
			if err != nil {
				t.Fatal(err)
			}
			got, err := calibrate.Fit(points, e.Info(), e.Memory())
			if err != nil {
				t.Fatal(err)
			}
			if most := 0.001 + jitter/2; got.Error > most {
				t.Errorf("%s with jitter %v: off by %.4f, want at most %v", name, jitter, got.Error, most)
			}
			if math.Abs(got.Profile.Jitter-jitter) > 0.02 {
				t.Errorf("%s: jitter %v, want %v", name, got.Profile.Jitter, jitter)
			}
			for _, step := range [][3]int{{0, 1, 100}, {0, 40, 40_000}, {512, 0, 512}, {200, 12, 5000}} {
				a, b := got.Profile.Step(step[0], step[1], step[2]).Seconds(), want.Step(step[0], step[1], step[2]).Seconds()
				if math.Abs(a/b-1) > 0.03+2*jitter {
					t.Errorf("%s with jitter %v: a step of %v takes %.3f ms in the profile, %.3f on the device", name, jitter, step, 1000*a, 1000*b)
				}
			}
		}
	}
}

// An engine with little memory is measured as far as it goes, and one with next to none says so.
func TestLittleMemory(t *testing.T) {
	t.Parallel()
	p, err := sim.ProfileFor("h100")
	if err != nil {
		t.Fatal(err)
	}
	e, now := device(p)
	e.SetKVBudget(2048 * p.KVBytesPerToken)
	points, err := calibrate.Sweep(t.Context(), e, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range points {
		if point.Held > 2048 {
			t.Errorf("%+v was measured in memory for 2048 tokens", point)
		}
	}
	if _, err := calibrate.Fit(points, e.Info(), e.Memory()); err != nil {
		t.Error(err)
	}
	e.SetKVBudget(16 * p.KVBytesPerToken)
	points, err = calibrate.Sweep(t.Context(), e, 0, now)
	if err == nil {
		_, err = calibrate.Fit(points, e.Info(), e.Memory())
	}
	if err == nil {
		t.Error("an engine with memory for one block was fitted")
	}
}

// The error of a step ends the sweep.
func TestFailingEngine(t *testing.T) {
	t.Parallel()
	p, err := sim.ProfileFor("h100")
	if err != nil {
		t.Fatal(err)
	}
	e, now := device(p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := calibrate.Sweep(ctx, e, time.Second, now); err == nil {
		t.Error("a sweep whose context had ended was made")
	}
	if m := e.Memory(); m != (engine.Memory{Budget: m.Budget}) {
		t.Errorf("after it %+v is held", m)
	}
}
