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
		if got, size := g.Observe(c.sample); got != c.want || size != full {
			t.Errorf("step %d: budget %d of %d MiB, want %d of %d", i, got/mib, size/mib, c.want/mib, full/mib)
		}
	}
}

// What the process holds beyond the plan for a whole minute counts as its own, until it is gone.
func TestGovernorSize(t *testing.T) {
	t.Parallel()
	g := memory.NewGovernor(memory.Plan{Limit: 800 * mib, Base: 50 * mib, Margin: 64 * mib})
	const full, minute = 686 * mib, 120
	for i := range 6 * minute {
		resident := int64(354) // 40 MiB over the plan
		if i == minute/2 || i >= 5*minute {
			resident = 300
		}
		budget, size := g.Observe(memory.Sample{Resident: resident * mib, Models: 200 * mib})
		switch want := int64(full); {
		case i >= 2*minute && i < 5*minute:
			if want -= 40 * mib; size != want || budget != want {
				t.Fatalf("sample %d: budget %d of %d MiB, want all of %d", i, budget/mib, size/mib, want/mib)
			}
		case i < minute && size != full, i > 5*minute+12 && (size != full || budget != full), size < budget:
			t.Fatalf("sample %d: budget %d of %d MiB, want a size of %d", i, budget/mib, size/mib, full/mib)
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
			got, size := g.Observe(s)
			if size < got || size > full {
				t.Fatalf("budget %d of %d with %+v", got, size, s)
			}
			least := min(s.Models+memory.LeastKV, full)
			if got < least || got > full {
				t.Fatalf("budget %d with %+v, want %d to %d", got, s, least, full)
			}
			if over := s.Resident - s.Models - s.KV - plan.Base - plan.Margin; over > 0 && got > max(full-over, least) {
				t.Fatalf("budget %d with %+v: %d bytes over the plan are not taken away", got, s, over)
			}
		}
		for range 1 << 20 {
			if budget, size := g.Observe(memory.Sample{}); budget == full && size == full {
				return
			}
		}
		t.Fatalf("the budget never recovers to %d", full)
	})
}
