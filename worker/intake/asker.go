package intake

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Sweep is how often a worker asks all lines in case a bell was missed, unless its configuration says
// otherwise.
const Sweep = time.Second

// echoes are the pauses after which a line that rang and then had no job is asked again: the broker
// acknowledges a publish, after which the bell rings, a moment before its consumers see the message.
var echoes = []time.Duration{time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 125 * time.Millisecond}

// Asker decides what a worker asks the queue for, and whether it listens to the bell: [Lines], and what
// rang lately. Pure: time is an argument; not safe for concurrent use.
type Asker struct {
	*Lines
	listens bool
	rung    map[Line]*echo
}

// echo is a line that rang lately.
type echo struct {
	tries int
	at    time.Time // when to ask again; zero while the line is marked
}

// NewAsker makes one whose lines are all to be asked. cost is as for [NewLines].
func NewAsker(cost func(contracts.Size) int64) *Asker {
	return &Asker{Lines: NewLines(cost), rung: map[Line]*echo{}}
}

// Listens tells whether the worker listens to the bell: whether there was room at the last Next.
func (a *Asker) Listens() bool { return a.listens }

// Next decides what to do with free bytes and slots. Getting room marks all lines: bells that rang
// meanwhile were heard by others, or by nobody.
func (a *Asker) Next(free int64, slots int, now time.Time) Action {
	for line, e := range a.rung {
		if !e.at.IsZero() && !now.Before(e.at) {
			e.at = time.Time{}
			a.Mark(line)
		}
	}
	room := slots > 0 && free >= a.Smallest()
	if room && !a.listens {
		a.MarkAll()
	}
	a.listens = room
	return a.Lines.Next(free, slots)
}

// Ring says that the bell rang for a line.
func (a *Asker) Ring(of Line) {
	if a.Mark(of) {
		a.rung[of] = &echo{}
	}
}

// Empty says that a line had no job; if it rang lately, it will be asked again.
func (a *Asker) Empty(of Line, now time.Time) {
	a.Lines.Empty(of)
	e := a.rung[of]
	switch {
	case e == nil:
	case e.tries == len(echoes):
		delete(a.rung, of)
	default:
		e.at = now.Add(echoes[e.tries])
		e.tries++
	}
}

// Again is how long until a line must be asked again, an hour when none must.
func (a *Asker) Again(now time.Time) time.Duration {
	wait := time.Hour
	for _, e := range a.rung {
		if !e.at.IsZero() {
			wait = min(wait, e.at.Sub(now))
		}
	}
	return wait
}
