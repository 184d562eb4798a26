package metrics_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/ops/metrics"
	"github.com/pelton-run/pelton/worker"
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
	r.Queues(func(context.Context) ([]contracts.QueueDepth, error) { return nil, context.DeadlineExceeded },
		func() map[string]int { return map[string]int{"m": 2} })
	has(t, r, `pelton_workers{model="m"} 2`)
}

// TestHeldJobsAreTold: what waits outside of the queue is told beside what waits in it.
func TestHeldJobsAreTold(t *testing.T) {
	t.Parallel()
	r := metrics.New()
	r.Queues(func(context.Context) ([]contracts.QueueDepth, error) {
		return []contracts.QueueDepth{{Model: "m", Class: contracts.P3, Held: 17}, {Model: "m", Class: contracts.P3, Size: contracts.SizeS, Pending: 3}}, nil
	}, func() map[string]int { return nil })
	has(t, r, `pelton_queue_jobs{class="p3",model="m",size="",state="held"} 17`)
	has(t, r, `pelton_queue_jobs{class="p3",model="m",size="s",state="waiting"} 3`)
}

// TestQueueStates: what operators let the queues do is told, of every model.
func TestQueueStates(t *testing.T) {
	t.Parallel()
	r := metrics.New()
	r.Queues(func(context.Context) ([]contracts.QueueDepth, error) {
		return []contracts.QueueDepth{{Model: "m", Class: contracts.P0, Size: contracts.SizeS, State: contracts.QueuePaused}, {Model: "m", Class: contracts.P1, Size: contracts.SizeS, State: contracts.QueuePaused},
			{Model: "d", Class: contracts.P0, Size: contracts.SizeS, State: contracts.QueueDraining}, {Model: "o", Class: contracts.P0, Size: contracts.SizeS, State: contracts.QueueOpen}}, nil
	}, func() map[string]int { return nil })
	for _, want := range []string{`paused{model="m"} 1`, `draining{model="m"} 0`, `paused{model="d"} 0`, `draining{model="d"} 1`, `paused{model="o"} 0`, `draining{model="o"} 0`} {
		has(t, r, "pelton_queue_"+want)
	}
}

// TestZero: the series by which failures are told are there before the first one, and what a dispatcher ends is
// counted under its model and class.
func TestZero(t *testing.T) {
	t.Parallel()
	r := metrics.New()
	d, w := r.Dispatcher("m"), r.Worker("m")
	for _, line := range []string{
		`pelton_jobs_total{class="p0",model="m",outcome="failed"} 0`,
		`pelton_jobs_total{class="p3",model="m",outcome="held"} 0`,
		`pelton_jobs_total{class="",model="",outcome="shed"} 0`,
		`pelton_dispatcher_moves_total{cause="dead"} 0`,
		`pelton_handed_back_total{cause="lease_lost",model="m"} 0`,
		`pelton_overload_changes_total{kind="broker",to="open"} 0`,
	} {
		has(t, r, line)
	}
	for _, code := range []contracts.Code{contracts.CodeCanceled, contracts.CodeDeadlineExceeded, contracts.CodeOverloaded, contracts.CodeInternal} {
		d.Ended(&contracts.Chunk{Code: code, Usage: &contracts.Usage{}, Claim: &contracts.Claim{Model: "m", Class: contracts.P2}})
	}
	for _, outcome := range []string{"canceled", "expired", "evicted", "failed"} {
		has(t, r, `pelton_jobs_total{class="p2",model="m",outcome="`+outcome+`"} 1`)
	}
	for _, code := range []contracts.Code{contracts.CodeQuotaExceeded, contracts.CodeOverloaded, contracts.CodeUnavailable} {
		d.Refused("t", "m", contracts.Errorf(code, "no"))
	}
	has(t, r, `pelton_jobs_total{class="",model="",outcome="rejected"} 1`)
	has(t, r, `pelton_jobs_total{class="",model="",outcome="shed"} 2`)
	w.HandedBack(worker.Job{Model: "m"}, contracts.ReleaseDrain, nil)
	has(t, r, `pelton_handed_back_total{cause="drain",model="m"} 1`)
}
