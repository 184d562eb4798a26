package batch_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pelton-run/pelton/worker/batch"
)

// device says how long a step takes.
type device struct {
	name     string
	step     func(prompt, rows int) time.Duration
	together int // tokens are computed at once, as [batch.Limits] has it
}

// vectors is 4 ms, 0.9 ms for each prompt token and 1.5 ms for each row that decodes, about as SmolLM2 on two cores.
var vectors = device{"vectors", func(prompt, rows int) time.Duration {
	return 4*time.Millisecond + time.Duration(prompt)*900*time.Microsecond + time.Duration(rows)*1500*time.Microsecond
}, 1}

// tiles is about as SmolLM2 on two cores that multiply 16 tokens at once.
var tiles = device{"tiles", func(prompt, rows int) time.Duration {
	return 5500*time.Microsecond + time.Duration((prompt+rows+15)/16)*4300*time.Microsecond +
		time.Duration(prompt)*20*time.Microsecond + time.Duration(rows)*200*time.Microsecond
}, 16}

// teach shows steps of the device, of few rows each.
func (d device) teach(observe func(prompt, rows int, took time.Duration)) {
	for i := range 60 {
		prompt, rows := i%3*20, 1+i%4
		observe(prompt, rows, d.step(prompt, rows))
	}
}

func taught() *batch.Pace {
	var p batch.Pace
	vectors.teach(p.Observe)
	return &p
}

// Prompts get as many tokens as take four fifths of the step, with so many rows as never decoded before as well. Where
// they press, steps become longer, from what is usual on.
func TestPaceFollowsTheDevice(t *testing.T) {
	t.Parallel()
	p := taught()
	for _, c := range []struct {
		rows, most, want int
		pressing         bool
		why              string
	}{
		{8, 64, 14, false, "four fifths of 16 ms at 0.9 ms"},
		{32, 64, 46, false, "four fifths of 52 ms at 0.9 ms"},
		{1, 64, 8, false, "the floor"},
		{8, 5, 5, false, "no more than there is room for"},
		{0, 64, 64, false, "nobody decodes"},
	} {
		if got := p.Budget(c.rows, c.pressing, c.most); got != c.want {
			t.Errorf("Budget(%d rows, pressing %v, at most %d) = %d, want %d: %s", c.rows, c.pressing, c.most, got, c.want, c.why)
		}
	}
	for range 200 {
		n := p.Budget(8, true, 64)
		p.Observe(n, 8, vectors.step(n, 8))
	}
	if got := p.Budget(8, true, 64); got != 64 {
		t.Errorf("Budget after 200 steps with prompts = %d, want all 64", got)
	}
	for range 200 {
		p.Observe(0, 8, vectors.step(0, 8))
	}
	if got := p.Budget(8, true, 64); got != 14 {
		t.Errorf("Budget after 200 steps without prompts = %d, want 14", got)
	}
}

func TestPaceKnowsNothingAtFirst(t *testing.T) {
	t.Parallel()
	var p batch.Pace
	for range 19 {
		if got := p.Budget(8, false, 64); got != 64 {
			t.Fatalf("Budget before the device is known = %d, want all 64", got)
		}
		p.Observe(20, 3, vectors.step(20, 3))
	}
}

// A step during which something else had the processor changes little, and a long time without prompts does
// not unlearn what they cost.
func TestPaceIsSteady(t *testing.T) {
	t.Parallel()
	p := taught()
	p.Observe(0, 8, 10*time.Second)
	for range 8 {
		p.Observe(20, 8, vectors.step(20, 8))
	}
	if got := p.Budget(8, false, 1000); got < 12 || got > 20 {
		t.Errorf("Budget after one slow step = %d, want about 14", got)
	}
	for range 5000 {
		p.Observe(0, 3, vectors.step(0, 3))
	}
	if got := p.Budget(8, false, 64); got < 12 || got > 20 {
		t.Errorf("Budget after a time without prompts = %d, want about 14", got)
	}
	for range 3 {
		p.Observe(0, 3, 0)
		p.Observe(7, 0, 0)
	}
	if got := p.Budget(8, false, 64); got < 1 || got > 64 {
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
func (d device) serve(open int, requests []*asked) (waits, gaps []time.Duration) {
	p := batch.Planner{Limits: batch.Limits{Budget: 80, Row: 80, Min: 1, Together: d.together}}
	d.teach(p.Took)
	var running []*asked
	now, next := time.Duration(0), 0
	for next < len(requests) || len(running) > 0 {
		for ; next < len(requests) && len(running) < open; next++ {
			requests[next].sent = now
			running = append(running, requests[next])
		}
		var views []batch.View
		for i, r := range running {
			views = append(views, batch.View{Order: uint64(i), Rest: r.prompt - r.fed})
		}
		prompt, rows := 0, 0
		pieces := p.Plan(nil, views)
		for _, piece := range pieces {
			prompt += piece.Prompt
			if piece.Prompt == 0 {
				rows++
			}
		}
		took := d.step(prompt, rows)
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

// load makes requests with prompts and answers of such lengths, each drawn evenly.
func load(n int, prompt, answer [2]int) (requests []*asked) {
	random := rand.New(rand.NewPCG(1, 2))
	for range n {
		requests = append(requests, &asked{
			prompt: prompt[0] + random.IntN(prompt[1]-prompt[0]+1),
			answer: answer[0] + random.IntN(answer[1]-answer[0]+1),
		})
	}
	return requests
}

// Prompts that come and go, of whatever length, leave the streams beside them an even rhythm, which is never slower
// than full steps. Half of the first tokens come within a stated time, and none takes more than twice as long as
// all prompts that are open at once do without any stream.
func TestPromptsKeepTheRhythm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		open           int
		prompt, answer [2]int
		most           [2]time.Duration // of the median time to a first token, by vectors and by tiles
	}{
		{4, [2]int{60, 60}, [2]int{48, 80}, [2]time.Duration{150 * time.Millisecond, 50 * time.Millisecond}},
		{8, [2]int{60, 60}, [2]int{48, 80}, [2]time.Duration{150 * time.Millisecond, 50 * time.Millisecond}},
		{16, [2]int{60, 60}, [2]int{48, 80}, [2]time.Duration{200 * time.Millisecond, 80 * time.Millisecond}},
		{32, [2]int{60, 60}, [2]int{48, 80}, [2]time.Duration{250 * time.Millisecond, 80 * time.Millisecond}},
		{4, [2]int{512, 512}, [2]int{64, 64}, [2]time.Duration{800 * time.Millisecond, 300 * time.Millisecond}},
		{8, [2]int{512, 512}, [2]int{64, 64}, [2]time.Duration{800 * time.Millisecond, 300 * time.Millisecond}},
		{4, [2]int{1500, 1500}, [2]int{64, 64}, [2]time.Duration{2300 * time.Millisecond, time.Second}},
		{8, [2]int{20, 900}, [2]int{16, 128}, [2]time.Duration{900 * time.Millisecond, 300 * time.Millisecond}},
	} {
		for i, d := range []device{vectors, tiles} {
			waits, gaps := d.serve(c.open, load(16*c.open, c.prompt, c.answer))
			wait, p50, p99 := quantile(waits, 0.5), quantile(gaps, 0.5), quantile(gaps, 0.99)
			what := fmt.Sprintf("%s, %d open, prompts of %v", d.name, c.open, c.prompt)
			t.Logf("%s: first tokens %v and %v, between tokens %v and %v", what, wait, quantile(waits, 0.95), p50, p99)
			if p99 > 2*p50 {
				t.Errorf("%s: the 99th percentile of the time between tokens is %v, the median %v", what, p99, p50)
			}
			if most := gaps[len(gaps)-1]; most > d.step(80, c.open-1) {
				t.Errorf("%s: a stream waited %v for a token, want at most %v", what, most, d.step(80, c.open-1))
			}
			if most := 2 * time.Duration(c.open) * d.step(c.prompt[1], 0); waits[len(waits)-1] > most {
				t.Errorf("%s: a first token took %v, want at most %v", what, waits[len(waits)-1], most)
			}
			if wait > c.most[i] {
				t.Errorf("%s: the median first token took %v, want at most %v", what, wait, c.most[i])
			}
		}
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
	vectors.serve(4, requests)
	if most := 10 * vectors.step(900, 0); long.waited > most {
		t.Errorf("the long prompt waited %v, want at most %v", long.waited, most)
	}
}
