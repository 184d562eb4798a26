package chaos

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// TestPreemption fills a fleet with p3 jobs and asks for p0: the urgent jobs start in place of others,
// which go on later as if nothing had been.
func TestPreemption(t *testing.T) {
	const slots, tokens, urgent = 3, 600, 2
	f := NewInProcess(t, Floor{Workers: 2, Slots: slots, Step: 8 * time.Millisecond})
	orders := map[string]contracts.Job{}
	for kind, class := range map[string]contracts.Class{"batch": contracts.P3, "urgent": contracts.P0} {
		j := order("", 40, tokens)
		j.Class = class
		if class == contracts.P0 {
			j.Params.MaxTokens = new(20)
		}
		orders[kind] = *j
	}
	r := begin(t.Context(), t, f, Plan{Seed: *seed, Orders: orders})
	var all sync.WaitGroup
	for i := range 2 * slots {
		all.Go(func() { r.job(t.Context(), fmt.Sprint("batch-", i), "batch", 0) })
	}
	f.await("a full fleet", func() bool {
		n := 0
		for _, h := range f.hands {
			for _, j := range h.Snapshot().Jobs {
				if j.Index > 0 {
					n++
				}
			}
		}
		return n == 2*slots
	})
	waits := make([]time.Duration, urgent)
	for i := range urgent {
		all.Go(func() { waits[i] = r.first(t, fmt.Sprint("urgent-", i), "urgent") })
	}
	all.Wait()
	r.collect(t.Context())
	report(t, r.history)
	victims := r.history.Gaps()[string(contracts.ReleasePreempt)]
	t.Logf("first tokens of %d urgent jobs after %v; %d victims waited at most %v", urgent, waits, len(victims), Quantile(victims, 1).Round(time.Millisecond))
	if len(victims) == 0 {
		t.Errorf("nobody gave way to %d urgent jobs", urgent)
	}
}

// first submits a job and reads it, and says after how long its first token came.
func (r *run) first(t *testing.T, id, kind string) (wait time.Duration) {
	begin := time.Now()
	j := r.plan.Orders[kind]
	j.ID = id
	s, err := r.client.Run(t.Context(), &j)
	if err != nil {
		t.Error(err)
		return 0
	}
	got := &Received{}
	err = drainStream(s, func(c *contracts.Chunk) error {
		if wait == 0 {
			wait = time.Since(begin)
		}
		got.Take(c)
		return nil
	})
	if err != nil {
		t.Errorf("job %s: %v", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Kinds[id], r.history.Received[id] = kind, []*Received{got}
	return wait
}
