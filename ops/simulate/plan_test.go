package simulate_test

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/ops/simulate"
)

// The formula gives more workers for more load, burstier load, slower devices and tighter objectives, and
// none for what no device can do.
func TestFormulaGrows(t *testing.T) {
	t.Parallel()
	of := func(rate float64, name, arrival string, goals loadgen.Objectives) int {
		plan := load(rate, 20*time.Second, loadgen.Mix{Input: loadgen.Lengths{Low: 914, High: 914}, Output: loadgen.Lengths{Low: 155, High: 155}})
		if arrival == "bursts" { // all of each second at its beginning
			for i := range plan {
				plan[i].At = plan[i].At.Truncate(time.Second)
			}
		}
		return simulate.Estimate(simulate.Config{Plan: plan, Profile: device(t, name)}, goals, 0.95).Workers
	}
	soon := loadgen.Objectives{TTFT: 300 * time.Millisecond}
	few := of(200, "h100", "poisson", soon)
	if few < 5 || few > 15 { // a card's ceiling for these lengths is about 40 requests/s
		t.Errorf("200 requests/s of 914 tokens in and 155 out take %d H100, want 5 to 15", few)
	}
	for name, more := range map[string]int{
		"twice the rate":    of(400, "h100", "poisson", soon),
		"a slower device":   of(200, "l40s", "poisson", soon),
		"bursts":            of(200, "h100", "bursts", soon),
		"quicker tokens":    of(200, "h100", "poisson", loadgen.Objectives{TTFT: 300 * time.Millisecond, TPOT: 8 * time.Millisecond}),
		"shorter deadlines": of(200, "h100", "poisson", loadgen.Objectives{E2E: 1250 * time.Millisecond}),
	} {
		if more <= few {
			t.Errorf("%s: %d workers, without it %d", name, more, few)
		}
	}
	if n := of(200, "h100", "poisson", loadgen.Objectives{TTFT: time.Millisecond}); n != 0 {
		t.Errorf("%d workers give a first token within a millisecond, want none", n)
	}
}

// The search ends at a fleet that is enough and of which one worker less is not.
func TestSearchFindsTheSmallestFleet(t *testing.T) {
	t.Parallel()
	goals := loadgen.Objectives{TTFT: 250 * time.Millisecond}
	c := simulate.Config{Plan: load(120, 5*time.Second, loadgen.Mix{Input: loadgen.Lengths{Low: 500, High: 1500}, Output: loadgen.Lengths{Low: 10, High: 100}}), Profile: device(t, "h100")}
	for _, first := range []int{1, 4, 12} {
		trials, err := simulate.Search(t.Context(), c, goals, 0.9, time.Second, first)
		if err != nil {
			t.Fatal(err)
		}
		n := simulate.Fewest(trials, 0.9)
		good := map[int]float64{}
		for _, r := range trials {
			good[r.Workers] = r.Good
		}
		if less, tried := good[n-1]; n < 2 || good[n] < 0.9 || !tried || less >= 0.9 {
			t.Errorf("from %d on: %d workers of the trials %v", first, n, good)
		}
	}
	if trials, err := simulate.Search(t.Context(), c, loadgen.Objectives{TTFT: 1}, 0.9, 0, 1); err != nil || simulate.Fewest(trials, 0.9) != 0 {
		t.Errorf("for a nanosecond: %v, %v", trials, err)
	}
}
