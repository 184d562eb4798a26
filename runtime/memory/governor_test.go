package memory_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/memory"
)

func TestGovernor(t *testing.T) {
	t.Parallel()
	plan := memory.Plan{Limit: 800 * mib, Base: 50 * mib, Margin: 64 * mib}
	const full = 686 * mib
	sample := func(resident, kv int64) memory.Sample {
		return memory.Sample{Resident: resident * mib, Heap: 10 * mib, Models: 200 * mib, KV: kv * mib}
	}
	g := memory.NewGovernor(plan)
	for i, c := range []struct {
		sample      memory.Sample
		want        int64
		predictable int64 // difference
	}{
		{sample(260, 0), full, 0},
		{sample(364, 100), full, 4 * mib},           // within the margin
		{sample(415, 100), full - 4*mib, 55 * mib},  // 1 MiB over it, rounded up
		{sample(454, 100), full - 40*mib, 94 * mib}, // 40 MiB over it
		{sample(360, 100), full - 36*mib, 0},        // it recovers step by step
		{sample(360, 100), full - 32*mib, 0},        //
		{sample(454, 100), full - 40*mib, 94 * mib}, // and shrinks at once
		{sample(5000, 100), 204 * mib, 4640 * mib},  // never below the models and a small cache
	} {
		if got := plan.Difference(c.sample); got != c.predictable {
			t.Errorf("step %d: difference %d MiB, want %d", i, got/mib, c.predictable/mib)
		}
		if got := g.Observe(c.sample); got != c.want {
			t.Errorf("step %d: budget %d MiB, want %d", i, got/mib, c.want/mib)
		}
	}
}

// Whatever it sees: what is over the plan is taken away, and all of it comes back when it is gone.
func TestGovernorBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 1<<40)
		plan := memory.Plan{Limit: size.Draw(t, "limit"), Base: size.Draw(t, "base"), Margin: size.Draw(t, "margin")}
		g := memory.NewGovernor(plan)
		full := plan.Budget()
		for range rapid.IntRange(1, 20).Draw(t, "samples") {
			s := memory.Sample{Resident: size.Draw(t, "resident"), Models: size.Draw(t, "models"), KV: size.Draw(t, "kv")}
			got := g.Observe(s)
			least := min(s.Models+memory.LeastKV, full)
			if got < least || got > full {
				t.Fatalf("budget %d with %+v, want %d to %d", got, s, least, full)
			}
			if over := s.Resident - s.Models - s.KV - plan.Base - plan.Margin; over > 0 && got > max(full-over, least) {
				t.Fatalf("budget %d with %+v: %d bytes over the plan are not taken away", got, s, over)
			}
		}
		for range 1 << 20 {
			if g.Observe(memory.Sample{}) == full {
				return
			}
		}
		t.Fatalf("the budget never recovers to %d", full)
	})
}
