package fleet

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

const (
	// SweepEvery is how often a dispatcher lets one of the workers with room look at the whole queue.
	SweepEvery = time.Second
	// PreemptEvery is how often a dispatcher looks whether its urgent jobs that wait have room.
	PreemptEvery = 100 * time.Millisecond
	// askTime is how long a worker may take until a job that was asked to give way is gone from its
	// heartbeats; after that it may be asked again.
	askTime = 2 * time.Second
	// waitTime is how long a job is remembered that nobody takes.
	waitTime = 10 * time.Minute
	// maxWaiting bounds the jobs that are remembered; further ones wait for room without help.
	maxWaiting = 10_000
)

// Waiting is an urgent job that no worker has taken yet.
type Waiting struct {
	Tenant, Job, Model string
	Class              contracts.Class
	KVTokens           int // that a worker reserves for it
	Slots              int

	since time.Time
}

// WaitingFor is a job that is put in the queue, as a [Preemptor] sees it; urgent tells whether others may
// have to give way to it. A worker that takes a job reserves what its size class promises.
func WaitingFor(a *contracts.Admitted) (w Waiting, urgent bool) {
	j := &a.Job
	w = Waiting{Tenant: j.Tenant, Job: j.ID, Model: j.Model, Class: j.Class, KVTokens: a.KVTokens, Slots: 1}
	if size := contracts.SizeFor(a.KVTokens); size != contracts.SizeX {
		w.KVTokens = size.Tokens()
	}
	if j.Params.N != nil {
		w.Slots = max(1, *j.Params.N)
	}
	return w, j.Class == contracts.P0 || j.Class == contracts.P1
}

// Preemptor chooses which jobs give way to urgent ones that wait. It counts on the room that comes from
// jobs that it asked before, so that it never asks for more than what waits needs. Not safe for
// concurrent use.
type Preemptor struct {
	waiting map[jobKey]Waiting
	asked   map[jobKey]time.Time
	landed  map[jobKey]landing // claimed, and not in a heartbeat of its worker yet
}

type landing struct {
	Waiting
	worker string
}

// NewPreemptor returns a preemptor that knows of no job.
func NewPreemptor() *Preemptor {
	return &Preemptor{waiting: map[jobKey]Waiting{}, asked: map[jobKey]time.Time{}, landed: map[jobKey]landing{}}
}

// Wait notes a job that was put in the queue.
func (p *Preemptor) Wait(w Waiting, now time.Time) {
	if len(p.waiting) < maxWaiting {
		w.since = now
		p.waiting[jobKey{w.Tenant, w.Job}] = w
	}
}

// Taken says that a record of a job appeared: worker claimed it, or it ended (worker is empty).
func (p *Preemptor) Taken(tenant, job, worker string, now time.Time) {
	key := jobKey{tenant, job}
	w, waits := p.waiting[key]
	delete(p.waiting, key)
	if waits && worker != "" {
		w.since = now
		p.landed[key] = landing{w, worker}
	}
}

// Idle tells whether no job waits.
func (p *Preemptor) Idle() bool { return len(p.waiting) == 0 }

// room is what one ready worker has.
type room struct {
	heartbeat contracts.Heartbeat
	bytes     int64
	slots     int
	jobs      []contracts.RunningJob // that may give way
}

func (r *room) cost(w Waiting) int64    { return int64(w.KVTokens) * r.heartbeat.KV.PerToken }
func (r *room) fits(w Waiting) bool     { return r.bytes >= r.cost(w) && r.slots >= w.Slots }
func (r *room) give(bytes int64, n int) { r.bytes, r.slots = r.bytes+bytes, r.slots+n }

// Plan lists the jobs to ask to give way now. Each is strictly less urgent than a job that waits and
// fits nowhere, yields, and is needed: without it the job would not fit on its worker. Jobs on one worker are chosen, as few as possible, the least urgent ones first,
// of those the latest started.
func (p *Preemptor) Plan(live []contracts.Heartbeat, now time.Time) []Holding {
	rooms := p.rooms(live, now)
	var victims []Holding
	for _, w := range p.order() {
		fits := func(r *room) bool { return r.heartbeat.Model == w.Model && r.fits(w) }
		if i := slices.IndexFunc(rooms, fits); i >= 0 {
			rooms[i].give(-rooms[i].cost(w), -w.Slots)
			continue
		}
		var best *room
		var chosen []contracts.RunningJob
		for _, r := range rooms {
			if r.heartbeat.Model != w.Model {
				continue
			}
			if jobs := r.victims(w); jobs != nil && (chosen == nil || len(jobs) < len(chosen) || len(jobs) == len(chosen) && lessUrgent(jobs[0], chosen[0]) < 0) {
				best, chosen = r, jobs
			}
		}
		for _, j := range chosen {
			best.give(j.KV, j.Slots)
			best.jobs = slices.DeleteFunc(best.jobs, func(k contracts.RunningJob) bool { return k.Tenant == j.Tenant && k.Job == j.Job })
			p.asked[jobKey{j.Tenant, j.Job}] = now
			victims = append(victims, Holding{j.Tenant, j.Job, best.heartbeat.Worker})
		}
		if best != nil {
			best.give(-best.cost(w), -w.Slots)
		}
	}
	return victims
}

// rooms is what the ready workers have, with what comes from those asked and without what was just
// claimed.
func (p *Preemptor) rooms(live []contracts.Heartbeat, now time.Time) []*room {
	var rooms []*room
	seen := map[jobKey]bool{}
	for _, h := range live {
		r := &room{heartbeat: h, bytes: h.KV.Total - h.KV.Reserved, slots: h.Slots}
		for _, j := range h.Jobs {
			key := jobKey{j.Tenant, j.Job}
			seen[key] = true
			at, asked := p.asked[key]
			switch {
			case asked && now.Sub(at) < askTime:
				r.bytes += j.KV
				continue // and its slot is as good as free
			case j.Yields:
				r.jobs = append(r.jobs, j)
			}
			r.slots -= j.Slots
		}
		for key, l := range p.landed {
			if l.worker == h.Worker && !seen[key] && now.Sub(l.since) < askTime {
				r.give(-r.cost(l.Waiting), -l.Slots)
			}
		}
		slices.SortStableFunc(r.jobs, lessUrgent)
		if h.State == contracts.WorkerReady {
			rooms = append(rooms, r)
		}
	}
	p.prune(seen, now)
	return rooms
}

// prune forgets what is over: seen are the jobs that workers hold.
func (p *Preemptor) prune(seen map[jobKey]bool, now time.Time) {
	for key, w := range p.waiting {
		if seen[key] || now.Sub(w.since) >= waitTime {
			delete(p.waiting, key)
		}
	}
	for key, at := range p.asked {
		if now.Sub(at) >= askTime {
			delete(p.asked, key)
		}
	}
	for key, l := range p.landed {
		if seen[key] || now.Sub(l.since) >= askTime {
			delete(p.landed, key)
		}
	}
}

// order lists the waiting jobs, the most urgent first, of those the one that has waited longest.
func (p *Preemptor) order() []Waiting {
	return slices.SortedFunc(maps.Values(p.waiting), func(a, b Waiting) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), a.since.Compare(b.since), cmp.Compare(a.Tenant+"\x00"+a.Job, b.Tenant+"\x00"+b.Job))
	})
}

// lessUrgent orders those first that give way first.
func lessUrgent(a, b contracts.RunningJob) int {
	return cmp.Or(cmp.Compare(b.Class, a.Class), cmp.Compare(b.Started, a.Started))
}

// victims are the jobs of r without which w fits, nil when there are none or too few.
func (r *room) victims(w Waiting) []contracts.RunningJob {
	after := *r
	var out []contracts.RunningJob
	for _, j := range r.jobs {
		if j.Class > w.Class && !after.fits(w) {
			after.give(j.KV, j.Slots)
			out = append(out, j)
		}
	}
	if !after.fits(w) {
		return nil
	}
	for i := len(out) - 1; i >= 0; i-- { // a large one may have made a small one needless
		without := after
		without.give(-out[i].KV, -out[i].Slots)
		if without.fits(w) {
			after, out = without, slices.Delete(out, i, i+1)
		}
	}
	return out
}
