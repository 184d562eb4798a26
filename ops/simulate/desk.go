package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/fleet"
	"github.com/pelton-run/pelton/dispatcher/turn"
	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/worker/intake"
)

// offerLasts is how long the dispatcher believes what the largest worker can hold.
const offerLasts = 50 * time.Millisecond

// desk stands in for the dispatcher: it asks the parts that decide, and carries out what they say.
type desk struct {
	*world
	backlog  *backlog.Backlog
	registry *fleet.Registry
	book     *fleet.Book
	urgent   *fleet.Preemptor
	model    admission.Model
	prompt   []int32 // zeros: of a prompt only the length counts

	offer   admission.Capacity
	offered time.Time // when offer was looked up
	moving  int       // held jobs that are on their way into JOBS
	stored  uint64    // messages in SCHED so far
	looks   bool      // for jobs that may give way
}

func newDesk(w *world) *desk {
	d := &desk{world: w, registry: fleet.NewRegistry(fleet.DefaultTTL), book: fleet.NewBook(fleet.DefaultTTL), urgent: fleet.NewPreemptor(),
		model: admission.Model{Name: model, ContextLength: w.info.ContextLength, Vocab: w.info.Vocab}}
	longest := 0
	for _, r := range w.cfg.Plan {
		longest = max(longest, r.Input)
	}
	d.prompt = make([]int32, longest)
	d.backlog = backlog.New(w.cfg.Overload, func() []contracts.Heartbeat { return d.registry.Live(d.now()) })
	d.every(fleet.SweepEvery, func() bool {
		d.queue.ring(intake.Line{})
		return true
	})
	d.every(turn.Every, func() bool {
		d.turns()
		return true
	})
	d.every(fleet.HandOverEvery, func() bool {
		d.handOvers()
		return true
	})
	return d
}

// capacity is what the largest worker can hold.
func (d *desk) capacity() admission.Capacity {
	if now := d.now(); d.offered.IsZero() || now.Sub(d.offered) >= offerLasts {
		o := d.registry.Offer(model, now)
		d.offer = admission.Capacity{KVBytes: o.KVBytes, KVPerToken: o.KVPerToken, KVBlock: o.KVBlock, Slots: o.Slots, ContextLength: o.ContextLength}
		d.offered = now
	}
	return d.offer
}

// submit is what the doors do.
func (d *desk) submit(j *job) {
	now, r := d.now(), &j.sample.Request
	spec := &contracts.Job{ID: j.key.Job, Tenant: j.key.Tenant, Model: model, Kind: contracts.KindText, Class: r.Class, Prompt: "x", Submitted: now.UnixMilli(),
		Params: contracts.Params{MaxTokens: &r.Output, IgnoreEOS: true}}
	if r.Deadline > 0 {
		j.deadline = epoch.Add(r.At + r.Deadline)
		spec.Deadline = j.deadline.UnixMilli()
	}
	var a *contracts.Admitted
	var v admission.Verdict
	err := spec.Validate()
	if err == nil {
		a, err = admission.Measure(spec, d.prompt[:r.Input], &d.model, d.capacity(), admission.Limits{}, admission.Draw{Now: now})
	}
	if err == nil {
		v, _, err = d.backlog.Place(a, now)
	}
	decision := admission.Decision{Admitted: a}
	if err == nil {
		err = decision.Apply(v)
	}
	if err != nil {
		j.place = finished
		d.after(d.cfg.Path.Submit, func() {
			d.answer(j, loadgen.FailureOf(err))
			delete(d.jobs, j.key.Job)
		})
		return
	}
	j.admitted = decision.Admitted
	if r.Deadline > 0 {
		d.after(j.deadline.Sub(now), func() { d.expire(j) })
	}
	if !v.Hold {
		d.after(d.cfg.Path.Publish, func() { d.put(j, false) })
		return
	}
	d.after(d.cfg.Path.Publish, func() {
		if j.place == away {
			j.place = waiting
			d.stored++
			d.backlog.Stored(j.key, d.stored)
			d.turns()
		}
	})
}

// put puts a job into JOBS.
func (d *desk) put(j *job, handedBack bool) {
	if j.place == finished {
		return
	}
	if w, urgent := fleet.WaitingFor(j.admitted); urgent && !handedBack {
		d.urgent.Wait(w, d.now())
		d.lookForRoom()
	}
	d.queue.put(j, lineOf(j), handedBack)
}

func lineOf(j *job) intake.Line {
	return intake.Line{Class: j.admitted.Job.Class, Size: contracts.SizeFor(j.admitted.KVTokens)}
}

// turns ends held jobs that would come too late and lets others in: each is read from SCHED and published.
func (d *desk) turns() {
	for {
		i, ok := d.backlog.Lost(d.now())
		if !ok {
			break
		}
		if j := d.jobs[i.Job]; j != nil {
			d.end(j, contracts.CodeOverloaded)
		}
		d.backlog.Drop(i.Key)
	}
	for d.moving < turn.AtOnce {
		i, ok := d.backlog.Next(d.now())
		if !ok {
			return
		}
		j := d.jobs[i.Job]
		d.moving++
		d.after(2*d.cfg.Path.Publish, func() {
			d.moving--
			if j != nil {
				d.put(j, false)
			}
			d.turns()
		})
	}
}

// first hears the first piece of a job.
func (d *desk) first(j *job) {
	if _, news := d.backlog.First(subject.Live(j.key.Tenant, j.key.Job), d.now()); news {
		d.turns()
	}
}

// ended hears the final record of a job.
func (d *desk) ended(j *job, code contracts.Code) {
	d.book.Record(j.key.Tenant, j.key.Job, &contracts.Chunk{Finish: contracts.FinishStop, Code: code}, d.now())
	d.urgent.Taken(j.key.Tenant, j.key.Job, "", d.now())
	d.backlog.Ended(j.key, model, j.emitted, j.emitted > 0, code == "")
	d.turns()
}

// claimed hears that a worker claimed a job.
func (d *desk) claimed(j *job) {
	d.book.Record(j.key.Tenant, j.key.Job, &contracts.Chunk{Claim: &contracts.Claim{Worker: j.worker.name}}, d.now())
	d.urgent.Taken(j.key.Tenant, j.key.Job, j.worker.name, d.now())
}

// released hears that a worker gave a job back, or that a dead one's was taken from it.
func (d *desk) released(j *job) {
	d.book.Record(j.key.Tenant, j.key.Job, &contracts.Chunk{Claim: &contracts.Claim{Released: contracts.ReleasePreempt}}, d.now())
}

// handOvers gives the jobs of dead workers back to the queue.
func (d *desk) handOvers() {
	if d.deaths == 0 {
		return
	}
	lost := d.book.Of(d.registry.Dead(d.now()))
	slices.SortFunc(lost, func(a, b fleet.Holding) int {
		return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.Job, b.Job))
	})
	for _, h := range lost {
		d.book.Forget(h)
		if j := d.jobs[h.Job]; j != nil && j.worker != nil && j.worker.name == h.Worker {
			d.handedOver++
			d.giveBack(j)
		}
	}
}

// giveBack puts a job into the queue that a worker had.
func (d *desk) giveBack(j *job) {
	if j.asked == cancel {
		d.end(j, contracts.CodeCanceled)
		return
	}
	d.released(j)
	j.worker, j.room, j.asked, j.pending, j.place = nil, nil, nothing, 0, away // what was not written is lost
	d.after(d.cfg.Path.Publish, func() { d.put(j, true) })
}

// lookForRoom makes less urgent jobs give way while urgent ones wait.
func (d *desk) lookForRoom() {
	if d.looks {
		return
	}
	d.looks = true
	d.every(fleet.PreemptEvery, func() bool {
		for _, v := range d.urgent.Plan(d.registry.Live(d.now()), d.now()) {
			d.after(d.cfg.Path.Emit, func() {
				if j := d.jobs[v.Job]; j != nil && j.place == claimed && j.yields() {
					j.asked, j.worker.asked = yield, true
				}
			})
		}
		d.looks = !d.urgent.Idle()
		return d.looks
	})
}
