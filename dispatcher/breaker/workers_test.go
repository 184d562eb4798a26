package breaker_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/dispatcher/breaker"
)

// ward is Workers of a fleet of seven, and who was told to rest.
func ward() (*breaker.Workers, *[]string) {
	var rested []string
	return breaker.NewWorkers(func(breaker.Change) {}, func() int { return 7 }, func(worker string) { rested = append(rested, worker) }), &rested
}

func TestSickWorkersRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, rested := ward()
		fail := func(worker string, n int) {
			for range n {
				w.Outcome(worker, true)
			}
		}
		fail("few", 4)
		for range 20 {
			w.Outcome("well", false)
		}
		fail("well", 3)
		if len(*rested) != 0 {
			t.Fatalf("%v rest: one failed four times, one with 3 of 23 jobs", *rested)
		}
		fail("a", 5)
		fail("a", 50) // what it had begun before
		fail("b", 5)
		if !slices.Equal(*rested, []string{"a", "b"}) {
			t.Fatalf("%v rest, want a and b, once", *rested)
		}
		fail("c", 5)
		if len(*rested) != 2 {
			t.Errorf("%v rest: more than 30 %% of 7 workers", *rested)
		}
		time.Sleep(breaker.Rest + time.Second)
		w.Outcome("a", true) // not better
		for range 3 {
			w.Outcome("b", false)
		}
		w.Outcome("b", true)
		if !slices.Equal(*rested, []string{"a", "b", "a"}) {
			t.Errorf("%v rest, want a again", *rested)
		}
	})
}

// A worker that is slow for itself is taken out, and comes back when it is not slow any more; when all are slow
// nobody is, and what a job waited before it was taken says nothing of its worker.
func TestSlowWorkersRest(t *testing.T) {
	t.Parallel()
	const want = 200 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w, rested := ward()
		round := func(slow map[int]bool, usual time.Duration) {
			for i := range 7 {
				took := usual
				if slow[i] {
					took = 4 * want
				}
				w.First(fmt.Sprint("w", i), "m", took, want)
			}
		}
		for range 50 {
			round(nil, want/2)
		}
		for range 19 { // too few to tell, within the window
			round(map[int]bool{3: true}, 2*want)
		}
		if len(*rested) != 0 {
			t.Fatalf("%v rest though all are slow", *rested)
		}
		time.Sleep(11 * time.Second)
		for range 60 {
			round(nil, want/2)
		}
		for range 60 {
			round(map[int]bool{3: true}, want/2)
		}
		if !slices.Equal(*rested, []string{"w3"}) {
			t.Fatalf("%v rest, want w3, once", *rested)
		}
		time.Sleep(breaker.Rest + time.Second)
		for range 60 {
			round(nil, want/2)
		}
		if len(*rested) != 1 {
			t.Errorf("%v rest, want nobody again", *rested)
		}
		for range 100 {
			round(map[int]bool{1: true, 2: true, 5: true}, want/2)
		}
		if len(*rested) != 3 {
			t.Errorf("%v rest, want two more: 30 %% of 7 workers", *rested)
		}
	})
}

// Where nobody wants its first token within a time, nobody is slow; neither is the only worker of a model.
func TestSlowNeedsAnObjectiveAndOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, rested := ward()
		for i := range 100 {
			w.First("a", "m", time.Hour, 0)
			w.First("b", "m", time.Second, 0)
			w.First("alone", "other", time.Duration(i)*time.Second, time.Millisecond)
		}
		if len(*rested) != 0 {
			t.Errorf("%v rest", *rested)
		}
	})
}
