package overload

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
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

// scene is a fleet under load, and what is asked of it.
type scene struct {
	target     loadgen.Target
	prompter   loadgen.Prompter
	mix        loadgen.Mix
	classes    string // weights
	objectives admission.Objectives
}

// BenchmarkOverload offers 1, 2 and 4 times what the fleet can do, and twice of it as unevenly as Azure's code
// trace comes, to the build that judges and to the one that takes everything, and prints what came of it. Of the
// trace's most urgent class alone, without anybody else, no order of the classes can serve more.
func BenchmarkOverload(b *testing.B) {
	capacity := 0.0
	var lines results
	for _, build := range builds() {
		for _, l := range []load{{times: 1}, {times: 2}, {times: 4}, {times: 2, azure: true}, {times: 2, azure: true, alone: true}} {
			f := simulated(b, build)
			s := f.scene(b, "default")
			if capacity == 0 {
				capacity = s.saturate(b, 40**workers)
				fmt.Printf("capacity: %.1f requests/s, %d workers, step %v, objectives in steps %v, gaps with CV %v, seed %d\n", capacity, *workers, *step, steps, burstiness, *seed)
			} else {
				s.warm(b, capacity)
			}
			lines = append(lines, s.measure(b, build, capacity, l))
			f.Rest()
		}
	}
	lines.print()
}

// builds are those that are compared.
func builds() []string {
	if *only != "" {
		return []string{*only}
	}
	return []string{"deadline", "fifo"}
}

// fleet is a simulated one.
type fleet struct{ *chaos.InProcess }

func simulated(b *testing.B, build string) fleet {
	b.Helper()
	return fleet{chaos.NewInProcess(b, chaos.Floor{Workers: *workers, Slots: 64, Step: *step, Dispatcher: func(_ int, cfg *dispatcher.Config) {
		cfg.Overload = backlog.Settings{FIFO: build == "fifo", Objectives: objectives()}
	}})}
}

func (f fleet) scene(b *testing.B, tenants ...string) *scene {
	b.Helper()
	return newScene(b, &loadgen.NATS{Client: connect(b, f.NATS(), tenants...), Model: chaos.Model, Text: true, IgnoreEOS: true}, mix, "p0:1,p1:3,p2:6", objectives())
}

func newScene(b *testing.B, t loadgen.Target, m loadgen.Mix, classes string, o admission.Objectives) *scene {
	b.Helper()
	p, err := loadgen.Gauge(b.Context(), t, "")
	if err != nil {
		b.Fatal(err)
	}
	return &scene{t, p, m, classes, o}
}

func objectives() admission.Objectives {
	o := admission.Objectives{}
	for c, n := range steps {
		o[c] = time.Duration(n) * *step
	}
	return o
}

// connect makes clients of tenants; the first one is that of jobs that name none.
func connect(b *testing.B, url string, tenants ...string) func(tenant string) *client.Client {
	b.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	of := map[string]*client.Client{"": client.New(nc, tenants[0], client.WithoutReplay())}
	for _, tenant := range tenants {
		of[tenant] = client.New(nc, tenant, client.WithoutReplay())
	}
	return func(tenant string) *client.Client { return of[tenant] }
}

// saturate is how many requests a second are completed when there are always so many.
func (s *scene) saturate(b *testing.B, open int) float64 {
	b.Helper()
	rng := rand.New(rand.NewPCG(*seed, 7))
	const window = 15 * time.Second
	classes, _ := loadgen.ParseWeights("p3:1")
	m := s.mix
	m.Classes = classes
	samples, err := loadgen.Run(b.Context(), loadgen.Config{Plan: m.Fill(rng, make(loadgen.Plan, 100_000)), Target: s.target, Prompter: s.prompter, Concurrency: open, Until: window, Timeout: giveUp})
	if err != nil {
		b.Fatal(err)
	}
	done := 0
	for _, x := range samples {
		if x.Outcome == loadgen.Completed && x.End >= window/3 && x.End < window {
			done++
		}
	}
	return float64(done) / (window * 2 / 3).Seconds()
}

// warm lets a new fleet learn what its steps take, at a load that it can do.
func (s *scene) warm(b *testing.B, capacity float64) {
	b.Helper()
	s.run(b, phase{0, 6 * time.Second, 0.7 * capacity, evenly, "", false})
}

// phase is a time with so many requests a second.
type phase struct {
	from, until time.Duration
	rate        float64
	come        arrivals
	tenant      string
	alone       bool // only what p0 has of it
}

// arrivals draws when so many requests a second come in a time.
type arrivals func(b *testing.B, rng *rand.Rand, rate float64, span time.Duration) []time.Duration

// evenly is Poisson, so that what is late is so because of what was before.
func evenly(_ *testing.B, rng *rand.Rand, rate float64, span time.Duration) []time.Duration {
	return loadgen.Process{Kind: "poisson", Rate: rate}.Draw(rng, span, 0)
}

func inBursts(_ *testing.B, rng *rand.Rand, rate float64, span time.Duration) []time.Duration {
	return loadgen.Process{Kind: "gamma", Rate: rate, CV: burstiness}.Draw(rng, span, 0)
}

// azure is the beginning of the code trace, pressed into the time.
func azure(b *testing.B, rng *rand.Rand, rate float64, span time.Duration) []time.Duration {
	b.Helper()
	f, err := os.Open("../../ops/loadgen/testdata/azure_code.csv")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	p, err := loadgen.ReadTrace(f, rng, loadgen.Window{})
	if err != nil {
		b.Fatal(err)
	}
	n := int(rate * span.Seconds())
	if n >= len(p) {
		b.Fatalf("the trace has %d requests, %d are wanted: a shorter -surge", len(p), n)
	}
	var times []time.Duration
	for _, r := range p[:n] {
		times = append(times, time.Duration(float64(r.At)/float64(p[n].At)*float64(span)))
	}
	return times
}

func (s *scene) run(b *testing.B, phases ...phase) []loadgen.Sample {
	b.Helper()
	rng := rand.New(rand.NewPCG(*seed, 11))
	classes, err := loadgen.ParseWeights(s.classes)
	if err != nil {
		b.Fatal(err)
	}
	m := s.mix
	m.Classes = classes
	var plan loadgen.Plan
	for _, ph := range phases {
		times := ph.come(b, rng, ph.rate, ph.until-ph.from)
		for i := range times {
			times[i] += ph.from
		}
		part := m.Fill(rng, loadgen.At(times))
		if ph.alone {
			part = slices.DeleteFunc(part, func(r loadgen.Request) bool { return r.Class != contracts.P0 })
		}
		for i := range part {
			part[i].Tenant = ph.tenant
		}
		plan = append(plan, part...)
	}
	slices.SortStableFunc(plan, func(x, y loadgen.Request) int { return int(x.At - y.At) })
	samples, err := loadgen.Run(b.Context(), loadgen.Config{Plan: plan, Target: s.target, Prompter: s.prompter, Timeout: giveUp})
	if err != nil {
		b.Fatal(err)
	}
	return samples
}

// load is so many times the capacity, in bursts that are drawn or those of Azure's trace; alone is what p0 has of
// it, and nothing else.
type load struct {
	times        float64
	azure, alone bool
}

func (l load) String() string {
	name := fmt.Sprintf("%gx", l.times)
	if l.azure {
		name += ", Azure"
	}
	if l.alone {
		name += ", p0 alone"
	}
	return name
}

type result struct {
	build      string
	load       load
	rate       float64
	goodTokens float64 // a second of the surge
	inTime     map[contracts.Class]float64
	waste      float64
	kept       float64 // share of the admitted jobs that were good
	refused    float64
	refusal    []time.Duration
	ttft       []time.Duration // of p0
	recovery   time.Duration
}

func (s *scene) measure(b *testing.B, build string, capacity float64, l load) result {
	b.Helper()
	come := inBursts
	if l.azure {
		come = azure
	}
	samples := s.run(b, phase{0, *surge, l.times * capacity, come, "", l.alone}, phase{*surge, *surge + *surge/2, normal * capacity, evenly, "", l.alone})
	r := result{build: build, load: l, rate: l.times * capacity, inTime: map[contracts.Class]float64{}}
	sent, good := map[contracts.Class]int{}, map[contracts.Class]int{}
	goodTokens, badTokens, refused, inSurge := 0, 0, 0, 0
	met := 0
	for _, x := range samples {
		ok := x.Outcome == loadgen.Completed && len(x.Pieces) > 0 && x.Pieces[0]-x.At <= s.objectives[x.Class]
		if x.At >= *surge {
			if !ok {
				r.recovery = max(r.recovery, x.At-*surge)
			}
			continue
		}
		inSurge++
		sent[x.Class]++
		switch {
		case ok:
			met++
			good[x.Class]++
			goodTokens += x.OutputTokens
		case x.Outcome == loadgen.Refused && strings.Contains(x.Message, evicted):
			refused++
		case x.Outcome == loadgen.Refused:
			refused++
			r.refusal = append(r.refusal, x.End-x.Sent)
		default:
			badTokens += max(x.OutputTokens, len(x.Pieces))
		}
		if len(x.Pieces) > 0 && (x.Class == contracts.P0 || len(s.objectives) == 1) {
			r.ttft = append(r.ttft, x.Pieces[0]-x.At)
		}
	}
	r.kept = float64(met) / float64(max(1, inSurge-refused))
	for c, n := range sent {
		r.inTime[c] = float64(good[c]) / float64(n)
	}
	r.goodTokens = float64(goodTokens) / surge.Seconds()
	r.waste = float64(badTokens) / float64(max(1, badTokens+goodTokens))
	r.refused = float64(refused) / float64(max(1, inSurge))
	return r
}

// evicted is in the message of jobs that were taken, and given up before they cost anything: no refusal at once.
const evicted = "could not come within its objective"

type results []result

// print writes a table, and how much of each build's peak was left.
func (r results) print() {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "build\toffered\treq/s\tgood tokens/s\tp0 in time\tp1\tp2\tof those taken\twaste\trefused\trefusal p50\tp99\tTTFT p0 p99\trecovery\t")
	peak := map[string]float64{}
	for _, x := range r {
		peak[x.build] = max(peak[x.build], x.goodTokens)
		x.print(table)
	}
	_ = table.Flush()
	for _, x := range r {
		fmt.Printf("%s %s: goodput %.0f %% of this build's peak\n", x.build, x.load, 100*x.goodTokens/peak[x.build])
	}
}

// at is a percentile of times.
func at(times []time.Duration, percent int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, len(times)*percent/100)]
}

// share of the jobs of a class that were in time; a dash without such jobs.
func (r result) share(c contracts.Class) string {
	if v, some := r.inTime[c]; some {
		return fmt.Sprintf("%.1f %%", 100*v)
	}
	return "-"
}

func (r result) print(w io.Writer) {
	fmt.Fprintf(w, "%s\t%s\t%.1f\t%.0f\t%s\t%s\t%s\t%.1f %%\t%.1f %%\t%.1f %%\t%.1f ms\t%.1f ms\t%.0f ms\t%.1f s\t\n", r.build, r.load, r.rate, r.goodTokens,
		r.share(contracts.P0), r.share(contracts.P1), r.share(contracts.P2), 100*r.kept, 100*r.waste, 100*r.refused,
		float64(at(r.refusal, 50))/1e6, float64(at(r.refusal, 99))/1e6, float64(at(r.ttft, 99))/1e6, r.recovery.Seconds())
}
