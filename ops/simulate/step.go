package simulate

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
	serving "github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/batch"
)

// begin starts the next step, if there is anything to do.
func (w *worker) begin() {
	w.stepping = false
	if w.dead {
		return
	}
	w.leave()
	if len(w.running) == 0 {
		return
	}
	w.views = w.views[:0]
	held := 0
	for i := range w.running {
		r := &w.running[i]
		w.views = append(w.views, batch.View{Rank: r.rank, Order: r.order, Rest: r.Rest()})
	}
	w.pieces = w.planner.Plan(w.pieces[:0], w.views)
	w.prompt, w.single = 0, 0
	for _, p := range w.pieces {
		held += w.running[p.Index].Held() + max(1, p.Prompt)
		w.prompt += p.Prompt
		if p.Prompt == 0 {
			w.single++
		}
	}
	profile := &w.cfg.Profile
	w.number++
	w.took = profile.Vary(profile.Step(w.prompt, w.single, held), w.seed, w.number)
	w.stepping = true
	w.after(w.took, w.stepped)
}

// leave takes the jobs out of the batch that are to end before the next step.
func (w *worker) leave() {
	for i := range w.running {
		r := &w.running[i]
		if r.deadline > 0 && w.at >= r.deadline {
			w.asked = true
			break
		}
	}
	if !w.asked {
		return
	}
	w.asked = false
	w.keep(func(r *row) bool {
		j := r.job
		if (r.deadline == 0 || w.at < r.deadline) && j.asked == nothing && (r.Generated == 0 || !r.Full()) {
			return true
		}
		w.write(r, w.at)
		j.stream = r.stream
		switch {
		case r.deadline > 0 && w.at >= r.deadline:
			w.end(j, contracts.CodeDeadlineExceeded)
		case j.asked == cancel:
			w.end(j, contracts.CodeCanceled)
		case j.asked == yield:
			w.yield(j)
		default:
			w.end(j, "")
		}
		return false
	})
}

// keep drops the rows that stays does not want.
func (w *worker) keep(stays func(*row) bool) {
	kept := w.running[:0]
	for i := range w.running {
		if r := w.running[i]; stays(&r) {
			kept = append(kept, r)
		}
	}
	clear(w.running[len(kept):])
	w.running = kept
}

// yield gives a job back for a more urgent one.
func (w *worker) yield(j *job) {
	w.drop(j)
	j.preempted++
	w.preempted++
	w.desk.giveBack(j)
}

// endStep hands out what a step computed and begins the next one.
func (w *worker) endStep() {
	if w.dead {
		return
	}
	w.planner.Took(w.prompt, w.single, w.took)
	w.sums.Add(float64(w.prompt), float64(w.single), float64(w.took)/1e6, serving.Fade)
	w.busy += w.took
	w.steps++
	w.rows += len(w.pieces)
	w.prompts += w.prompt
	each := w.took / time.Duration(w.prompt+w.single)
	ended, fed := false, false
	for _, p := range w.pieces {
		r := &w.running[p.Index]
		samples := r.Samples(p.Prompt)
		r.Advance(p.Prompt)
		r.spent += each * time.Duration(max(1, p.Prompt))
		if p.Prompt > 0 && r.Rest() == 0 {
			r.job.room.Fed(r.Prompt)
			fed = true
		}
		if samples {
			r.Generated++
			w.token(r)
			ended = ended || r.Full()
		}
	}
	if ended {
		w.asked = true
	}
	if fed {
		w.look()
	}
	w.begin()
}
