package ladder_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/ladder"
)

var at = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)

// second is 100 jobs of each class, of 50 tenants, and the share of them that the ladder lets through.
func second(l *ladder.Ladder, n int) (open [4]float64) {
	for i, c := range contracts.Classes {
		for j := range 100 {
			if l.Allow(ladder.Rung(c, fmt.Sprint("t", j%50), fmt.Sprint(n, "-", j), 0, at), 100) {
				open[i] += 0.01
			}
		}
	}
	return open
}

func outcomes(l *ladder.Ladder, c contracts.Class, good, late int) {
	for range good {
		l.First(c, true)
	}
	for range late {
		l.First(c, false)
	}
}

// What suffers is helped by what is less urgent first, and never at the cost of what is more urgent.
func TestShedsTheLeastUrgentFirst(t *testing.T) {
	t.Parallel()
	l := ladder.New()
	before := second(l, 0)
	for n := 1; n < 60; n++ {
		outcomes(l, contracts.P0, 100, 0)
		outcomes(l, contracts.P1, 40, 60)
		l.Tick()
		open := second(l, n)
		switch {
		case open[0] < 0.999:
			t.Fatalf("second %d: %v of p0 is let through, which does not suffer", n, open)
		case open[1] < 0.99 && open[2] > 0.01, open[2] < 0.99 && open[3] > 0.01:
			t.Fatalf("second %d: a more urgent class is shed before a less urgent one: %v", n, open)
		case open[3] > before[3]+0.05 || open[2] > before[2]+0.05:
			t.Fatalf("second %d: more is let through though p1 suffers: %v after %v", n, open, before)
		}
		before = open
	}
	if before[2] > 0 || before[3] > 0 || before[1] > 0.05 {
		t.Errorf("after a minute %v are let through, want p0 and nothing else", before)
	}
}

// A blip moves nothing: the burn must be there over 60 s too. When it lasts, the top comes down, once the slow
// window says so; when it is over, the top is up again within seconds.
func TestBothWindows(t *testing.T) {
	t.Parallel()
	l := ladder.New()
	for n := range 60 {
		second(l, n)
		outcomes(l, contracts.P2, 20, 0)
		l.Tick()
	}
	moved := -1
	for n := range 30 {
		second(l, n)
		outcomes(l, contracts.P2, 0, 20)
		_, _, c, changed := l.Tick()
		if n < 3 && changed {
			t.Fatalf("late for %d s, and the top moves to %v: %s", n+1, c.To, c.Reason)
		}
		if changed && moved < 0 {
			moved = n
			if !strings.Contains(c.Reason, "first tokens of p2") {
				t.Errorf("the reason is %q", c.Reason)
			}
		}
	}
	if moved < 0 || l.Open() > ladder.Top-20 {
		t.Fatalf("late for 30 s, and the top is at %v (moved after %d s)", l.Open(), moved)
	}
	low, seconds := l.Open(), 0
	for ; l.Open() < ladder.Top; seconds++ {
		second(l, seconds)
		outcomes(l, contracts.P2, 20, 0)
		if _, _, c, changed := l.Tick(); changed && c.To < c.From {
			low = c.To
		}
		if seconds > 60 {
			t.Fatalf("all is well for a minute, and the top is at %v, from %v", l.Open(), low)
		}
	}
	t.Logf("down from the %dth second to %v, up again after %d s", moved, low, seconds)
}

// When a surge is over the top is up at once, although it had begun to rise before, and what was late before does
// not bring it down again.
func TestOpensAfterASurge(t *testing.T) {
	t.Parallel()
	for _, lasts := range []int{2, 20} {
		t.Run(fmt.Sprintf("of %d s", lasts), func(t *testing.T) { surge(t, lasts) })
	}
}

func surge(t *testing.T, lasts int) {
	l := ladder.New()
	come := func(jobs int) { // of one tenant, so that a class is one rung
		for _, c := range contracts.Classes[:3] {
			for j := range jobs {
				l.Allow(ladder.Rung(c, "t", fmt.Sprint(j), 0, at), 100)
			}
		}
	}
	for range lasts {
		come(100)
		outcomes(l, contracts.P2, 20, 20)
		l.Tick()
	}
	cut := l.Open()
	if cut >= ladder.Top {
		t.Fatal("half of the first tokens were late, and nothing is shed")
	}
	for n := range 12 { // what is let through is in time, and the load goes down little by little
		come(100 - 8*n)
		outcomes(l, contracts.P2, 20, 0)
		if _, _, c, _ := l.Tick(); c.To < c.From {
			t.Errorf("%d s after the last late one the top moves from %v to %v: %s", n+1, c.From, c.To, c.Reason)
		}
	}
	if l.Open() < ladder.Top {
		t.Errorf("the load is an eighth, all is in time, and the top is at %v, cut to %v", l.Open(), cut)
	}
}

// Jobs that have waited for nearly their whole objective are lost: nobody waits for their first tokens to say so.
func TestQueueWaitLeads(t *testing.T) {
	t.Parallel()
	l := ladder.New()
	second(l, 0)
	for range 5 {
		l.Taken(contracts.P1, 850*time.Millisecond, time.Second)
	}
	if _, _, c, changed := l.Tick(); changed {
		t.Fatalf("waits of 85 %%: %+v", c)
	}
	second(l, 1)
	for range 5 {
		l.Taken(contracts.P1, 950*time.Millisecond, time.Second)
	}
	_, _, c, changed := l.Tick()
	if !changed || c.To >= c.From || !strings.Contains(c.Reason, "jobs of p1 waited 95 %") {
		t.Fatalf("waits of 95 %%: %+v, %v", c, changed)
	}
	for n := range 5 { // between the two bounds nothing moves
		second(l, n)
		for range 5 {
			l.Taken(contracts.P1, 850*time.Millisecond, time.Second)
		}
		if _, _, c, changed := l.Tick(); changed {
			t.Fatalf("waits of 85 %% after that: %+v", c)
		}
	}
}

// Two dispatchers that tell each other what they see come to the same.
func TestOthersAreHeard(t *testing.T) {
	t.Parallel()
	a, b := ladder.New(), ladder.New()
	for n := range 20 {
		second(a, n)
		second(b, n)
		outcomes(a, contracts.P0, 50, 50) // b hears of no late token itself
		seen, own, _, _ := a.Tick()
		b.Hear(seen, own)
		seen, own, _, _ = b.Tick()
		a.Hear(seen, own)
	}
	if d := a.Open() - b.Open(); a.Open() > ladder.Top-Cohorts || d > 40 || d < -40 {
		t.Errorf("after 20 s one is at %v, the other at %v", a.Open(), b.Open())
	}
}

// Cohorts is a class.
const Cohorts = ladder.Cohorts

// Whatever is seen: the top stays on the ladder, and what is always in time does not bring it down.
func TestTopIsOnTheLadder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := ladder.New()
		spared := rapid.IntRange(0, 3).Draw(t, "classes that suffer begin with")
		for n := range rapid.IntRange(1, 30).Draw(t, "seconds") {
			for i, c := range contracts.Classes {
				l.Allow(float64(i*Cohorts+n), 10)
				late := rapid.IntRange(0, 30).Draw(t, "late")
				if i < spared {
					late = 0
				}
				outcomes(l, c, rapid.IntRange(0, 30).Draw(t, "good"), late)
			}
			if _, _, c, changed := l.Tick(); changed && (c.Reason == "" || c.To < 0 || c.To > ladder.Top) {
				t.Fatalf("%+v", c)
			}
			if l.Open() < float64(spared*Cohorts) {
				t.Fatalf("the top is at %v though classes before p%d are in time", l.Open(), spared)
			}
		}
	})
}

// A job that was refused before stands higher than it did, and never above the ladder.
func TestRung(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(contracts.Classes).Draw(t, "class")
		tenant := rapid.String().Draw(t, "tenant")
		first, again := ladder.Rung(c, tenant, "j", 0, at), ladder.Rung(c, tenant, "j", rapid.IntRange(1, 1<<30).Draw(t, "retries"), at)
		if first < 0 || again < first || again >= ladder.Top || int(first)/Cohorts != int(c[1]-'0') {
			t.Fatalf("%s of %q: %v, then %v", c, tenant, first, again)
		}
	})
}
