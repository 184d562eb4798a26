package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/runtime/memory"
	serving "github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/intake"
)

// worker stands in for one worker.
type worker struct {
	*world
	name   string
	born   time.Time
	budget int // prompt tokens of a step
	room   *intake.Room
	jobs   []*job // that it took
	dead   bool
	taking
	batching
}

// taking is the part of the intake's goroutine.
type taking struct {
	asker   *intake.Asker
	seat    int           // among those that listen to the bell; -1 is none
	pulling bool          // an answer of the queue is on its way
	freed   bool          // room was given back since the last look
	fitting *job          // needs more room than its size class promised
	again   time.Duration // when it looks again for itself
}

// batching is the part of the batch loop's goroutine.
type batching struct {
	planner batch.Planner
	sums    contracts.StepSums
	running []row
	order   uint64
	asked   bool // something of running is to be done before the next step

	stepping bool
	seed     uint64
	number   uint64 // of the step under way
	views    []batch.View
	pieces   []batch.Piece
	prompt   int // prompt tokens of the step
	single   int // rows of one generated token
	took     time.Duration
	stepped  func() // ends the step
}

// row is a job in the batch.
type row struct {
	batch.Progress
	rank     int
	order    uint64
	deadline time.Duration // since epoch; 0 is none
	job      *job
	stream
}

// save notes with the jobs what their rows have written.
func (w *worker) save() {
	for i := range w.running {
		w.running[i].job.stream = w.running[i].stream
	}
}

func newWorker(of *world, name string) *worker {
	w := &worker{world: of, name: name, born: of.now(), budget: cmp.Or(of.cfg.Prefill, of.info.MaxStepTokens)}
	w.seat, w.seed = -1, of.cfg.Seed+uint64(of.hired)<<32
	w.planner.Limits = batch.Limits{Budget: w.budget, Row: w.info.MaxStepTokens, Min: w.info.MinPrefill}
	w.room = intake.NewRoom(memory.NewBudget(of.cfg.Profile.KVMemory), w.info.MaxSequences)
	w.room.Bound(w.budget)
	w.asker = intake.NewAsker(of.promise)
	w.stepped = w.endStep
	w.beat()
	w.after(time.Duration(of.rng.Int64N(int64(serving.Heartbeat))), func() { w.every(serving.Heartbeat, w.beat) })
	w.after(time.Duration(of.rng.Int64N(int64(intake.Sweep))), func() {
		w.every(intake.Sweep, func() bool {
			w.asker.Doubt()
			w.look()
			return !w.dead
		})
	})
	w.look()
	return w
}

// look asks the queue for what there is room for.
func (w *worker) look() {
	for !w.pulling && !w.dead && w.fitting == nil {
		now := w.now()
		free, slots := w.room.Takes(now)
		act := w.asker.Next(free, slots, now)
		w.queue.listen(w, w.asker.Listens())
		for _, of := range w.asker.Passed() {
			w.queue.ring(of)
		}
		switch {
		case act.Do == intake.Pull:
			room := w.room.Reserve(act.Cost, 1)
			w.pulling = true
			w.after(w.cfg.Path.Pull, func() { w.pulled(act.Line, room) })
		case act.Do == intake.Look:
			w.pulling = true
			w.after(w.cfg.Path.Pull, func() { w.looked(act.Line) })
		case w.freed:
			w.freed = false
			w.asker.Forget()
			continue
		default:
			w.lookAgain(w.asker.Again(now))
		}
		return
	}
}

// lookAgain looks after a while, unless it does so sooner.
func (w *worker) lookAgain(wait time.Duration) {
	at := w.at + max(wait, time.Microsecond)
	if wait >= time.Hour || w.again > w.at && w.again <= at {
		return
	}
	w.again = at
	w.after(at-w.at, w.look)
}

// looked is the answer to whether a job waits in a line.
func (w *worker) looked(of intake.Line) {
	w.pulling = false
	if w.queue.front(of, false) != nil {
		w.asker.Waits(of)
	} else {
		w.asker.Empty(of, w.now())
	}
	w.look()
}

// pulled is the answer to a pull.
func (w *worker) pulled(of intake.Line, room *intake.Reservation) {
	w.pulling = false
	if w.dead {
		return
	}
	j := w.queue.front(of, true)
	if j == nil {
		room.Close()
		w.asker.Empty(of, w.now())
		w.look()
		return
	}
	w.asker.Took(of, w.queue.left(of), w.now())
	j.place, j.worker, j.room, j.since = taken, w, room, w.now()
	w.jobs = append(w.jobs, j)
	room.Feed(len(j.admitted.Tokens))
	w.fit(j)
	w.look()
}

// fit makes a job's reservation exactly what it needs; until that is possible nothing else is taken.
func (w *worker) fit(j *job) {
	w.fitting = nil
	switch {
	case j.place != taken || w.dead: // it ended while it waited
	case !j.deadline.IsZero() && !w.now().Before(j.deadline):
		w.end(j, contracts.CodeDeadlineExceeded)
	case !j.room.Try(w.info.KVBytes(j.admitted.KVTokens), 1):
		j.room.Try(0, 1)
		w.fitting = j
	default:
		w.after(w.cfg.Path.Claim, func() { w.claim(j) })
	}
}

// claim puts a job into the batch.
func (w *worker) claim(j *job) {
	switch {
	case j.place != taken || j.worker != w:
		return
	case w.dead:
		return
	}
	j.place = claimed
	w.desk.claimed(j)
	r := row{Progress: j.progress(), rank: slices.Index(contracts.Classes, j.admitted.Job.Class), order: w.order, job: j, stream: j.stream}
	if w.info.MinPrefill == 1 {
		r.Join()
	}
	if !j.deadline.IsZero() {
		r.deadline = j.deadline.Sub(epoch)
	}
	w.order++
	w.running = append(w.running, r)
	if r.Generated > 0 && r.Full() {
		w.asked = true // its last token was written by an earlier holder
	}
	if !w.stepping {
		w.begin()
	}
}

// drop forgets a job that it does not run any more and gives its room back.
func (w *worker) drop(j *job) {
	j.room.Close()
	j.worker = nil
	if i := slices.Index(w.jobs, j); i >= 0 {
		w.jobs = slices.Delete(w.jobs, i, i+1)
	}
	w.freed = true
	if w.fitting != nil {
		w.fit(w.fitting)
	}
	w.look()
}

// die ends the worker without a word.
func (w *worker) die() {
	w.dead = true
	w.save()
	w.queue.listen(w, false)
	for _, j := range w.jobs {
		if j.place == claimed {
			continue
		}
		w.after(topology.AckWait, func() { // nobody heard who had it: the queue gives it out when its lease is over
			if j.place == taken && j.worker == w {
				w.desk.giveBack(j)
			}
		})
	}
}

// yields tells whether the job gives way when asked.
func (j *job) yields() bool { return j.place == claimed && j.preempted < topology.MaxPreempt }

// beat is a heartbeat; it tells whether there will be another one.
func (w *worker) beat() bool {
	if w.dead {
		return false
	}
	w.save()
	now := w.now()
	total, _ := w.room.Total()
	free, _ := w.room.Free()
	h := contracts.Heartbeat{
		V: contracts.Version, Worker: w.name, State: contracts.WorkerReady, Sent: now.UnixMilli(), Started: w.born.UnixMilli(),
		Model: model, Variant: w.info.Variant, Backend: w.info.Backend, Device: w.info.Device, Fingerprint: w.info.Fingerprint,
		ContextLength: w.info.ContextLength, Slots: w.info.MaxSequences,
		KV: contracts.KVMemory{Total: total, Reserved: total - free, PerToken: w.info.KVBytesPerToken, Block: w.info.BlockTokens},
	}
	if w.sums.N > 0 {
		sums := w.sums
		sums.Budget = w.budget
		h.Steps = &sums
	}
	h.Jobs = make([]contracts.RunningJob, 0, len(w.jobs))
	for _, j := range w.jobs {
		kv, slots := j.room.Held()
		h.Jobs = append(h.Jobs, contracts.RunningJob{Job: j.key.Job, Tenant: j.key.Tenant, Class: j.admitted.Job.Class, Index: j.emitted,
			Started: j.since.UnixMilli(), KV: kv, Slots: slots, Yields: j.yields()})
	}
	w.kv.sum += float64(total-free) / float64(total)
	w.kv.n++
	w.desk.registry.Observe(h, now)
	w.desk.book.Beat(h, now)
	return true
}
