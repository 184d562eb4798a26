package simulate_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/ops/simulate"
	"github.com/pelton-run/pelton/runtime/sim"
)

func device(t testing.TB, name string) sim.Profile {
	t.Helper()
	p, err := sim.ProfileFor(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// load is a plan of Poisson arrivals.
func load(rate float64, span time.Duration, m loadgen.Mix) loadgen.Plan {
	rng := rand.New(rand.NewPCG(7, 0))
	return m.Fill(rng, loadgen.At(loadgen.Process{Kind: "poisson", Rate: rate}.Draw(rng, span, 0)))
}

func weights(t testing.TB, text string) loadgen.Weights {
	t.Helper()
	w, err := loadgen.ParseWeights(text)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func run(t testing.TB, c simulate.Config) ([]loadgen.Sample, loadgen.Fleet) {
	t.Helper()
	samples, fleet, err := simulate.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return samples, fleet
}

// busy has everything at once: more load than the fleet can do, classes, tenants, deadlines, producers that
// leave, workers that die.
func busy(t testing.TB) simulate.Config {
	return simulate.Config{
		Plan: load(80, 20*time.Second, loadgen.Mix{Input: loadgen.Lengths{Low: 50, High: 3000}, Output: loadgen.Lengths{Low: 1, High: 300},
			Classes: weights(t, "p0:1,p1:1,p2:3,p3:1"), Tenants: weights(t, "a:3,b:1"), Deadline: 8 * time.Second, CancelShare: 0.1, CancelAfter: 700 * time.Millisecond}),
		Workers: 3, Slots: 24, Profile: device(t, "h100"), Path: simulate.PathOf(2 * time.Millisecond), Seed: 5, Deaths: 3,
		Overload: backlog.Settings{Objectives: admission.Objectives{contracts.P0: 300 * time.Millisecond, contracts.P2: 2 * time.Second}},
	}
}

// The same configuration gives the same report, byte for byte; another seed gives another one.
func TestSameSeedSameBytes(t *testing.T) {
	t.Parallel()
	report := func(seed uint64) string {
		c := busy(t)
		c.Seed = seed
		samples, fleet := run(t, c)
		r := loadgen.Reduce(samples, loadgen.Measured{})
		r.Fleet = &fleet
		var b bytes.Buffer
		if err := r.WriteJSON(&b, true); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	first := report(5)
	for range 3 {
		if again := report(5); again != first {
			t.Fatalf("two runs of one seed differ: %d and %d bytes", len(first), len(again))
		}
	}
	if report(6) == first {
		t.Error("another seed gives the same report")
	}
}

// Whatever happens, each request ends once, with what it was promised, and no device works longer than time
// passes.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	c := busy(t)
	samples, fleet := run(t, c)
	seen, evicted := map[loadgen.Outcome]int{}, 0
	for i, s := range samples {
		seen[s.Outcome]++
		if s.At != c.Plan[i].At || s.End < s.At {
			t.Fatalf("request %d of %v: %+v", i, c.Plan[i].At, s)
		}
		if !slices.IsSorted(s.Pieces) || len(s.Pieces) > 0 && s.Pieces[0] <= s.At {
			t.Fatalf("request %d of %v came in pieces at %v", i, s.At, s.Pieces)
		}
		switch s.Outcome {
		case loadgen.Completed:
			if s.OutputTokens != s.Output || len(s.Pieces) == 0 || s.End > s.At+s.Deadline+50*time.Millisecond {
				t.Fatalf("request %d asked for %d tokens until %v and is complete with %d in %d pieces at %v", i, s.Output, s.At+s.Deadline, s.OutputTokens, len(s.Pieces), s.End)
			}
		case loadgen.Refused: // at once; or held, and ended when it could only have come after its objective
			if most := c.Overload.Objectives[s.Class] + 50*time.Millisecond; len(s.Pieces) > 0 || s.End-s.At > most {
				t.Fatalf("request %d was refused after %v and %d pieces", i, s.End-s.At, len(s.Pieces))
			}
			if s.End-s.At > 50*time.Millisecond {
				evicted++
			}
		case loadgen.Expired, loadgen.Canceled:
		default:
			t.Fatalf("request %d: %s: %s", i, s.Outcome, s.Message)
		}
	}
	for _, o := range []loadgen.Outcome{loadgen.Completed, loadgen.Refused, loadgen.Canceled} {
		if seen[o] == 0 {
			t.Errorf("no request was %s: %v", o, seen)
		}
	}
	if evicted == 0 || evicted > seen[loadgen.Refused]/2 {
		t.Errorf("%d of %d refused requests were held first, want some", evicted, seen[loadgen.Refused])
	}
	if fleet.Deaths != 3 || fleet.Handed == 0 || fleet.Busy <= 0.5 || fleet.Busy > 1 || fleet.Lost <= 0 || fleet.KV <= 0 || fleet.KV > 1 {
		t.Errorf("%+v: want 3 deaths, jobs that were handed over, and devices that were busy for most of the time", fleet)
	}
}

// Jobs of workers that die go on at the next token elsewhere, and urgent ones push others aside.
func TestDeathsAndPreemption(t *testing.T) {
	t.Parallel()
	c := simulate.Config{
		Plan:    load(12, 60*time.Second, loadgen.Mix{Input: loadgen.Lengths{Low: 100, High: 900}, Output: loadgen.Lengths{Low: 200, High: 800}, Classes: weights(t, "p0:1,p3:4")}),
		Workers: 4, Slots: 16, Profile: device(t, "h100"), Path: simulate.PathOf(time.Millisecond), Deaths: 5,
	}
	samples, fleet := run(t, c)
	var urgent []time.Duration
	for i, s := range samples {
		if s.Outcome != loadgen.Completed || s.OutputTokens != s.Output {
			t.Fatalf("request %d: %s with %d of %d tokens: %s", i, s.Outcome, s.OutputTokens, s.Output, s.Message)
		}
		if s.Class == contracts.P0 {
			urgent = append(urgent, s.Pieces[0]-s.At)
		}
	}
	slices.Sort(urgent)
	if fleet.Handed == 0 || fleet.Yielded == 0 {
		t.Errorf("%+v: want jobs that were handed over, and some that gave way", fleet)
	}
	if p50 := urgent[len(urgent)/2]; p50 > 200*time.Millisecond {
		t.Errorf("the median of the urgent first tokens is %v in a fleet that is full of batch jobs, want below 200 ms", p50)
	}
}

// A fleet of single slots without a way between its parts is a queue with c servers: each request ends when
// the recursion of Kiefer and Wolfowitz says, and the mean wait for constant times is Pollaczek and
// Khinchine's.
func TestQueueingTheory(t *testing.T) {
	t.Parallel()
	const step, mean = time.Millisecond, 20 // steps of a request
	server := device(t, "h100")
	server.C0, server.PerToken, server.PerRow, server.Sched, server.KVBandwidth, server.Jitter = step, 0, 0, 0, 1e30, 0
	for _, test := range []struct {
		servers     int
		load        float64 // of all servers
		exponential bool
		count       int
	}{
		{1, 0.8, false, 20_000}, {1, 0.7, true, 2000}, {4, 0.9, true, 4000}, {20, 0.95, true, 4000},
	} {
		rng := rand.New(rand.NewPCG(11, uint64(test.servers)))
		service := mean * step
		plan := loadgen.At(loadgen.Process{Kind: "poisson", Rate: test.load * float64(test.servers) / service.Seconds()}.Draw(rng, time.Hour, test.count))
		for i := range plan {
			plan[i].Input, plan[i].Output = 10, mean
			if test.exponential {
				plan[i].Output = max(1, int(mean*rng.ExpFloat64()))
			}
		}
		samples, _ := run(t, simulate.Config{Plan: plan, Workers: test.servers, Slots: 1, Profile: server, Overload: backlog.Settings{FIFO: true}})
		free := make([]time.Duration, test.servers) // when each server is
		total := time.Duration(0)
		for i, s := range samples {
			first := slices.Index(free, slices.Min(free))
			begins := max(free[first], s.At)
			free[first] = begins + time.Duration(s.Output)*step
			if s.End != free[first] {
				t.Fatalf("%d servers: request %d of %v ends at %v, want %v", test.servers, i, s.At, s.End, free[first])
			}
			total += begins - s.At
		}
		got, want := total.Seconds()/float64(test.count), service.Seconds()*test.load/(2*(1-test.load))
		if test.servers == 1 && !test.exponential && math.Abs(got/want-1) > 0.1 {
			t.Errorf("M/D/1 at %.0f %%: the mean wait is %.2f ms, theory says %.2f", 100*test.load, 1000*got, 1000*want)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	good := busy(t)
	for name, change := range map[string]func(*simulate.Config){
		"no plan":           func(c *simulate.Config) { c.Plan = nil },
		"no workers":        func(c *simulate.Config) { c.Workers = 0 },
		"too many workers":  func(c *simulate.Config) { c.Workers = simulate.MaxWorkers + 1 },
		"too many tokens":   func(c *simulate.Config) { c.Plan = loadgen.Plan{{Input: 1, Output: simulate.MaxTokens + 1}} },
		"no prompt":         func(c *simulate.Config) { c.Plan = loadgen.Plan{{Output: 1}} },
		"out of order":      func(c *simulate.Config) { c.Plan = loadgen.Plan{{At: 1, Input: 1, Output: 1}, {Input: 1, Output: 1}} },
		"no device":         func(c *simulate.Config) { c.Profile = sim.Profile{} },
		"negative path":     func(c *simulate.Config) { c.Path.Pull = -1 },
		"negative deaths":   func(c *simulate.Config) { c.Deaths = -1 },
		"unknown objective": func(c *simulate.Config) { c.Overload.Objectives = admission.Objectives{"p9": 1} },
	} {
		c := good
		change(&c)
		if _, _, err := simulate.Run(t.Context(), c); err == nil {
			t.Errorf("%s: it was simulated", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := simulate.Run(ctx, good); !errors.Is(err, context.Canceled) {
		t.Errorf("when the context has ended: %v", err)
	}
	long := simulate.Config{Plan: loadgen.Plan{{Input: 1_000_000, Output: 1}, {Input: 10, Output: 1, Class: "p9"}}, Workers: 1, Profile: device(t, "h100")}
	samples, _ := run(t, long)
	for _, s := range samples {
		if s.Outcome != loadgen.Failed || s.Message == "" {
			t.Errorf("what no worker can hold, and a class that is none: %s %q", s.Outcome, s.Message)
		}
	}
}

// BenchmarkThousand simulates 1,000 H100 under 10,000 requests a second.
func BenchmarkThousand(b *testing.B) {
	plan := load(10_000, 10*time.Second, loadgen.Mix{Input: loadgen.Lengths{Low: 400, High: 1428}, Output: loadgen.Lengths{Low: 10, High: 300}})
	for b.Loop() {
		start := time.Now()
		samples, fleet := run(b, simulate.Config{Plan: plan, Workers: 1000, Profile: device(b, "h100"), Path: simulate.PathOf(2 * time.Millisecond)})
		report := loadgen.Reduce(samples, loadgen.Measured{WarmUp: time.Second})
		b.ReportMetric(fleet.Seconds/time.Since(start).Seconds(), "simulated_s/s")
		b.ReportMetric(report.All.TTFT.P95, "ttft_p95_ms")
	}
}
