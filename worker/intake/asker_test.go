package intake_test

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/intake"
)

// idle is an asker that has asked every line once and found nothing.
func idle(t *testing.T, now time.Time) *intake.Asker {
	t.Helper()
	a := intake.NewAsker(func(contracts.Size) int64 { return 1 })
	for act := a.Next(10, 10, now); act.Do == intake.Pull; act = a.Next(10, 10, now) {
		a.Empty(act.Line, now)
	}
	return a
}

// Each job rings once: a line is asked once for each ring, and until it is empty only after a sweep.
func TestAsksOnceARing(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	line := intake.Line{Class: contracts.P1, Size: contracts.SizeM}
	a := idle(t, now)
	pulls := func() (n int) {
		for ; n < 10; n++ {
			act := a.Next(10, 10, now)
			if act.Do != intake.Pull {
				return n
			}
			if act.Line != line {
				a.Empty(act.Line, now)
				n--
				continue
			}
			a.Took(line)
		}
		return n
	}
	if n := pulls(); n != 0 {
		t.Errorf("%d pulls without a ring", n)
	}
	a.Ring(line)
	a.Ring(line)
	a.Ring(line)
	if n := pulls(); n != 3 {
		t.Errorf("%d pulls after three rings, want 3", n)
	}
	a.MarkAll()
	if n := pulls(); n != 10 {
		t.Errorf("%d pulls after a sweep of a line that always has jobs, want all 10", n)
	}
}

// A ring whose job is not there yet is asked for again, a few times, and then forgotten.
func TestAsksAgain(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	line := intake.Line{Class: contracts.P0, Size: contracts.SizeS}
	a := idle(t, now)
	a.Ring(line)
	asked := 0
	for range 10 {
		if act := a.Next(10, 10, now); act.Do == intake.Pull {
			asked++
			a.Empty(act.Line, now)
		}
		now = now.Add(min(time.Second, a.Again(now)))
	}
	if asked != 5 {
		t.Errorf("asked %d times, want once and 4 times again", asked)
	}
	a.Ring(line)
	if act := a.Next(10, 10, now); act.Do != intake.Pull {
		t.Fatalf("after a new ring: %+v, want a pull", act)
	}
	a.Took(line)
	if act := a.Next(10, 10, now); act.Do == intake.Pull || a.Again(now) < time.Hour {
		t.Errorf("after the job was taken: %+v, again in %v; want to wait", act, a.Again(now))
	}
}
