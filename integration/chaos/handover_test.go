package chaos

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// TestRollingRestart drains and replaces three workers one after the other under load: no reader sees an
// error, and nobody waits longer than two seconds and the time in which the new holder runs through what
// was written.
func TestRollingRestart(t *testing.T) {
	const tokens, step = 150, 8 * time.Millisecond
	f := NewInProcess(t, Floor{Workers: 3, Slots: 4, Step: step})
	var script []Fault
	for i := range 3 {
		script = append(script, Fault{Wait: 300 * time.Millisecond, Kind: Drain, Which: i, For: 50 * time.Millisecond})
	}
	h := Run(t, f, Plan{Seed: *seed, Orders: Orders(*seed, 8, tokens, Model), Flight: 5, Script: script})
	report(t, h)
	gaps := h.Gaps()
	drained := gaps[string(contracts.ReleaseDrain)]
	longest := Quantile(drained, 1)
	t.Logf("%d streams changed hands, half of them within %v, the longest gap is %v", len(drained), Quantile(drained, 0.5).Round(time.Millisecond), longest.Round(time.Millisecond))
	if len(drained) == 0 || len(gaps) > 1 || longest > 2*time.Second+tokens*3/2*step {
		t.Errorf("gaps %v, want only those of drains, at most 2 s and a replay", gaps)
	}
}
