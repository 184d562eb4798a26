package batch_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/pelton-run/pelton/worker/batch"
)

// device is how long a step takes: 4 ms, 0.9 ms for each prompt token and 1.5 ms for each row that decodes, about
// as SmolLM2 on two cores.
func device(prompt, rows int) time.Duration {
	return 4*time.Millisecond + time.Duration(prompt)*900*time.Microsecond + time.Duration(rows)*1500*time.Microsecond
}

// teach shows steps of the device, of few rows each.
func teach(observe func(prompt, rows int, took time.Duration)) {
	for i := range 60 {
		prompt, rows := i%3*20, 1+i%4
		observe(prompt, rows, device(prompt, rows))
	}
}

func taught() *batch.Pace {
	var p batch.Pace
	teach(p.Observe)
	return &p
}

// Short prompts get as many tokens as take as long as the step, with so many rows as never decoded before as
// well; longer ones get what brings them through in time.
func TestPaceFollowsTheDevice(t *testing.T) {
	t.Parallel()
	p := taught()
	for _, c := range []struct {
		rows, longest, most, want int
		why                       string
	}{
		{8, 60, 64, 17, "16 ms at 0.9 ms"},
		{32, 60, 64, 57, "52 ms at 0.9 ms"},
		{1, 60, 64, 16, "the floor"},
		{8, 60, 8, 8, "no more than there is room for"},
		{0, 60, 64, 64, "nobody decodes"},
		{8, 250, 64, 53, "250 tokens take 225 ms alone, and leave 75 ms for 4.7 steps of 16 ms"},
		{8, 400, 64, 64, "360 ms alone: all there is"},
	} {
		if got := p.Budget(c.rows, c.longest, c.most); got != c.want {
			t.Errorf("Budget(%d rows, a prompt of %d, at most %d) = %d, want %d: %s", c.rows, c.longest, c.most, got, c.want, c.why)
		}
	}
}

func TestPaceKnowsNothingAtFirst(t *testing.T) {
	t.Parallel()
	var p batch.Pace
	for range 19 {
		if got := p.Budget(8, 60, 64); got != 64 {
			t.Fatalf("Budget before the device is known = %d, want all 64", got)
		}
		p.Observe(20, 3, device(20, 3))
	}
}

// A step during which something else had the processor changes little, and a long time without prompts does
// not unlearn what they cost.
func TestPaceIsSteady(t *testing.T) {
	t.Parallel()
	p := taught()
	p.Observe(0, 8, 10*time.Second)
	for range 8 {
		p.Observe(20, 8, device(20, 8))
	}
	if got := p.Budget(8, 60, 1000); got < 16 || got > 24 {
		t.Errorf("Budget after one slow step = %d, want about 17", got)
	}
	for range 5000 {
		p.Observe(0, 3, device(0, 3))
	}
	if got := p.Budget(8, 60, 64); got < 16 || got > 24 {
		t.Errorf("Budget after a time without prompts = %d, want about 17", got)
	}
	for range 3 {
		p.Observe(0, 3, 0)
		p.Observe(7, 0, 0)
	}
	if got := p.Budget(8, 60, 64); got < 1 || got > 64 {
		t.Errorf("Budget after steps that took no time = %d", got)
	}
}

// asked is a request of the loads below.
type asked struct {
	prompt, answer     int
	fed, made          int
	sent, last, waited time.Duration // waited is the time to the first token
	gaps               []time.Duration
}

// serve runs requests on the device in virtual time: at most open of them at once, the next one as soon as one
// ends. It returns the times to first tokens and those between tokens, sorted.
func serve(open int, requests []*asked) (waits, gaps []time.Duration) {
	p := batch.Planner{Limits: batch.Limits{Budget: 64, Row: 64, Min: 1}}
	teach(p.Took)
	var running []*asked
	now, next := time.Duration(0), 0
	for next < len(requests) || len(running) > 0 {
		for ; next < len(requests) && len(running) < open; next++ {
			requests[next].sent = now
			running = append(running, requests[next])
		}
		var views []batch.View
		for i, r := range running {
			views = append(views, batch.View{Order: uint64(i), Prompt: r.prompt, Rest: r.prompt - r.fed})
		}
		prompt, rows := 0, 0
		pieces := p.Plan(nil, views)
		for _, piece := range pieces {
			prompt += piece.Prompt
			if piece.Prompt == 0 {
				rows++
			}
		}
		took := device(prompt, rows)
		p.Took(prompt, rows, took)
		now += took
		for _, piece := range pieces {
			running[piece.Index].step(piece.Prompt, now)
		}
		running = slices.DeleteFunc(running, func(r *asked) bool { return r.made == r.answer })
	}
	for _, r := range requests {
		waits, gaps = append(waits, r.waited), append(gaps, r.gaps...)
	}
	slices.Sort(waits)
	slices.Sort(gaps)
	return waits, gaps
}

// step is what a row of a step did for the request.
func (r *asked) step(prompt int, now time.Duration) {
	r.fed += prompt
	switch {
	case prompt == 0:
		r.gaps = append(r.gaps, now-r.last)
	case r.fed < r.prompt:
		return
	default:
		r.waited = now - r.sent
	}
	r.made, r.last = r.made+1, now
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1]
}

// Short prompts that come and go leave the streams beside them their rhythm, and the first tokens of many that
// come at once take at most twice as long as without any stream.
func TestShortPromptsKeepTheRhythm(t *testing.T) {
	t.Parallel()
	for _, open := range []int{4, 8, 16, 32} {
		var requests []*asked
		for i := range 8 * open {
			requests = append(requests, &asked{prompt: 60, answer: 48 + i*7%32})
		}
		waits, gaps := serve(open, requests)
		if p50, p99 := quantile(gaps, 0.5), quantile(gaps, 0.99); p99 > max(2*p50, p50+device(16, 0)) {
			t.Errorf("%d open: the 99th percentile of the time between tokens is %v, the median %v", open, p99, p50)
		}
		if most := 2 * time.Duration(open) * device(60, 0); waits[len(waits)-1] > most {
			t.Errorf("%d open: a first token took %v, want at most %v", open, waits[len(waits)-1], most)
		}
	}
}

// Among prompts of all lengths, half of the first tokens come within a third of what they would take in line at
// half the device's time, and streams wait no longer than a full step.
func TestLongPromptsAreNotHeldUp(t *testing.T) {
	t.Parallel()
	var requests []*asked
	for i := range 64 {
		requests = append(requests, &asked{prompt: 20 + i*331%880, answer: 16 + i*53%112})
	}
	waits, gaps := serve(8, requests)
	if got := quantile(waits, 0.5); got > 900*time.Millisecond {
		t.Errorf("the median first token took %v, want at most 900 ms", got)
	}
	if got := gaps[len(gaps)-1]; got > device(64, 8) {
		t.Errorf("a stream waited %v for a token, want at most %v", got, device(64, 8))
	}
}

// A long prompt has its first token although shorter ones never cease to come.
func TestShortPromptsStarveNoLongOne(t *testing.T) {
	t.Parallel()
	long := &asked{prompt: 900, answer: 1}
	requests := []*asked{long}
	for range 400 {
		requests = append(requests, &asked{prompt: 64, answer: 1})
	}
	serve(4, requests)
	if most := 10 * device(900, 0); long.waited > most {
		t.Errorf("the long prompt waited %v, want at most %v", long.waited, most)
	}
}
