package chaos

import (
	"flag"
	"testing"
	"time"
)

var (
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the script; a failed run prints its own")
	deaths = flag.Int("deaths", 12, "workers that are killed")
	jobs   = flag.Int("jobs", 60, "streamed jobs, at least")
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
