package overload

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/ops/loadgen"
)

func TestMain(m *testing.M) { harness.Main(m) }

var (
	model     = flag.String("model", "smollm2-135m-instruct", "that BenchmarkModel serves on this machine's processor")
	objective = flag.Duration("objective", time.Second, "of BenchmarkModel, for the time to the first token")
)

// BenchmarkFlood: one tenant sends a fifth of what the fleet can do, another one first 70 % of it and then four
// times as much. The first one's jobs wait for their first tokens as before.
func BenchmarkFlood(b *testing.B) {
	f := simulated(b, "deadline")
	s := f.scene(b, "light", "heavy")
	s.classes, s.objectives = "p3:1", nil // which has no objective: nothing is refused
	capacity := s.saturate(b, 40**workers)
	f.Rest()
	p95 := func(flood ...phase) time.Duration {
		f := simulated(b, "deadline")
		defer f.Rest()
		s := f.scene(b, "light", "heavy")
		s.classes = "p3:1"
		s.warm(b, capacity)
		var ttft []time.Duration
		for _, x := range s.run(b, append([]phase{{0, *surge, 0.2 * capacity, evenly, "light", false}, {0, *surge, 0.7 * capacity, evenly, "heavy", false}}, flood...)...) {
			if x.Tenant == "light" && len(x.Pieces) > 0 {
				ttft = append(ttft, x.Pieces[0]-x.At)
			}
		}
		return at(ttft, 95)
	}
	before, beside := p95(), p95(phase{2 * time.Second, *surge, 4 * capacity, evenly, "heavy", false})
	fmt.Printf("capacity %.1f requests/s; TTFT p95 of a tenant: %v, beside a flood of another one %v: %+.0f %%\n", capacity, before.Round(time.Millisecond), beside.Round(time.Millisecond), 100*(beside.Seconds()/before.Seconds()-1))
}

// BenchmarkModel offers a real model on this machine's processor what it can do, and twice as much, to the build
// that judges and to the one that takes everything.
func BenchmarkModel(b *testing.B) {
	capacity := 0.0
	var lines results
	for _, build := range builds() {
		for _, times := range []float64{1, 2} {
			p := harness.Up(b, b.TempDir(), "--model", *model, "--admission", build, "--objective", "p2="+objective.String())
			target := &loadgen.NATS{Client: connect(b, p.NATS, "default"), Model: *model, IgnoreEOS: true}
			s := newScene(b, target, loadgen.Mix{Input: loadgen.Lengths{Low: 60, High: 200}, Output: loadgen.Lengths{Low: 16, High: 48}}, "p2:1", admission.Objectives{contracts.P2: *objective})
			if capacity == 0 {
				capacity = s.saturate(b, 16)
				fmt.Printf("capacity: %.1f requests/s of %s, objective %v, gaps with CV %v, seed %d\n", capacity, *model, *objective, burstiness, *seed)
			} else {
				s.warm(b, capacity)
			}
			lines = append(lines, s.measure(b, build, capacity, load{times: times}))
			p.Kill()
		}
	}
	lines.print()
}
