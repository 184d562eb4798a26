package fleet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

// TestStorm: workers that fall silent together get more time; one that falls silent alone does not, also
// while others of its fleet are dead.
func TestStorm(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	begin := time.Unix(1000, 0)
	for _, tt := range []struct {
		name  string
		last  []time.Duration // when each worker was last heard; the first one is asked about
		after time.Duration
		want  bool
	}{
		{"alive", []time.Duration{9, 9, 9}, 10, false},
		{"alone", []time.Duration{8, 9, 9}, 10, true},
		{"one of two", []time.Duration{8, 9}, 10, true},
		{"half of six at once", []time.Duration{8, 8, 8, 9, 9, 9}, 10, false},
		{"half of six at once, for long", []time.Duration{8, 8, 8, 17, 17, 17}, 18, true},
		{"two of seven at once", []time.Duration{8, 8, 9, 9, 9, 9, 9}, 10, true},
		{"one after the other", []time.Duration{8, 5, 2, 9, 9, 9}, 10, true},
	} {
		r := fleet.NewRegistry(ttl)
		for i, at := range tt.last {
			r.Observe(contracts.Heartbeat{Worker: fmt.Sprint("w", i), State: contracts.WorkerReady}, begin.Add(at*time.Second))
		}
		if got := r.Dead(begin.Add(tt.after * time.Second))("w0"); got != tt.want {
			t.Errorf("%s: dead %v, want %v", tt.name, got, tt.want)
		}
	}
}
