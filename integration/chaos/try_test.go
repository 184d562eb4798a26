package chaos

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// TestTry: the record by which a dispatcher tries whether records can be stored, as after a death of the broker, is
// no job's and breaks no promise.
func TestTry(t *testing.T) {
	t.Parallel()
	f := NewInProcess(t, Floor{Step: time.Millisecond})
	r := begin(t.Context(), t, f, Plan{Seed: *seed, Orders: map[string]contracts.Job{"one": *order("", 4, 4)}})
	if _, err := r.js.Publish(t.Context(), subject.OutTry, nil); err != nil {
		t.Fatal(err)
	}
	r.job(t.Context(), "one-0", "one", 0)
	r.collect(t.Context())
	if wrong := r.history.Check(); len(wrong) > 0 {
		t.Error(wrong)
	}
}
