package backlog_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/ladder"
	"github.com/pelton-run/pelton/worker/intake"
)

// The fleet of these tests: 2 workers whose step takes 100 ms and feeds 500 prompt tokens, so that prompts of
// 500 tokens on average make 20 jobs a second its capacity. Gaps are as uneven as in ServeGen's m-large.
const (
	step       = 100 * time.Millisecond
	capacity   = 20.0
	burstiness = 3.45
	warmUp     = 6 * time.Second
)

var goals = admission.Objectives{contracts.P0: 10 * step, contracts.P1: 15 * step, contracts.P2: 30 * step}

// stream is jobs of one tenant in a time.
type stream struct {
	tenant      string
	from, until time.Duration
	rate, cv    float64
	classes     string // drawn from
}

// play runs streams through a fleet of its own and returns their jobs.
func play(settings backlog.Settings, seed uint64, streams ...stream) [][]*visit {
	return newWorld(settings, 2, step, 500, 64).play(seed, streams...)
}

func (w *world) play(seed uint64, streams ...stream) [][]*visit {
	type arrival struct {
		at time.Duration
		of int
	}
	var arrivals []arrival
	for i, s := range streams {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		for t := s.from + gamma(rng, s.rate, s.cv); t < s.until; t += gamma(rng, s.rate, s.cv) {
			arrivals = append(arrivals, arrival{t, i})
		}
	}
	slices.SortStableFunc(arrivals, func(a, b arrival) int { return int(a.at - b.at) })
	rng := rand.New(rand.NewPCG(seed, 1000))
	out := make([][]*visit, len(streams))
	for n, a := range arrivals {
		w.until(start.Add(a.at))
		s := streams[a.of]
		class := contracts.Class("p" + s.classes[rng.IntN(len(s.classes)):][:1])
		out[a.of] = append(out[a.of], w.submit(s.tenant, fmt.Sprint(n), class, 300+rng.IntN(401), 20+rng.IntN(41)))
	}
	w.until(w.now.Add(2 * time.Minute))
	return out
}

// good tells whether a job was taken and its first token came in time.
func good(v *visit) bool {
	return v.refused == nil && !v.first.IsZero() && v.first.Sub(v.arrived) <= goals[v.Job.Class]
}

// outcome is what became of a surge.
type outcome struct {
	tokens   float64 // of good jobs, a second
	waste    float64 // share of tokens of jobs that were not good
	urgent   float64 // share of p0 that was good
	recovery time.Duration
}

// surge offers so many times the capacity for a minute and then half of it.
func surge(times float64, seed uint64) (o outcome) {
	const lasts = time.Minute
	end := warmUp + lasts
	w := newWorld(backlog.Settings{Objectives: goals}, 2, step, 500, 64)
	w.ladder = ladder.New()
	jobs := w.play(seed, stream{"t", 0, warmUp, 0.7 * capacity, 1, "0111222222"},
		stream{"t", warmUp, end, times * capacity, burstiness, "0111222222"}, stream{"t", end, end + lasts/2, 0.5 * capacity, 1, "0111222222"})
	sent, met, tokens, wasted := 0, 0, 0, 0
	for _, v := range jobs[1] {
		if v.Job.Class == contracts.P0 {
			sent++
		}
		switch {
		case !good(v):
			wasted += v.made
		case v.Job.Class == contracts.P0:
			met++
			fallthrough
		default:
			tokens += v.made
		}
	}
	for _, v := range jobs[2] {
		if !good(v) {
			o.recovery = v.arrived.Sub(start.Add(end))
		}
	}
	o.tokens, o.waste, o.urgent = float64(tokens)/lasts.Seconds(), float64(wasted)/float64(tokens+wasted), float64(met)/float64(sent)
	return o
}

// The goals of overload: at twice and four times the capacity the goodput stays at its peak, the most urgent
// class is served as if nothing happened, next to nothing is computed in vain, and it is over when it is over.
func TestGoodputStaysFlat(t *testing.T) {
	t.Parallel()
	const seeds = 4
	loads := []float64{1, 2, 4}
	means := map[float64]outcome{}
	peak := 0.0
	for _, times := range loads {
		var m outcome
		for seed := range uint64(seeds) {
			o := surge(times, seed)
			m.tokens, m.waste, m.urgent = m.tokens+o.tokens/seeds, m.waste+o.waste/seeds, m.urgent+o.urgent/seeds
			m.recovery = max(m.recovery, o.recovery)
		}
		t.Logf("%gx: %.0f good tokens/s, waste %.1f %%, p0 in time %.1f %%, recovery %v", times, m.tokens, 100*m.waste, 100*m.urgent, m.recovery)
		means[times], peak = m, max(peak, m.tokens)
	}
	for _, times := range loads {
		m, least := means[times], map[float64]float64{1: 0, 2: 0.95, 4: 0.9}[times]
		if m.tokens < least*peak || m.waste > 0.03 || m.urgent < 0.99 || m.recovery > 5*time.Second {
			t.Errorf("%gx: %+v; want goodput of at least %.0f %% of %.0f, waste of at most 3 %%, 99 %% of p0 in time, recovery within 5 s", times, m, 100*least, peak)
		}
	}
}

// Where nothing can be predicted, because the workers do not say what their steps take, the ladder finds by
// itself what can be served at twice the capacity: the urgent classes are in time as before, and the least urgent
// one is shed instead of served late.
func TestLadderWithoutPredictions(t *testing.T) {
	t.Parallel()
	const quick, end = 10 * time.Millisecond, 2 * time.Minute
	objectives := admission.Objectives{contracts.P0: 20 * quick, contracts.P1: 40 * quick, contracts.P2: 200 * quick}
	run := func(l *ladder.Ladder) (met, late [3]int) {
		w := newWorld(backlog.Settings{Objectives: objectives}, 2, quick, 500, 64)
		w.blind, w.ladder = true, l
		for _, v := range w.play(1, stream{"t", 0, end, 20 * capacity, 1, "0111222222"})[0] {
			rank := slices.Index(contracts.Classes, v.Job.Class)
			switch {
			case v.refused != nil:
			case !v.first.IsZero() && v.first.Sub(v.arrived) <= objectives[v.Job.Class]:
				met[rank]++
			default:
				late[rank]++
			}
		}
		return met, late
	}
	met, late := run(nil)
	metNow, lateNow := run(ladder.New())
	t.Logf("in time and late of p0, p1, p2: %v and %v without the ladder, %v and %v with it", met, late, metNow, lateNow)
	if lateNow[0]+lateNow[1] > 0 || metNow[0] != met[0] || metNow[1] != met[1] || metNow[2] < 5*met[2] || 5*lateNow[2] > late[2] {
		t.Errorf("in time %v and late %v, without the ladder %v and %v", metNow, lateNow, met, late)
	}
}

// A tenant that floods does not move another one's TTFT p95 by more than 20 %, in a fleet that was used to 90 %
// before, whether the other one's jobs come evenly or in bursts.
func TestFloodMovesNobodyElse(t *testing.T) {
	t.Parallel()
	for _, cv := range []float64{1, burstiness} {
		var before, beside []*visit
		for seed := range uint64(2) {
			const end = time.Minute
			light := stream{"light", warmUp, end, 0.2 * capacity, cv, "2"}
			heavy := stream{"heavy", 0, end, 0.7 * capacity, 1, "2"}
			before = append(before, play(backlog.Settings{}, seed, light, heavy)[0]...)
			beside = append(beside, play(backlog.Settings{}, seed, light, heavy, stream{"heavy", warmUp, end, 4 * capacity, 1, "2"})[0]...)
		}
		alone, flooded := p95(before), p95(beside)
		t.Logf("gaps with CV %g: TTFT p95 %v before, %v beside a flood of 4 times the capacity", cv, alone, flooded)
		if float64(flooded) > 1.2*float64(alone) {
			t.Errorf("gaps with CV %g: a flood of another tenant moved TTFT p95 from %v to %v", cv, alone, flooded)
		}
	}
}

// p95 is a percentile of the times to the first token of the jobs that were taken.
func p95(jobs []*visit) time.Duration {
	var took []time.Duration
	for _, v := range jobs {
		if v.refused == nil {
			took = append(took, v.first.Sub(v.arrived))
		}
	}
	slices.Sort(took)
	return took[len(took)*95/100]
}

// No sequence of arrivals starves a class: while more urgent ones never run out, a held p3 job is let in, and
// from then on no worker passes it over more often than worker/intake promises.
func TestNoClassStarves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		workers := rapid.IntRange(1, 3).Draw(t, "workers")
		endless := rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 1, 3, rapid.ID[int]).Draw(t, "classes without end")
		w := newWorld(backlog.Settings{}, workers, step, 500, 64)
		w.until(start.Add(time.Second))
		n, passed := 0, 0
		more := func(tenant string, class contracts.Class) *visit {
			n++
			return w.submit(tenant, fmt.Sprint(n), class, rapid.IntRange(1, 900).Draw(t, "prompt"), rapid.IntRange(1, 20).Draw(t, "output"))
		}
		var batch *visit
		done := false
		w.taken = func(v *visit) {
			done = done || v == batch
			passed++
		}
		refill := func() {
			for _, i := range endless {
				class := contracts.Classes[i]
				for waiting := 0; waiting < 8; waiting++ {
					more(fmt.Sprint("t", waiting%3), class)
				}
			}
		}
		refill()
		batch, passed = more("t", contracts.P3), 0
		most := workers * (4*intake.Patience[contracts.P3] + 16)
		for !done && passed <= most {
			refill()
			w.until(w.now.Add(step))
		}
		if !done {
			t.Fatalf("%d jobs were taken before the p3 one, at most %d are promised", passed, most)
		}
	})
}
