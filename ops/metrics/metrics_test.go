package metrics_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/ops/metrics"
)

// has fails unless a scrape has the line.
func has(t *testing.T, r *metrics.Registry, line string) {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
		t.Errorf("no line %q in\n%s", line, w.Body)
	}
}

// TestLoadedBytes: workers of one model in one process count together.
func TestLoadedBytes(t *testing.T) {
	t.Parallel()
	r := metrics.New()
	trace := r.Residence()
	trace.Loaded("m", 100, time.Second)
	trace.Loaded("m", 120, time.Second)
	has(t, r, `pelton_model_loaded_bytes{model="m"} 220`)
	trace.Unloaded("m", 100)
	has(t, r, `pelton_model_loaded_bytes{model="m"} 120`)
	trace.Unloaded("m", 120)
	has(t, r, `pelton_model_loaded_bytes{model="m"} 0`)
}

// TestWorkers: a dispatcher tells of the workers that it sees, also when the queues cannot be told.
func TestWorkers(t *testing.T) {
	t.Parallel()
	r := metrics.New()
	r.Queues(func(context.Context) ([]dispatcher.QueueDepth, error) { return nil, context.DeadlineExceeded },
		func() map[string]int { return map[string]int{"m": 2} })
	has(t, r, `pelton_workers{model="m"} 2`)
}
