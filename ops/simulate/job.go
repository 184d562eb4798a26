package simulate

import (
	"cmp"
	"strconv"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/intake"
)

// model is the name of what the fleet serves, tenant the one of who names none.
const (
	model  = "sim"
	tenant = "default"
)

// place is where a job is.
type place int

const (
	away     place = iota // at a dispatcher, or on its way to or from one
	waiting               // held, or in JOBS
	taken                 // at a worker, not claimed
	claimed               // in its worker's batch
	finished              // its final record is written, or it was refused
)

// job is one request of the plan on its way.
type job struct {
	key      priority.Key
	sample   *loadgen.Sample
	answered bool // the producer has its outcome
	admitted *contracts.Admitted
	deadline time.Time // zero is none

	place     place
	worker    *worker // of a taken or claimed one
	room      *intake.Reservation
	since     time.Time // when its worker took it
	asked     ask       // what its worker is to do with it before the next step
	preempted int       // times that it gave way

	stream
}

// stream is what a job has written, kept with its row while it runs.
type stream struct {
	emitted int             // tokens
	pending int             // tokens that are generated and not written
	wrote   time.Duration   // when the last record was written
	spent   time.Duration   // of devices
	pieces  []time.Duration // when each record reached the producer
}

// ask is why a job leaves its worker.
type ask int

const (
	nothing ask = iota
	cancel
	yield
)

func (w *world) newJob(i int) *job {
	r := w.cfg.Plan[i]
	w.out[i].Request = r
	j := &job{key: priority.Key{Tenant: r.Tenant, Job: strconv.Itoa(i)}, sample: &w.out[i]}
	j.key.Tenant = cmp.Or(j.key.Tenant, tenant)
	j.sample.Sent = r.At
	w.jobs[j.key.Job] = j
	return j
}

// answer ends the request for its producer, once.
func (w *world) answer(j *job, a loadgen.Answer) {
	if j.answered {
		return
	}
	j.answered = true
	j.sample.Answer, j.sample.Pieces, j.sample.End = a, j.pieces, w.at
	w.open--
}

// token notes one more token of a running job, and writes what is due as worker/emit does: the first one at
// once, further ones when the interval is over or there are enough.
func (w *world) token(r *row) {
	due := r.wrote + w.cfg.FlushInterval
	if r.pending > 0 && due < w.at {
		w.write(r, due)
		due += w.cfg.FlushInterval
	}
	r.pending++
	if r.emitted == 0 || r.pending >= w.cfg.FlushTokens || w.at >= due {
		w.write(r, w.at)
	}
}

// write puts the pending tokens into the stream.
func (w *world) write(r *row, at time.Duration) {
	if r.pending == 0 {
		return
	}
	if r.emitted == 0 {
		j := r.job
		r.pieces = make([]time.Duration, 0, min(r.Most, 2+int(time.Duration(r.Most)*(w.cfg.Profile.C0+w.cfg.Profile.Sched)/w.cfg.FlushInterval)))
		w.after(w.cfg.Path.Emit, func() { w.desk.first(j) })
	}
	r.emitted += r.pending
	r.pending, r.wrote = 0, at
	r.pieces = append(r.pieces, at+w.cfg.Path.Emit)
}

// end writes the final record; code is "" for a job that is complete.
func (w *world) end(j *job, code contracts.Code) {
	if j.place == finished {
		return
	}
	if j.worker != nil {
		j.worker.drop(j)
	}
	if code != "" {
		w.lost += j.spent
	}
	j.place = finished
	w.after(w.cfg.Path.Emit, func() {
		w.desk.ended(j, code)
		a := loadgen.Answer{Outcome: loadgen.Completed}
		if code != "" {
			a = loadgen.FailureOf(contracts.Errorf(code, "in the fleet"))
		}
		a.InputTokens, a.OutputTokens = j.sample.Input, j.emitted
		w.answer(j, a)
		delete(w.jobs, j.key.Job)
	})
}

// giveUp is a producer that leaves: the fleet hears of it a moment later.
func (w *world) giveUp(j *job) {
	if j.place == claimed {
		j.worker.save()
	}
	w.answer(j, loadgen.Answer{Outcome: loadgen.Canceled, InputTokens: j.sample.Input, OutputTokens: j.emitted})
	w.after(w.cfg.Path.Submit, func() {
		switch j.place {
		case claimed:
			j.asked, j.worker.asked = cancel, true
		case away, waiting, taken:
			w.end(j, contracts.CodeCanceled)
		}
	})
}

// expire ends a job whose deadline passed before a worker took it. A worker ends those that it has itself.
func (w *world) expire(j *job) {
	if j.place == away || j.place == waiting {
		w.end(j, contracts.CodeDeadlineExceeded)
	}
}

// progress is how far a job is that a worker begins with.
func (j *job) progress() batch.Progress {
	return batch.NewProgress(len(j.admitted.Tokens), j.emitted, *j.admitted.Job.Params.MaxTokens)
}
