package chaos

import (
	"flag"
	"testing"
	"time"
)

var (
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of jobs and faults; each run prints its own")
	deaths = flag.Int("deaths", 8, "workers that die in TestChaos")
	jobs   = flag.Int("jobs", 40, "streamed jobs of TestChaos, at least")
	kills  = flag.Int("kills", 3, "processes that are killed in TestProcesses")
	model  = flag.Int("model-kills", 1, "processes that are killed in TestModel")
	soak   = flag.Duration("soak", 8*time.Second, "how long TestSoak runs")
)

// report fails the test with what the check found.
func report(t *testing.T, h *History) {
	t.Helper()
	wrong := h.Check()
	for i, w := range wrong {
		if i == 20 {
			t.Errorf("… and %d more", len(wrong)-i)
			break
		}
		t.Error(w)
	}
	records := 0
	for _, r := range h.Out {
		records += len(r)
	}
	t.Logf("checked %d jobs with %d records and %d readers", len(h.Kinds), records, len(h.Received))
}
