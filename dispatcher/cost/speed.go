package cost

import (
	"math"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Speed is what the live workers of one model do at the moment.
type Speed struct {
	Workers int     // that take jobs
	Known   bool    // the workers' steps are known: without it only the counts mean something
	Prompt  float64 // prompt tokens a second that all of them feed together while prompts wait
	Budget  int     // prompt tokens of a step, all workers together
	Rows    int     // sequences that run
	Slots   int     // of all workers
	Free    int     // sequences more that the workers have slots and memory for; jobs without a token have none yet
	Full    float64 // milliseconds of a step with prompts, on the mean worker
	Plain   float64 // milliseconds of a step without
	Error   float64 // of the fit, on the mean worker: a share of a step
	token   float64 // milliseconds of a prompt token
	chunk   float64 // prompt tokens of a step of one worker
}

type device struct{ variant, device string }

// SpeedOf sums up the workers of a model that take jobs. Workers of one variant and device share a fit; a
// worker whose device is not known yet, or whose sums are not [contracts.StepSums.Sound], counts as the mean of the
// others.
func SpeedOf(workers []contracts.Heartbeat, model string) Speed {
	sums := map[device]*contracts.StepSums{}
	var ready []contracts.Heartbeat
	for _, h := range workers {
		if h.Model != model || h.State != contracts.WorkerReady {
			continue
		}
		if h.Steps != nil && !h.Steps.Sound() {
			h.Steps = nil // of our copy
		}
		ready = append(ready, h)
		if h.Steps == nil {
			continue
		}
		key := device{h.Variant, h.Device}
		if sums[key] == nil {
			sums[key] = &contracts.StepSums{}
		}
		sums[key].Sum(*h.Steps, 1)
	}
	fits := map[device]contracts.StepFit{}
	for key, s := range sums {
		fits[key] = s.Fit()
	}
	s := Speed{Workers: len(ready)}
	known := 0.0
	for _, h := range ready {
		rows, free := room(h)
		s.Rows, s.Slots, s.Free = s.Rows+rows, s.Slots+h.Slots, s.Free+free
		if f := fits[device{h.Variant, h.Device}]; f.Known() && h.Steps != nil {
			known++
			s.add(f, float64(h.Steps.Budget), float64(rows))
		}
	}
	return s.mean(known)
}

// room is the sequences that run on a worker, and how many more it has slots and memory for, if they need as much
// as those that it has.
func room(h contracts.Heartbeat) (rows, free int) {
	all, kv, used := 0, 0.0, 0.0
	for _, j := range h.Jobs {
		n := max(1, j.Slots)
		all, kv = all+n, kv+float64(j.KV)
		if j.Index > 0 {
			rows, used = rows+n, used+float64(j.KV)
		}
	}
	free = h.Slots - rows
	if kv > 0 {
		free = int(min(float64(free), (float64(h.KV.Total)-used)*float64(all)/kv))
	}
	return rows, max(0, free)
}

func (s *Speed) add(f contracts.StepFit, budget, rows float64) {
	full := f.Took(budget, rows)
	s.Prompt += 1000 * budget / full
	s.Budget += int(budget)
	s.Full += full
	s.Plain += f.Took(0, rows)
	s.Error += f.Error
	s.token += f.PerToken
	s.chunk += budget
}

// mean turns the sums over known workers into means, and counts the others as their mean.
func (s Speed) mean(known float64) Speed {
	if known == 0 {
		return s
	}
	s.Known = true
	all := float64(s.Workers) / known
	s.Prompt *= all
	s.Budget = int(float64(s.Budget) * all)
	for _, v := range []*float64{&s.Full, &s.Plain, &s.Error, &s.token, &s.chunk} {
		*v /= known
	}
	return s
}

// Prefill is how long a worker takes to feed a prompt that nothing is in front of.
func (s Speed) Prefill(tokens int) time.Duration {
	if !s.Known {
		return 0
	}
	steps := math.Ceil(float64(tokens) / s.chunk)
	return ms(steps*s.Plain + s.token*float64(tokens))
}

// Step is how long a step with prompts takes.
func (s Speed) Step() time.Duration { return ms(s.Full) }

// Decode is how long tokens take after the first one; busy tells that prompts are fed beside them.
func (s Speed) Decode(tokens int, busy bool) time.Duration {
	step := s.Plain
	if busy {
		step = s.Full
	}
	return ms(float64(max(0, tokens-1)) * step)
}

// Feed is how long all workers together take to feed so many prompt tokens with the given share of their time.
func (s Speed) Feed(tokens, share float64) time.Duration {
	if !s.Known || tokens <= 0 {
		return 0
	}
	return ms(1000 * tokens / (s.Prompt * share))
}

// Drain is how long until so many slots are free, when answers have so many tokens.
func (s Speed) Drain(slots, output int) time.Duration {
	if slots <= 0 || !s.Known || s.Rows == 0 {
		return 0
	}
	perSecond := float64(s.Rows) / (float64(max(1, output)) * s.Full / 1000)
	return ms(1000 * float64(slots) / perSecond)
}

// ms is a duration of so many milliseconds, at most a day.
func ms(v float64) time.Duration {
	return time.Duration(min(v, 24*3600*1000) * float64(time.Millisecond))
}
