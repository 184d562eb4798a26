package cost_test

import (
	"math"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/cost"
)

// TestUnsound: sums that no steps have, from a worker that is broken, change nothing of what is known of the others.
func TestUnsound(t *testing.T) {
	t.Parallel()
	beat := func(s *contracts.StepSums) contracts.Heartbeat {
		return contracts.Heartbeat{Model: "m", State: contracts.WorkerReady, Device: "d", Slots: 8, Steps: s}
	}
	good := contracts.StepSums{Budget: 512}
	for i := range 200 {
		prompt, rows := float64(i%7*64), float64(i%5)
		good.Add(prompt, rows, 5+0.05*prompt+0.3*rows, 0)
	}
	want := cost.SpeedOf([]contracts.Heartbeat{beat(&good), beat(nil)}, "m")
	if !want.Known || math.IsInf(want.Prompt, 0) || want.Step() <= 0 {
		t.Fatalf("the good worker is not known: %+v", want)
	}
	for name, change := range map[string]func(*contracts.StepSums){
		"time that is no number": func(s *contracts.StepSums) { s.T = math.NaN() },
		"endless time":           func(s *contracts.StepSums) { s.T, s.TT = math.Inf(1), math.Inf(1) },
		"steps without time":     func(s *contracts.StepSums) { s.N = 1e12 },
		"negative time":          func(s *contracts.StepSums) { s.T = -1e9 },
		"huge products":          func(s *contracts.StepSums) { s.PP = 1e300 },
		"negative budget":        func(s *contracts.StepSums) { s.Budget = -512 },
		"huge budget":            func(s *contracts.StepSums) { s.Budget = math.MaxInt },
	} {
		bad := good
		change(&bad)
		if got := cost.SpeedOf([]contracts.Heartbeat{beat(&good), beat(&bad)}, "m"); got != want {
			t.Errorf("with %s: %+v, want %+v", name, got, want)
		}
	}
}
