package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/ops/simulate"
	"github.com/pelton-run/pelton/runtime/sim"
)

func (a *app) simulateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "simulate [TRACE]",
		Short: "Run a fleet of any size under a virtual clock, on one core",
		Long: `simulate draws a plan of requests as bench does, or reads a trace as replay does, and runs it through the
fleet's own admission, backlog, turns, intake, batches and hand-overs under a virtual clock, on modelled
devices. It reports as bench does, and how busy the devices were. The same seed gives the same report, byte
for byte. With --plan it says how many workers the load needs: by a formula, and by simulating fleets until
the smallest one is found with which --min-attainment (default 0.95) of the requests meet their objectives.`,
		Example: example("pelton simulate --workers 25 --device h100:8b --rate 500 --arrival gamma --cv 3.45 --input-tokens 914 --output-tokens 155 --slo-ttft 200ms",
			"pelton simulate code.csv --workers 40 --speed 10 --max-input 4096 --objective p2=500ms --html code.html",
			"pelton simulate --plan --device h200 --rate 500 --input-tokens 914 --output-tokens 155 --slo-ttft 200ms --slo-tpot 50ms",
			"pelton simulate --workers 4 --device smollm2.json --rate 3 --deaths 2"),
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.simulate(cmd.Context(), args) },
	}
	loadFlags(c)
	arrivalFlags(c)
	windowFlags(c)
	overloadFlags(c)
	f := c.Flags()
	f.Duration("duration", 30*time.Second, "how long requests are sent; with a TRACE the default is its rest")
	f.Int("workers", 4, "workers of the fleet")
	f.String("device", "h100", "of every worker: h100, h200, a100 or l40s, with :8b, :8b-fp8 or :2.7b, or a `file` of pelton bench --calibrate")
	f.Int("slots", 256, "most sequences of a worker at once")
	f.Int("step-tokens", 512, "most prompt tokens of a step")
	f.Duration("path", 2*time.Millisecond, "time that the first token of a lone request takes beside the device's")
	f.Int("deaths", 0, "workers that die in the middle of their work, at even times; each comes back when its model is loaded")
	f.Bool("check", false, "run the same plan in real time too, through a broker, a dispatcher and workers in this process, and exit with 8 when TTFT p50, p95 or goodput are more than 10 % apart")
	f.Bool("plan", false, "say how many workers the load needs instead of --workers")
	return c
}

func (a *app) simulate(ctx context.Context, args []string) error {
	l, err := a.simulatedLoad(args)
	if err != nil {
		return err
	}
	plan, mix, seed, err := a.plan(l)
	if err != nil {
		return err
	}
	cfg := simulate.Config{
		Plan: plan, Workers: a.settings.number("workers"), Slots: a.settings.number("slots"), Prefill: a.settings.number("step-tokens"),
		Path: simulate.PathOf(a.settings.duration("path")), Seed: seed, Deaths: a.settings.number("deaths"),
	}
	if cfg.Overload, err = a.overload(); err != nil {
		return err
	}
	switch cfg.Profile, err = sim.ProfileFor(a.settings.text("device")); {
	case errors.Is(err, fs.ErrNotExist):
		return coded{err, exitNotFound}
	case err != nil:
		return usageError{err}
	}
	if err := cfg.Validate(); err != nil {
		return usageError{err}
	}
	fmt.Fprintf(a.err, "simulated %s: %s, seed %d\n", cfg.Profile.Name, l.label, seed)
	if a.settings.yes("plan") {
		return a.size(ctx, cfg)
	}
	if a.settings.yes("check") {
		return a.check(ctx, cfg, mix)
	}
	start := time.Now()
	samples, fleet, err := simulate.Run(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.err, "%.1f s simulated in %.1f s\n", fleet.Seconds, time.Since(start).Seconds())
	report := loadgen.Reduce(samples, loadgen.Measured{WarmUp: a.settings.duration("warm-up"), Objectives: a.objectives()})
	report.Fleet = &fleet
	report.Run = loadgen.Header{Target: fmt.Sprintf("%d x %s, simulated", cfg.Workers, fleet.Device), Model: "sim", Load: l.label, Traffic: l.of(plan), Seed: seed,
		Settings: a.given(), Version: version(), Objectives: a.objectives()}
	return errors.Join(a.writeReport(&report), a.judge(&report))
}

// simulatedLoad is a trace, or what arrivalFlags say.
func (a *app) simulatedLoad(args []string) (load, error) {
	if len(args) == 0 {
		return a.arrivals()
	}
	until := a.settings.duration("duration")
	if a.settings.source["duration"] == "default" {
		until = 0
	}
	return a.trace(args[0], until)
}

// size says how many workers the load needs.
func (a *app) size(ctx context.Context, cfg simulate.Config) error {
	want := *a.float("min-attainment")
	if a.settings.source["min-attainment"] == "default" {
		want = 0.95
	}
	goals := a.objectives()
	if goals == (loadgen.Objectives{}) || !(want > 0 && want <= 1) {
		return usageError{errors.New("--plan needs --slo-ttft, --slo-tpot or --slo-e2e, and --min-attainment above 0 and at most 1")}
	}
	estimate := simulate.Estimate(cfg, goals, want)
	if estimate.Rate == 0 {
		return usageError{errors.New("--plan needs requests that arrive at different times, or they have no rate: give simulate a number of --workers and see what they make of them")}
	}
	if estimate.Workers == 0 {
		return coded{errors.New("no fleet meets the objectives: they are shorter than what one idle worker takes: raise them, or model a faster device"), exitCheck}
	}
	trials, err := simulate.Search(ctx, cfg, goals, want, a.settings.duration("warm-up"), estimate.Workers)
	if err != nil {
		return err
	}
	if a.forPeople() {
		sayEstimate(a.out, estimate)
	}
	t := table{head: []string{"WORKERS", "GOOD", "TTFT P50", "P95", "P99", "TPOT P95", "REFUSED", "BUSY", "ROWS"}, wide: 9,
		value: map[string]any{"formula": estimate, "trials": trials, "workers": simulate.Fewest(trials, want)}}
	for _, r := range trials {
		t.rows = append(t.rows, []string{fmt.Sprint(r.Workers), fmt.Sprintf("%.1f %%", 100*r.Good), fmt.Sprintf("%.4g", r.TTFT.P50), fmt.Sprintf("%.4g", r.TTFT.P95), fmt.Sprintf("%.4g", r.TTFT.P99),
			fmt.Sprintf("%.4g", r.TPOT.P95), fmt.Sprint(r.Refused), fmt.Sprintf("%.0f %%", 100*r.Fleet.Busy), fmt.Sprintf("%.1f", r.Fleet.Rows)})
	}
	if err := a.print(t); err != nil {
		return err
	}
	if simulate.Fewest(trials, want) == 0 {
		return coded{fmt.Errorf("not even %d workers give %.1f %% of the requests what they want: raise the objectives, lower --min-attainment or model a faster device", trials[len(trials)-1].Workers, 100*want), exitCheck}
	}
	return nil
}

func sayEstimate(w io.Writer, e simulate.Size) {
	fmt.Fprintf(w, "load: %.4g requests/s, gaps with CV %.2f, %.0f tokens in, %.0f out\n", e.Rate, e.CV, e.Input, e.Output)
	fmt.Fprintf(w, "formula: %d workers: %.2f s in one of %.0f slots each, %.0f %% of what they can do; steps of %.1f ms, first token after %.0f ms at the quantile wanted\n\n",
		e.Workers, e.Service, e.Slots, 100*e.Rho, e.StepMS, e.TTFTMS)
}
