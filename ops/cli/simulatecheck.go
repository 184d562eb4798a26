package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/ops/simulate"
)

// agreement is how far a simulation may be off what it stands for.
const agreement = 0.1

// check runs the plan in real time too, through a broker, a dispatcher and workers in this process, and
// compares the two.
func (a *app) check(ctx context.Context, cfg simulate.Config, mix loadgen.Mix) error {
	fleet, stop, err := a.realFleet(ctx, cfg)
	if err != nil {
		return err
	}
	defer stop()
	nc, err := fleet.Connect("pelton simulate")
	if err != nil {
		return err
	}
	defer nc.Close()
	target := &loadgen.NATS{Client: clients(nc, mix), Model: simModel, Text: true, IgnoreEOS: true}
	path, err := measurePath(ctx, target, cfg)
	if err != nil {
		return err
	}
	if a.settings.source["path"] == "default" {
		cfg.Path = simulate.PathOf(path)
	}
	fmt.Fprintf(a.err, "a lone request takes %.2f ms beside the device's time; now the same plan in real time\n", path.Seconds()*1000)
	got, err := loadgen.Run(ctx, loadgen.Config{Plan: cfg.Plan, Target: target, Prompter: letters, MaxInFlight: 1 << 20})
	if err != nil {
		return err
	}
	cfg.Plan = asSent(got)
	want, use, err := simulate.Run(ctx, cfg)
	if err != nil {
		return err
	}
	measured := loadgen.Measured{WarmUp: a.settings.duration("warm-up"), Objectives: a.objectives()}
	simulated, real := loadgen.Reduce(want, measured), loadgen.Reduce(got, measured)
	simulated.Fleet = &use
	for _, f := range real.Failures(3) {
		fmt.Fprintf(a.err, "failed: %s\n", f)
	}
	return a.compare(&simulated, &real)
}

// asSent is the plan as it was sent: how late this generator was is not the fleet's doing. The samples count
// from then on too.
func asSent(samples []loadgen.Sample) loadgen.Plan {
	for i := range samples {
		samples[i].At = samples[i].Sent
	}
	slices.SortStableFunc(samples, func(a, b loadgen.Sample) int { return cmp.Compare(a.At, b.At) })
	plan := make(loadgen.Plan, len(samples))
	for i := range samples {
		plan[i] = samples[i].Request
	}
	return plan
}

// letters writes prompts for the modelled device, whose tokens are bytes.
var letters = loadgen.Prompter{PerToken: 1}

// realFleet is the fleet that cfg stands for.
func (a *app) realFleet(ctx context.Context, cfg simulate.Config) (fleet *node.Node, stop func(), err error) {
	for _, flag := range []string{"deaths", "slots", "step-tokens"} {
		if a.settings.source[flag] != "default" {
			return nil, nil, usageError{fmt.Errorf("--check excludes --%s", flag)}
		}
	}
	served, err := node.ServeSim(simModel, a.settings.text("device"))
	if err != nil {
		return nil, nil, usageError{err}
	}
	data, err := os.MkdirTemp("", "pelton-simulate")
	if err != nil {
		return nil, nil, err
	}
	fleet, err = node.Start(ctx, node.Config{Data: data, Dispatcher: true, Workers: cfg.Workers, Models: []node.Served{served}, Overload: cfg.Overload, Log: a.log})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(data))
	}
	return fleet, func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := errors.Join(fleet.Stop(stopping), os.RemoveAll(data)); err != nil {
			a.log.Warn("fleet not stopped cleanly", "error", err)
		}
	}, nil
}

// lone is how many requests tell what the way takes.
const lone = 21

// measurePath is the median time that the first token of a request to an idle fleet takes beside the device's.
func measurePath(ctx context.Context, t loadgen.Target, cfg simulate.Config) (time.Duration, error) {
	const prompt = 64
	plan := make(loadgen.Plan, lone)
	for i := range plan {
		plan[i] = loadgen.Request{Input: prompt, Output: 1}
	}
	samples, err := loadgen.Run(ctx, loadgen.Config{Plan: plan, Target: t, Prompter: letters, Concurrency: 1})
	if err != nil {
		return 0, err
	}
	var took []time.Duration
	for _, s := range samples {
		if s.Outcome != loadgen.Completed || len(s.Pieces) == 0 {
			return 0, fmt.Errorf("a lone request was %s, so the way to the device is not known: %s: run it again on an idle machine", s.Outcome, s.Message)
		}
		took = append(took, s.Pieces[0]-s.At-cfg.Profile.Step(prompt, 0, prompt))
	}
	slices.Sort(took)
	return max(0, took[len(took)/2]), nil
}

// compare prints both reports and judges how far they are apart.
func (a *app) compare(simulated, real *loadgen.Report) error {
	t := table{head: []string{"FIGURE", "SIMULATED", "REAL", "OFF"}}
	apart := []string{}
	for _, f := range []struct {
		name   string
		of     func(*loadgen.Report) float64
		judged bool
	}{
		{"TTFT p50 ms", func(r *loadgen.Report) float64 { return r.All.TTFT.P50 }, true},
		{"TTFT p95 ms", func(r *loadgen.Report) float64 { return r.All.TTFT.P95 }, true},
		{"TTFT p99 ms", func(r *loadgen.Report) float64 { return r.All.TTFT.P99 }, false},
		{"goodput requests/s", func(r *loadgen.Report) float64 { return r.PerSecond(r.All.GoodRequests) }, true},
		{"goodput tokens/s", func(r *loadgen.Report) float64 { return r.PerSecond(r.All.GoodTokens) }, true},
		{"TPOT p50 ms", func(r *loadgen.Report) float64 { return r.All.TPOT.P50 }, false},
		{"E2E p50 ms", func(r *loadgen.Report) float64 { return r.All.E2E.P50 }, false},
		{"completed", func(r *loadgen.Report) float64 { return float64(r.All.Outcomes[loadgen.Completed]) }, false},
		{"refused", func(r *loadgen.Report) float64 { return float64(r.All.Outcomes[loadgen.Refused]) }, false},
		{"expired", func(r *loadgen.Report) float64 { return float64(r.All.Outcomes[loadgen.Expired]) }, false},
	} {
		s, r := f.of(simulated), f.of(real)
		off := 0.0
		if s != r {
			off = s/r - 1
		}
		if f.judged && math.Abs(off) > agreement {
			apart = append(apart, fmt.Sprintf("%s by %.0f %%", f.name, 100*off))
		}
		t.rows = append(t.rows, []string{f.name, fmt.Sprintf("%.4g", s), fmt.Sprintf("%.4g", r), fmt.Sprintf("%+.1f %%", 100*off)})
	}
	t.value = map[string]any{"simulated": simulated, "real": real, "apart": apart}
	if err := a.print(t); err != nil {
		return err
	}
	if len(apart) > 0 {
		return coded{fmt.Errorf("the simulation is off by more than %.0f %%: %v", 100*agreement, apart), exitCheck}
	}
	return nil
}
