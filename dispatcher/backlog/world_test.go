package backlog_test

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/ladder"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/worker/intake"
)

// world is a fleet in virtual time: a real Backlog, JOBS as lines by class, and workers that ask the lines as
// worker/intake says, feed prompts most urgent first, take no more prompts than two steps can feed, and whose
// step takes a known time. Nothing in it is random but what its caller draws, so a run is the same each time.
type world struct {
	b       *backlog.Backlog
	step    time.Duration // of a worker
	chunk   int           // prompt tokens of a step
	slots   int           // of a worker
	now     time.Time
	workers []*hand
	jobs    [4][]*visit // JOBS
	all     map[priority.Key]*visit
	beats   []contracts.Heartbeat
	beat    time.Time
	taken   func(*visit)   // optional
	blind   bool           // the workers do not say what their steps take
	ladder  *ladder.Ladder // optional; looks once a second
	ticks   time.Time
}

// visit is one job's way through the fleet.
type visit struct {
	*contracts.Admitted
	class   contracts.Class
	arrived time.Time
	output  int
	rest    int // prompt tokens
	made    int // output tokens
	refused error
	evicted bool
	first   time.Time
	end     time.Time
}

// hand is a worker.
type hand struct {
	name  string
	slow  float64 // factor on its steps
	lines *intake.Lines
	has   []*visit
	sums  contracts.StepSums
	next  time.Time // end of the step under way
	fed   int       // in it
	rows  int
	work  []piece
}

type piece struct {
	v      *visit
	prompt int
}

func newWorld(cfg backlog.Settings, workers int, step time.Duration, chunk, slots int) *world {
	w := &world{step: step, chunk: chunk, slots: slots, now: start, beat: start, all: map[priority.Key]*visit{}}
	for i := range workers {
		w.workers = append(w.workers, &hand{name: fmt.Sprint("w", i), slow: 1, lines: intake.NewLines(func(contracts.Size) int64 { return 1 }), sums: contracts.StepSums{Budget: chunk}})
	}
	w.b = backlog.New(cfg, func() []contracts.Heartbeat { return w.beats })
	return w
}

// submit is a job that comes now.
func (w *world) submit(tenant, id string, class contracts.Class, prompt, output int) *visit {
	a := job(tenant, id, class, prompt)
	a.Job.Params.MaxTokens, a.Job.Params.IgnoreEOS = &output, true
	v := &visit{Admitted: a, arrived: w.now, output: output, rest: prompt}
	if w.ladder != nil && !w.ladder.Allow(ladder.Rung(class, tenant, id, 0, w.now), prompt) {
		v.refused = errors.New("shed by the ladder")
		return v
	}
	said, _, err := w.b.Place(a, w.now)
	if err != nil {
		v.refused = err
		return v
	}
	v.class = said.Class
	w.all[key(a)] = v
	if said.Hold {
		w.b.Stored(key(a), 1)
	} else {
		w.enter(v)
	}
	w.turns()
	return v
}

func (w *world) enter(v *visit) {
	i := slices.Index(contracts.Classes, v.class)
	w.jobs[i] = append(w.jobs[i], v)
	w.wake()
}

// turns lets in whose turn it is.
func (w *world) turns() {
	for i, ok := w.b.Lost(w.now); ok; i, ok = w.b.Lost(w.now) {
		w.all[i.Key].refused = fmt.Errorf("evicted")
		w.all[i.Key].evicted = true
		w.b.Ended(i.Key, "m", 0, false, false)
	}
	for {
		i, ok := w.b.Next(w.now)
		if !ok {
			return
		}
		w.enter(w.all[i.Key])
	}
}

// wake makes idle workers take jobs and begin a step.
func (w *world) wake() {
	for _, h := range w.workers {
		if h.next.IsZero() {
			w.begin(h)
		}
	}
}

// take is the intake: while there are slots, and fewer prompts than two steps feed.
func (w *world) take(h *hand) {
	h.lines.MarkAll()
	for {
		waiting := 0
		for _, v := range h.has {
			waiting += v.rest
		}
		if len(h.has) >= w.slots || waiting >= 2*w.chunk {
			return
		}
		act := h.lines.Next(1, w.slots-len(h.has))
		if act.Do != intake.Pull {
			return
		}
		line := &w.jobs[slices.Index(contracts.Classes, act.Line.Class)]
		if len(*line) == 0 || act.Line.Size != contracts.SizeS {
			h.lines.Empty(act.Line)
			continue
		}
		h.lines.Took(act.Line)
		if w.taken != nil {
			w.taken((*line)[0])
		}
		if p, placed := w.b.Taken(key((*line)[0].Admitted), w.now); placed && w.ladder != nil {
			w.ladder.Taken(p.Class, p.Actual, p.Want)
		}
		h.has = append(h.has, (*line)[0])
		*line = (*line)[1:]
	}
}

func (w *world) begin(h *hand) {
	w.take(h)
	h.next, h.fed, h.rows, h.work = time.Time{}, 0, 0, h.work[:0]
	if len(h.has) == 0 {
		return
	}
	order := slices.Clone(h.has)
	slices.SortStableFunc(order, func(a, b *visit) int { return cmp.Compare(a.class, b.class) })
	for _, v := range order {
		if v.rest == 0 {
			h.rows++
			h.work = append(h.work, piece{v, 0})
		} else if n := min(v.rest, w.chunk-h.fed); n > 0 {
			h.fed += n
			h.work = append(h.work, piece{v, n})
		}
	}
	h.next = w.now.Add(time.Duration(float64(w.step) * h.slow))
}

// finish ends the step of a worker.
func (w *world) finish(h *hand) {
	h.sums.Add(float64(h.fed), float64(h.rows), float64(w.now.Sub(w.now.Add(-time.Duration(float64(w.step)*h.slow)))/time.Microsecond)/1000, 0.002)
	for _, p := range h.work {
		v := p.v
		if v.rest -= p.prompt; v.rest > 0 {
			continue
		}
		if v.made++; v.made == 1 {
			v.first = w.now
			if p, news := w.b.First(subject.Live(v.Job.Tenant, v.Job.ID), w.now); news && w.ladder != nil {
				w.ladder.First(p.Class, p.Actual <= p.Want)
			}
		}
		if v.made >= v.output {
			v.end = w.now
			w.b.Ended(key(v.Admitted), v.Job.Model, v.made, true, true)
		}
	}
	h.has = slices.DeleteFunc(h.has, func(v *visit) bool { return !v.end.IsZero() })
	h.next = time.Time{}
	w.turns()
	w.wake()
}

// heartbeats are sent twice a second.
func (w *world) heartbeats() {
	w.beats = nil
	for _, h := range w.workers {
		sums := h.sums
		b := contracts.Heartbeat{Worker: h.name, Model: "m", State: contracts.WorkerReady, Slots: w.slots, Steps: &sums}
		for _, v := range h.has {
			b.Jobs = append(b.Jobs, contracts.RunningJob{Job: v.Job.ID, Tenant: v.Job.Tenant, Class: v.class, Index: v.made, Slots: 1})
		}
		if w.blind {
			b.Steps = nil
		}
		w.beats = append(w.beats, b)
	}
	w.beat = w.now.Add(500 * time.Millisecond)
	if w.ladder != nil && !w.now.Before(w.ticks) {
		w.ladder.Tick()
		w.ticks = w.now.Add(time.Second)
	}
	w.turns()
}

// until lets time pass.
func (w *world) until(t time.Time) {
	for {
		next := w.beat
		var who *hand
		for _, h := range w.workers {
			if !h.next.IsZero() && !h.next.After(next) {
				next, who = h.next, h
			}
		}
		if next.After(t) {
			w.now = t
			return
		}
		w.now = next
		if who == nil {
			w.heartbeats()
		} else {
			w.finish(who)
		}
	}
}

// gamma draws the gaps of a burst process: mean 1/rate, coefficient of variation cv.
func gamma(rng *rand.Rand, rate, cv float64) time.Duration {
	shape := 1 / (cv * cv)
	boost := 1.0
	k := shape
	if k < 1 { // Marsaglia and Tsang's method, lifted for shapes below 1
		boost, k = math.Pow(rng.Float64(), 1/k), k+1
	}
	d := k - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := math.Pow(1+c*x, 3)
		if v > 0 && math.Log(rng.Float64()) < 0.5*x*x+d-d*v+d*math.Log(v) {
			return time.Duration(d * v * boost / shape / rate * float64(time.Second))
		}
	}
}
