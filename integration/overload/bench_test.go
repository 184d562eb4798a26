package overload

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"testing"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/integration/chaos"
	"github.com/pelton-run/pelton/ops/loadgen"
)

var (
	workers = flag.Int("workers", 2, "simulated workers")
	step    = flag.Duration("step", 100*time.Millisecond, "of the simulated device, with up to 500 tokens")
	surge   = flag.Duration("surge", 20*time.Second, "how long the load lasts; half of it comes after it at half the capacity")
	seed    = flag.Uint64("seed", 1, "of the arrivals")
	only    = flag.String("only", "", "deadline or fifo: only this build")
)

// steps are the objectives of the classes for the time to the first token, in steps of the device. A prompt
// alone takes two.
var steps = map[contracts.Class]int{contracts.P0: 10, contracts.P1: 15, contracts.P2: 30}

// mix is what is asked for: prompts of about 500 tokens, 20 to 60 tokens out.
var mix = loadgen.Mix{Input: loadgen.Lengths{Low: 300, High: 700}, Output: loadgen.Lengths{Low: 20, High: 60}}

const (
	burstiness = 3.45             // coefficient of variation of the gaps, as in ServeGen's m-large
	giveUp     = 30 * time.Second // the producer waits no longer
	normal     = 0.5              // of the capacity: the load after the surge
)

// BenchmarkOverload offers 1, 2 and 4 times what the fleet can do, to the build that judges and to the one
// that takes everything, and prints what came of it.
func BenchmarkOverload(b *testing.B) {
	capacity := 0.0
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "build\toffered\treq/s\tgood tokens/s\tp0 in time\tp1\tp2\twaste\trefused\trefusal p50\tp99\tTTFT p0 p99\trecovery\t")
	peak := map[string]float64{}
	var lines []result
	for _, build := range []string{"deadline", "fifo"} {
		if *only != "" && build != *only {
			continue
		}
		for _, times := range []float64{1, 2, 4} {
			f := chaos.NewInProcess(b, chaos.Floor{Workers: *workers, Slots: 64, Step: *step, Dispatcher: func(_ int, cfg *dispatcher.Config) {
				cfg.Overload = backlog.Settings{FIFO: build == "fifo", Objectives: objectives()}
			}})
			target := connect(b, f)
			prompter, err := loadgen.Gauge(b.Context(), target)
			if err != nil {
				b.Fatal(err)
			}
			if capacity == 0 {
				capacity = saturate(b, target, prompter)
				fmt.Printf("capacity: %.1f requests/s, %d workers, step %v, objectives in steps %v, gaps with CV %v, seed %d\n", capacity, *workers, *step, steps, burstiness, *seed)
			} else {
				warm(b, target, prompter, capacity)
			}
			r := measure(b, target, prompter, capacity, times)
			r.build, r.times = build, times
			lines = append(lines, r)
			peak[build] = max(peak[build], r.goodTokens)
			r.print(table)
			f.Rest()
		}
	}
	_ = table.Flush()
	for _, r := range lines {
		fmt.Printf("%s %gx: goodput %.0f %% of this build's peak\n", r.build, r.times, 100*r.goodTokens/peak[r.build])
	}
}

func objectives() admission.Objectives {
	o := admission.Objectives{}
	for c, n := range steps {
		o[c] = time.Duration(n) * *step
	}
	return o
}

func connect(b *testing.B, f *chaos.InProcess) loadgen.Target {
	b.Helper()
	nc, err := nats.Connect(f.NATS())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	c := client.New(nc, "default", client.WithoutReplay())
	return &loadgen.NATS{Client: func(string) *client.Client { return c }, Model: chaos.Model, Text: true, IgnoreEOS: true}
}

// saturate is how many requests a second are completed when there are always enough.
func saturate(b *testing.B, t loadgen.Target, p loadgen.Prompter) float64 {
	b.Helper()
	rng := rand.New(rand.NewPCG(*seed, 7))
	const window = 15 * time.Second
	classes, _ := loadgen.ParseWeights("p3:1")
	m := mix
	m.Classes = classes
	samples, err := loadgen.Run(b.Context(), loadgen.Config{Plan: m.Fill(rng, make(loadgen.Plan, 100_000)), Target: t, Prompter: p, Concurrency: 40 * *workers, Until: window, Timeout: giveUp})
	if err != nil {
		b.Fatal(err)
	}
	done := 0
	for _, s := range samples {
		if s.Outcome == loadgen.Completed && s.End >= window/3 && s.End < window {
			done++
		}
	}
	return float64(done) / (window * 2 / 3).Seconds()
}

// warm lets a new fleet learn what its steps take, at a load that it can do.
func warm(b *testing.B, t loadgen.Target, p loadgen.Prompter, capacity float64) {
	b.Helper()
	run(b, t, p, phase{0, 6 * time.Second, 0.7 * capacity, true})
}

// phase is a time with so many requests a second.
type phase struct {
	from, until time.Duration
	rate        float64
	even        bool // Poisson, so that what is late is so because of what was before
}

func run(b *testing.B, t loadgen.Target, p loadgen.Prompter, phases ...phase) []loadgen.Sample {
	b.Helper()
	rng := rand.New(rand.NewPCG(*seed, 11))
	var plan loadgen.Plan
	for _, ph := range phases {
		process := loadgen.Process{Kind: "gamma", Rate: ph.rate, CV: burstiness}
		if ph.even {
			process = loadgen.Process{Kind: "poisson", Rate: ph.rate}
		}
		times := process.Draw(rng, ph.until-ph.from, 0)
		for i := range times {
			times[i] += ph.from
		}
		plan = append(plan, loadgen.At(times)...)
	}
	classes, err := loadgen.ParseWeights("p0:1,p1:3,p2:6")
	if err != nil {
		b.Fatal(err)
	}
	m := mix
	m.Classes = classes
	samples, err := loadgen.Run(b.Context(), loadgen.Config{Plan: m.Fill(rng, plan), Target: t, Prompter: p, Timeout: giveUp})
	if err != nil {
		b.Fatal(err)
	}
	return samples
}

type result struct {
	build       string
	times, rate float64
	goodTokens  float64 // a second of the surge
	inTime      map[contracts.Class]float64
	waste       float64
	refused     float64
	refusal     []time.Duration
	ttft        []time.Duration // of p0
	recovery    time.Duration
}

func measure(b *testing.B, t loadgen.Target, p loadgen.Prompter, capacity, times float64) result {
	b.Helper()
	samples := run(b, t, p, phase{0, *surge, times * capacity, false}, phase{*surge, *surge + *surge/2, normal * capacity, true})
	r := result{rate: times * capacity, inTime: map[contracts.Class]float64{}}
	sent, good := map[contracts.Class]int{}, map[contracts.Class]int{}
	goodTokens, badTokens, refused, inSurge := 0, 0, 0, 0
	want := objectives()
	for _, s := range samples {
		ok := s.Outcome == loadgen.Completed && len(s.Pieces) > 0 && s.Pieces[0]-s.At <= want[s.Class]
		if s.At >= *surge {
			if !ok {
				r.recovery = max(r.recovery, s.At-*surge)
			}
			continue
		}
		inSurge++
		sent[s.Class]++
		switch {
		case ok:
			good[s.Class]++
			goodTokens += s.OutputTokens
		case s.Outcome == loadgen.Refused:
			refused++
			r.refusal = append(r.refusal, s.End-s.Sent)
		default:
			badTokens += max(s.OutputTokens, len(s.Pieces))
		}
		if s.Class == contracts.P0 && len(s.Pieces) > 0 {
			r.ttft = append(r.ttft, s.Pieces[0]-s.At)
		}
	}
	for c, n := range sent {
		r.inTime[c] = float64(good[c]) / float64(n)
	}
	r.goodTokens = float64(goodTokens) / surge.Seconds()
	r.waste = float64(badTokens) / float64(max(1, badTokens+goodTokens))
	r.refused = float64(refused) / float64(max(1, inSurge))
	return r
}

// at is a percentile of times.
func at(times []time.Duration, percent int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, len(times)*percent/100)]
}

func (r result) print(w io.Writer) {
	fmt.Fprintf(w, "%s\t%gx\t%.0f\t%.0f\t%.1f %%\t%.1f %%\t%.1f %%\t%.1f %%\t%.1f %%\t%.1f ms\t%.1f ms\t%.0f ms\t%.1f s\t\n", r.build, r.times, r.rate, r.goodTokens,
		100*r.inTime[contracts.P0], 100*r.inTime[contracts.P1], 100*r.inTime[contracts.P2], 100*r.waste, 100*r.refused,
		float64(at(r.refusal, 50))/1e6, float64(at(r.refusal, 99))/1e6, float64(at(r.ttft, 99))/1e6, r.recovery.Seconds())
}
