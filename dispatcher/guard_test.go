package dispatcher_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/retry"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/admission"
)

// TestLadderIsShared: while p2's first tokens are late, the ladder sheds what is less urgent, also at a dispatcher
// that saw none of them; every step is an event with its reason. p0 goes on, and who comes back too often is told
// not to.
func TestLadderIsShared(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.Overload.Objectives = admission.Objectives{contracts.P2: time.Microsecond}
	busy, _ := startDispatcher(t, cfg)
	other, _ := startDispatcher(t, cfg)
	startWorker(t, b.Conn(), "w", nil)
	events, err := b.Conn().SubscribeSync(subject.SLOEvent("ladder"))
	if err != nil {
		t.Fatal(err)
	}
	shut, err := b.Conn().SubscribeSync(subject.SLOEvent("class"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	late := offer(t, busy) // all the time: after a pause all is well again
	m, err := events.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatalf("%d jobs are late, and no event says so: %v", late.Load(), err)
	}
	var e contracts.Event
	if err := contracts.Decode(m.Data, &e); err != nil || m.Subject != subject.SLOEvent("ladder") || e.Kind != "ladder" || e.Of != model || e.From != "512.0" || e.Reason == "" || e.Dispatcher == "" {
		t.Fatalf("event %+v on %s, %v", e, m.Subject, err)
	}
	e = contracts.Event{}
	if m, err := shut.NextMsg(patience); err != nil || contracts.Decode(m.Data, &e) != nil || e.Of != model+" p2" || e.From != "closed" || e.To != "open" || e.Reason == "" {
		t.Errorf("event of the class's breaker: %+v, %v", e, err)
	}
	batch := textJob("batch", "abc")
	batch.Class = contracts.P3
	var refused *contracts.Error
	taken := 0
	waitFor(t, "the other dispatcher to shed p3", func() bool {
		_, err := other.Submit(ctx, batch)
		if err != nil {
			refused = contracts.AsError(err)
		} else {
			taken++
			batch.ID = "batch-" + id(taken)
		}
		return err != nil
	})
	if refused.Code != contracts.CodeOverloaded || refused.RetryAfterMS < 1000 || refused.NoRetry {
		t.Errorf("refused with %+v, want overloaded, a time to retry, and that it may", refused)
	}
	batch.Labels = map[string]string{retry.Label: "1"}
	for range retry.Burst + 1 {
		if _, err := other.Submit(ctx, batch); err == nil {
			t.Fatal("p3 is let through while p2 is late")
		} else {
			refused = contracts.AsError(err)
		}
	}
	if !refused.NoRetry {
		t.Errorf("after %d repeats in a row: %+v, want that it is told not to", retry.Burst+1, refused)
	}
	urgent := textJob("urgent", "abc")
	urgent.Class = contracts.P0
	if _, err := other.Submit(ctx, urgent); err != nil {
		t.Errorf("p0: %v", err)
	}
}

// offer submits a job every 20 ms until the test ends, and counts them.
func offer(t *testing.T, d *dispatcher.Dispatcher) *atomic.Int64 {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var offered atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; {
			_, err := d.Submit(ctx, textJob(id(int(offered.Load())), "abc"))
			if err != nil && ctx.Err() == nil && contracts.CodeOf(err) != contracts.CodeOverloaded {
				t.Errorf("submit: %v", err)
			}
			offered.Add(1)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() {
		stop()
		wg.Wait()
	})
	return &offered
}
