package simulate

import (
	"math/rand/v2"
	"slices"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/intake"
)

// queue stands in for JOBS and the bell: a line of jobs for each class and size, in the order in which they
// came, and the workers that listen, one of which hears each ring.
type queue struct {
	lines   [4][4]line // by class and size
	listens []*worker
	rng     *rand.Rand
}

// line is a queue whose front is at head; jobs that ended meanwhile are skipped.
type line struct {
	back []*job // handed back: the last one goes first, and before the others
	jobs []*job
	head int
}

func (q *queue) line(of intake.Line) *line {
	return &q.lines[slices.Index(contracts.Classes, of.Class)][slices.Index(contracts.Sizes, of.Size)]
}

// put adds a job, before all others when it is handed back, and rings the bell.
func (q *queue) put(j *job, of intake.Line, handedBack bool) {
	j.place = waiting
	l := q.line(of)
	if handedBack {
		l.back = append(l.back, j)
	} else {
		l.jobs = append(l.jobs, j)
	}
	q.ring(of)
}

// ring makes one of the workers that listen hear the bell.
func (q *queue) ring(of intake.Line) {
	if n := len(q.listens); n > 0 {
		w := q.listens[q.rng.IntN(n)]
		w.asker.Ring(of)
		w.look()
	}
}

// left is how many jobs a line holds beside those that were handed back; some may have ended.
func (q *queue) left(of intake.Line) uint64 {
	l := q.line(of)
	return uint64(len(l.jobs) - l.head)
}

// front is the next job of a line, nil when it is empty; take removes it.
func (q *queue) front(of intake.Line, take bool) *job {
	l := q.line(of)
	for n := len(l.back); n > 0; n = len(l.back) {
		j := l.back[n-1]
		if take || j.place != waiting {
			l.back = l.back[:n-1]
		}
		if j.place == waiting {
			return j
		}
	}
	for l.head < len(l.jobs) {
		j := l.jobs[l.head]
		if take || j.place != waiting {
			l.jobs[l.head] = nil
			l.head++
		}
		if j.place == waiting {
			return j
		}
	}
	l.jobs, l.head = l.jobs[:0], 0
	return nil
}

// listen makes a worker hear the bell, or not.
func (q *queue) listen(w *worker, yes bool) {
	last := len(q.listens) - 1
	switch {
	case yes && w.seat < 0:
		w.seat = last + 1
		q.listens = append(q.listens, w)
	case !yes && w.seat >= 0:
		moved := q.listens[last]
		q.listens[w.seat] = moved
		moved.seat = w.seat
		q.listens = q.listens[:last]
		w.seat = -1
	}
}
