package residence_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/intake"
)

// Two loaded models whose next job needs more than what is free beside both do not keep each other out for ever: one of
// them makes way. Both rooms wait in the way that a worker's does, see intake.Reservation.Fit.
func TestTwoWaitingModelsMakeWay(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100)
	sa := b.add("a", &fakeModel{bytes: 30}, false)
	sc := b.add("c", &fakeModel{bytes: 30}, false)
	b.hears("loaded a", "loaded c")
	b.run()
	ra, rc := intake.NewRoom(sa, 8), intake.NewRoom(sc, 8)
	ja, jc := ra.Reserve(20, 1), rc.Reserve(20, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var both sync.WaitGroup
	for name, j := range map[string]*intake.Reservation{"a": ja, "c": jc} {
		both.Go(func() {
			if err := j.Fit(ctx, 50, 1); err != nil { // 40 are free beside both models, 70 beside one of them
				t.Errorf("job of %s: %v", name, err)
			}
			j.Close()
		})
	}
	both.Wait()
	t.Logf("a awake %v, c awake %v, %d reserved of 100", sa.Awake(), sc.Awake(), b.budget.Reserved())
}

// A model for which there is no memory any more takes no jobs, which other workers could run.
func TestNoMemoryTakesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100)
	sa := b.add("a", &fakeModel{bytes: 60}, false)
	b.add("b", &fakeModel{bytes: 40}, false)
	b.hears("loaded a", "loaded b")
	sa.Want(0)
	b.run()
	b.budget.SetTotal(60, 60) // the governor: the process holds 40 more than planned
	room := intake.NewRoom(sa, 8)
	cost := func(contracts.Size) int64 { total, _ := room.Total(); return min(10, total) } // as Worker.cost
	free, slots := room.Takes(time.Now())
	act := intake.NewAsker(cost).Next(free, slots, time.Now())
	if act.Do != intake.Pull {
		return
	}
	r := room.Reserve(act.Cost, 1)
	t.Errorf("total %d: a job is pulled with a reservation of %d bytes (%v)", sa.Total(), act.Cost, r != nil)
	if err := r.Fit(t.Context(), 10, 1); errors.Is(err, intake.ErrNeverFits) {
		t.Errorf("and then counted as failed: %v", err)
	}
}
