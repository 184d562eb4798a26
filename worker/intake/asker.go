package intake

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Sweep is how often a worker asks all lines of its own accord, unless its configuration says otherwise. A
// dispatcher lets one of them all do so each second, in case a bell was missed.
const Sweep = 10 * time.Second

// pauses are how long a line is left alone after it was found empty once, twice and so on: the broker
// acknowledges a publish, after which the bell rings, a moment before its consumers see the message; and a
// line that was empty is likely to be so still.
var pauses = [...]time.Duration{0, time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 125 * time.Millisecond}

// urgentPauses are how long a line of p0 or p1 is left alone at most for which nothing rang: with room again an
// urgent job may have come whose ring was passed on to nobody, and less urgent ones must not go before it.
var urgentPauses = map[contracts.Class]time.Duration{contracts.P0: time.Millisecond, contracts.P1: 5 * time.Millisecond}

// Asker decides what a worker asks the queue for, and whether it listens to the bell: [Lines], and what is
// known of each from bells and answers. Pure: time is an argument; not safe for concurrent use.
//
//  1. A ring is one job: the line is asked once for it, and again after each of the pauses while it has none.
//  2. With room again, a sweep or a ring for all, every line is in doubt: bells may have rung that others heard, or
//     nobody. A line in doubt is asked until it is empty; one that was found empty lately, after its pause.
//  3. What rang and finds no room is passed on to a worker that has some.
type Asker struct {
	lines   *Lines
	listens bool
	passed  []Line
}

// knowledge is what is known of a line.
type knowledge struct {
	rings   int           // heard, of jobs that were not taken yet
	doubt   bool          // jobs may wait in it whose bells this worker did not hear
	empties int           // how often in a row it was found empty, at most the last of pauses
	since   time.Time     // when it was so last
	most    time.Duration // that it is left alone when nothing rang
}

// asks tells whether the line is to be asked, and when at the earliest.
func (k *knowledge) asks() (bool, time.Time) {
	pause := pauses[k.empties]
	if k.rings == 0 {
		pause = min(pause, k.most)
	}
	return k.rings > 0 || k.doubt, k.since.Add(pause)
}

// NewAsker makes one whose lines are all in doubt. cost is as for [NewLines].
func NewAsker(cost func(contracts.Size) int64) *Asker {
	a := &Asker{lines: NewLines(cost)}
	for i := range a.lines.all {
		l := &a.lines.all[i]
		l.most = pauses[len(pauses)-1]
		if most, urgent := urgentPauses[l.Class]; urgent {
			l.most = most
		}
	}
	a.Doubt()
	return a
}

// Doubt says that every line may hold any number of jobs.
func (a *Asker) Doubt() {
	a.lines.MarkAll()
	for i := range a.lines.all {
		a.lines.all[i].doubt = true
	}
}

// Listens tells whether the worker listens to the bell: whether there was room at the last Next.
func (a *Asker) Listens() bool { return a.listens }

// Passed takes the rings that others shall hear, one for each job.
func (a *Asker) Passed() []Line {
	p := a.passed
	a.passed = nil
	return p
}

// Next decides what to do with free bytes and slots.
func (a *Asker) Next(free int64, slots int, now time.Time) Action {
	room := slots > 0 && free >= max(1, a.lines.Smallest())
	if room && !a.listens {
		a.Doubt()
	}
	a.listens = room
	for i := range a.lines.all {
		l := &a.lines.all[i]
		for ; !room && l.rings > 0; l.rings-- {
			a.passed = append(a.passed, l.Line)
		}
		asks, at := l.asks()
		l.marked = asks && !now.Before(at)
	}
	return a.lines.Next(free, slots)
}

// Ring says that the bell rang for a line, or for all of them: the zero Line.
func (a *Asker) Ring(of Line) {
	if of == (Line{}) {
		a.Doubt()
	} else if l := a.lines.find(of); l != nil {
		l.rings++
		l.empties = 0
	}
}

// Took says that a job was taken from a line, in which so many are left that nobody took.
func (a *Asker) Took(of Line, left uint64, now time.Time) {
	a.lines.Took(of)
	k := a.lines.find(of)
	k.rings, k.empties = max(0, k.rings-1), 0
	switch {
	case left == 0:
		k.doubt = false
	case k.rings == 0 && !k.doubt: // others heard their bells; if not, they are found soon
		k.doubt, k.empties, k.since = true, 2, now
	}
	if k.rings == 0 && !k.doubt {
		a.lines.Empty(of)
	}
}

// Empty says that a line had no job.
func (a *Asker) Empty(of Line, now time.Time) {
	a.lines.Empty(of)
	k := a.lines.find(of)
	k.doubt, k.since = false, now
	if k.empties++; k.empties == len(pauses) {
		k.rings, k.empties = 0, len(pauses)-1
	}
}

// Waits says that a look found a job in a line.
func (a *Asker) Waits(of Line) { a.lines.Waits(of) }

// Forget drops what looks told, since another worker may have taken the job by now.
func (a *Asker) Forget() { a.lines.Forget() }

// Again is how long until a line is to be asked again, an hour when none is.
func (a *Asker) Again(now time.Time) time.Duration {
	wait := time.Hour
	for i := range a.lines.all {
		if asks, at := a.lines.all[i].asks(); asks && a.listens && now.Before(at) {
			wait = min(wait, at.Sub(now))
		}
	}
	return wait
}
