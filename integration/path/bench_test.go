package path

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/ops/simulate"
	"github.com/pelton-run/pelton/runtime/sim"
)

var (
	rates     = flag.String("rates", "100,500,1000,2000", "requests a second with short prompts, one measurement each")
	longRates = flag.String("long-rates", "5,20", "requests a second with long prompts")
	span      = flag.Duration("span", 12*time.Second, "of each measurement")
	seed      = flag.Uint64("seed", 1, "of arrivals and lengths")
	result    = flag.String("json", "", "`file` for the results as JSON")

	rate      = flag.Float64("rate", 500, "requests a second of the simulated fleet")
	cv        = flag.Float64("cv", 3.45, "coefficient of variation of the gaps between them")
	gpus      = flag.Int("gpus", 0, "simulated H100; 0 is as many as the planner's formula gives for first tokens within 200 ms for 95 %")
	processes = flag.Int("processes", 2, "that the workers are spread over")
	builds    = flag.String("builds", "deadline,fifo", "of the dispatcher's admission")
	objective = flag.Duration("objective", 200*time.Millisecond, "within which first tokens are wanted; the build that judges refuses what would miss it")
	surge     = flag.Duration("surge", 40*time.Second, "how long the load of the simulated fleet lasts, of which the first quarter does not count")
)

// longest is how long an answer may take: the longest of ServeGen's have 6,000 tokens.
const longest = 3 * time.Minute

// numbers in the texts of refusals, which differ from one to the next.
var numbers = regexp.MustCompile("[0-9]+")

// Line is one measurement.
type Line struct {
	What   string          `json:"what"`
	Rate   float64         `json:"requests_per_second"`
	Shares Shares          `json:"shares"`
	Report loadgen.Summary `json:"report"`
}

func TestMain(m *testing.M) { harness.Main(m) }

// BenchmarkPath measures the way of a request where the model takes no time.
func BenchmarkPath(b *testing.B) {
	text, err := corpus("../..", 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	f := start(b, "sim:instant", 4, 1)
	perToken := gauge(b, f, text)
	fmt.Printf("prompts of real text, %.2f bytes a token; 4 workers, 8 tokens out, Poisson, %v each\n", perToken, *span)
	header()
	var lines []Line
	measure := func(what string, bytes float64, rates string) {
		for r := range strings.SplitSeq(rates, ",") {
			if r == "" {
				continue
			}
			n, err := strconv.ParseFloat(r, 64)
			if err != nil {
				b.Fatal(err)
			}
			plan := loadgen.At(loadgen.Process{Kind: "poisson", Rate: n}.Draw(rand.New(rand.NewPCG(*seed, 1)), *span+2*time.Second, 0))
			rng := rand.New(rand.NewPCG(*seed, 2))
			for i := range plan {
				plan[i].Input, plan[i].Output, plan[i].Seed = int(bytes/perToken), 8, rng.Uint64()
			}
			l := f.run(b, plan, text, perToken, 2*time.Second, *span+2*time.Second)
			l.What, l.Rate = what, n
			l.print()
			lines = append(lines, l)
		}
	}
	measure("4 kB", 4e3, *rates)
	measure("220 kB", 220e3, *longRates)
	report(b, lines)
}

// Benchmark500 runs a simulated fleet of the planned size under ServeGen's lengths and bursts.
func Benchmark500(b *testing.B) {
	text, err := corpus("../..", 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	input, output := servegen("input"), servegen("output")
	device, err := sim.ProfileFor("sim:h100")
	if err != nil {
		b.Fatal(err)
	}
	times := loadgen.Process{Kind: "gamma", Rate: *rate, CV: *cv}.Draw(rand.New(rand.NewPCG(*seed, 1)), *surge, 0)
	plan := fill(rand.New(rand.NewPCG(*seed, 2)), loadgen.At(times), input, output)
	n := *gpus
	if n == 0 {
		n = simulate.Estimate(simulate.Config{Plan: plan, Profile: device}, loadgen.Objectives{TTFT: *objective}, 0.95).Workers
	}
	fmt.Printf("%d simulated H100 with an 8B model in %d processes; %.0f requests/s, gaps with CV %.2f, %.0f tokens in and %.0f out on average, seed %d\n",
		n, *processes, *rate, *cv, input.mean(), output.mean(), *seed)
	header()
	var lines []Line
	for build := range strings.SplitSeq(*builds, ",") {
		f := start(b, "sim:h100", n, *processes, "--admission", build, "--objective", fmt.Sprint("p2=", *objective))
		perToken := gauge(b, f, text)
		l := f.run(b, plan, text, perToken, *surge/4, *surge)
		l.What, l.Rate = build, *rate
		l.print()
		lines = append(lines, l)
		f.stop()
	}
	report(b, lines)
}

// gauge asks until the fleet answers and learns how many bytes of the text are a token.
func gauge(b *testing.B, f *fleet, text string) float64 {
	b.Helper()
	d := newDoor(f.door, text, 1, 1)
	defer d.close()
	for late := time.After(time.Minute); ; {
		a := d.Send(b.Context(), loadgen.Request{Input: 20_000, Output: 1, Seed: 7}, "", func() {})
		if a.Outcome == loadgen.Completed {
			return 20_000 / float64(a.InputTokens)
		}
		select {
		case <-late:
			b.Fatalf("the fleet does not answer: %s\n%s", a.Message, f.log())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// run offers a plan and measures between two moments of it.
func (f *fleet) run(b *testing.B, plan loadgen.Plan, text string, perToken float64, from, until time.Duration) Line {
	b.Helper()
	d := newDoor(f.door, text, perToken, 8192)
	defer d.close()
	shares := make(chan Shares, 1)
	go func() {
		time.Sleep(from)
		before := f.usage()
		time.Sleep(until - from)
		shares <- f.since(before)
	}()
	samples, err := loadgen.Run(b.Context(), loadgen.Config{Plan: plan, Target: d, MaxInFlight: 8192, Timeout: longest})
	if err != nil {
		b.Fatal(err)
	}
	r := loadgen.Reduce(samples, loadgen.Measured{WarmUp: from, Until: until})
	refusals := map[string]int{}
	for _, s := range samples {
		if s.Outcome == loadgen.Refused {
			refusals[numbers.ReplaceAllString(s.Message, "N")]++
		}
	}
	for text, n := range refusals {
		fmt.Println("refused:", n, text)
	}
	for _, text := range r.Failures(3) {
		fmt.Println("failed:", text)
	}
	if w := r.Warning(); w != "" {
		fmt.Println("warning:", w)
	}
	return Line{Shares: <-shares, Report: r.All}
}

// report writes the results down; they have been printed already.
func report(b *testing.B, lines []Line) {
	b.Helper()
	if *result == "" {
		return
	}
	text, err := json.MarshalIndent(lines, "", "  ")
	if err == nil {
		err = os.WriteFile(*result, append(text, '\n'), 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
}

const heading = "%10s %10s %6s %7s %5s %8s %8s %8s %8s %7s %7s %9s %12s %8s %10s %7s %9s %8s %7s %8s\n"

func header() {
	fmt.Printf(heading, "", "requests/s", "done", "refused", "lost", "TTFT p50", "p95", "p99", "max ms", "ITL p50", "p99 ms",
		"tokens/s", "tokens/piece", "flush ms", "cores door", "workers", "generator", "MiB door", "workers", "slip p99")
}

// print shows a measurement as soon as it is made.
func (l Line) print() {
	r, s := l.Report, l.Shares
	done, refused := r.Outcomes[loadgen.Completed], r.Outcomes[loadgen.Refused]
	perSecond := float64(r.OutputTokens) / max(1, float64(r.Requests)) * l.Rate
	ms := func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }
	fmt.Printf(heading, l.What, fmt.Sprint(l.Rate), fmt.Sprint(done), fmt.Sprint(refused), fmt.Sprint(r.Requests-done-refused),
		ms(r.TTFT.P50), ms(r.TTFT.P95), ms(r.TTFT.P99), ms(r.TTFT.Max), ms(r.ITL.P50), ms(r.ITL.P99), fmt.Sprintf("%.0f", perSecond),
		ms(float64(r.OutputTokens)/max(1, float64(r.Pieces))), fmt.Sprintf("%.0f", s.FlushMS), ms(s.Desk), ms(s.Workers), ms(s.Producer),
		fmt.Sprint(s.DeskMiB), fmt.Sprint(s.WorkersMiB), ms(r.Slip.P99))
}
