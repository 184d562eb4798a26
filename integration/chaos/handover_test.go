package chaos

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// TestRollingRestart drains and replaces three workers one after the other under load: no reader sees an
// error. It prints how long they waited: on two quiet cores at most two seconds and the time in which the
// new holder runs through what was written. On a machine that stalls a worker for two seconds a job can
// also be found lost, which must be as invisible.
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
	if len(drained) == 0 {
		t.Errorf("gaps %v: nothing was handed over, so nothing was shown", gaps)
	}
}
