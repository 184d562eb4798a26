package intake_test

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/intake"
)

var rung = intake.Line{Class: contracts.P1, Size: contracts.SizeM}

// desk drives an asker at a time that only the test moves.
type desk struct {
	*intake.Asker
	now   time.Time
	slots int
}

// idle is a worker that has asked every line and found nothing, a second ago.
func idle(t *testing.T) *desk {
	t.Helper()
	d := &desk{Asker: intake.NewAsker(func(contracts.Size) int64 { return 1 }), now: time.Unix(0, 0), slots: 10}
	if n := d.asks(nil); n != len(contracts.Classes)*len(contracts.Sizes) {
		t.Fatalf("a new worker asked %d times, want every line once", n)
	}
	d.now = d.now.Add(time.Second)
	return d
}

// asks asks what is to be asked now and returns how often. jobs are what the line that rings has left
// after each pull; -1 is that it had none.
func (d *desk) asks(jobs []int) (n int) {
	for ; n < 100; n++ {
		act := d.Next(10, d.slots, d.now)
		switch {
		case act.Do != intake.Pull:
			return n
		case act.Line == rung && len(jobs) > 0 && jobs[0] >= 0:
			d.Took(act.Line, uint64(jobs[0]), d.now)
		default:
			d.Empty(act.Line, d.now)
		}
		if act.Line == rung && len(jobs) > 0 {
			jobs = jobs[1:]
		}
	}
	return n
}

// A ring is one job: nothing else is asked, not even the same line once more.
func TestAsksOnceARing(t *testing.T) {
	t.Parallel()
	d := idle(t)
	if n := d.asks(nil); n != 0 {
		t.Errorf("%d pulls without a ring", n)
	}
	for range 3 {
		d.Ring(rung)
	}
	if n := d.asks([]int{0, 0, 0}); n != 3 || d.Again(d.now) < time.Hour {
		t.Errorf("%d pulls for three rings, again in %v; want 3 and never", n, d.Again(d.now))
	}
}

// A ring whose job is not there yet is asked for again, a few times, and then forgotten.
func TestAsksAgain(t *testing.T) {
	t.Parallel()
	d := idle(t)
	d.Ring(rung)
	n := 0
	for range 10 {
		n += d.asks([]int{-1})
		d.now = d.now.Add(min(time.Second, d.Again(d.now)))
	}
	if n != 5 {
		t.Errorf("asked %d times, want once and 4 times again", n)
	}
	d.Ring(rung)
	if n := d.asks([]int{0}); n != 1 {
		t.Errorf("%d pulls after another ring, want 1", n)
	}
}

// A ring for all lines makes each of them asked once.
func TestAsksAll(t *testing.T) {
	t.Parallel()
	d := idle(t)
	d.Ring(intake.Line{})
	if n := d.asks(nil); n != len(contracts.Classes)*len(contracts.Sizes) || d.Again(d.now) < time.Hour {
		t.Errorf("%d pulls for a ring for all, again in %v; want every line once, and never", n, d.Again(d.now))
	}
}

// Jobs that are left are those of others, who heard their bells; if nobody did, they are found soon.
func TestLeavesJobsToOthers(t *testing.T) {
	t.Parallel()
	d := idle(t)
	d.Ring(rung)
	if n := d.asks([]int{2}); n != 1 {
		t.Errorf("%d pulls for one ring while two more jobs wait, want 1", n)
	}
	again := d.Again(d.now)
	if again > 10*time.Millisecond {
		t.Errorf("asks again in %v, want soon", again)
	}
	d.now = d.now.Add(again)
	if n := d.asks([]int{1, 0}); n != 2 {
		t.Errorf("%d pulls later, want 2, until nothing is left", n)
	}
}

// Who gets room again asks every line, but not those that were empty a moment ago, and each only once.
func TestAsksWithRoom(t *testing.T) {
	t.Parallel()
	d := idle(t)
	full := func() {
		d.slots = 0
		if n := d.asks(nil); n != 0 || d.Listens() {
			t.Fatalf("%d pulls without a slot, listens %v", n, d.Listens())
		}
		d.slots = 10
	}
	full()
	if n := d.asks([]int{3, 2, 1, 0}); n != 15+4 || !d.Listens() {
		t.Errorf("%d pulls with room again, want every line until nothing is left in it: 19", n)
	}
	full()
	if n := d.asks([]int{0}); n != 1 {
		t.Errorf("%d pulls right after that, want 1: of the line that had a job", n)
	}
	if again := d.Again(d.now); again > time.Second {
		t.Errorf("asks again in %v, want in a moment", again)
	}
	for range 10 {
		d.now = d.now.Add(min(time.Second, d.Again(d.now)))
		d.asks(nil)
	}
	if again := d.Again(d.now); again < time.Hour {
		t.Errorf("asks again in %v though every line was asked", again)
	}
}

// With room again urgent lines are asked after milliseconds: an urgent job may have come whose ring nobody heard.
func TestAsksUrgentFirst(t *testing.T) {
	t.Parallel()
	d := idle(t)
	for range 5 { // every line is found empty often
		d.slots = 0
		d.asks(nil)
		d.slots = 10
		d.asks(nil)
		d.now = d.now.Add(time.Second)
	}
	d.slots = 0
	d.asks(nil)
	d.slots = 10
	d.asks(nil)
	d.now = d.now.Add(10 * time.Millisecond)
	d.slots = 0
	d.asks(nil)
	d.slots = 10
	if n, urgent := d.asks(nil), 2*len(contracts.Sizes); n != urgent {
		t.Errorf("%d pulls 10 ms later, want %d: the lines of p0 and p1", n, urgent)
	}
}

// What rang and finds no room is passed on, once.
func TestPassesOn(t *testing.T) {
	t.Parallel()
	d := idle(t)
	d.Ring(rung)
	d.Ring(rung)
	d.slots = 0
	d.asks(nil)
	if p := d.Passed(); len(p) != 2 || p[0] != rung || p[1] != rung {
		t.Errorf("passed on %v, want %v twice", p, rung)
	}
	d.Ring(rung) // was on its way
	d.asks(nil)
	if p := d.Passed(); len(p) != 1 {
		t.Errorf("passed on %v, want one more", p)
	}
	if p := d.Passed(); p != nil {
		t.Errorf("passed on %v again", p)
	}
}
