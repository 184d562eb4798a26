package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/ops/scaler"
)

func (a *app) planCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "plan", Short: "Show how many workers each model needs now, and why", Args: cobra.NoArgs,
		Example: example("pelton plan", "pelton plan --over 1m -o json", "pelton plan --server https://pelton-0:8080 --server https://pelton-1:8080 --tls-ca ca.pem"),
		Long: `plan looks at the fleet twice, --over apart, and says what pelton scaler would tell KEDA of each model by what came
in between: the workers that keep up with it, by what the workers' steps take. It needs the rights of pelton scaler:
where the door asks for keys an operator's, in PELTON_API_KEY or PELTON_API_KEY_FILE. Name every dispatcher with
--server, each by its own address and not by that of a load balancer: each counts what came to it.

plan changes nothing: KEDA scales, or who starts workers. A running pelton scaler also remembers how the load grew
lately and plans ahead for it, so what it asks for may be more; and KEDA takes the largest of its triggers, which in
the Helm chart are also the jobs that wait, run and are held back. It starts no fewer and no more workers than the
pool's bounds.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.planFleet(cmd.Context()) },
	}
	watchFlags(c, []string{"http://127.0.0.1:8080"})
	c.Flags().Duration("over", scaler.Defaults().Every, "time between the two looks")
	outputFlags(c)
	return c
}

func (a *app) planFleet(ctx context.Context) error {
	over := a.settings.duration("over")
	if over < 100*time.Millisecond {
		return usageError{errors.New("--over must be at least 100ms")}
	}
	w, err := a.watchFleet(over, over)
	if err != nil {
		return err
	}
	for i := range 2 {
		if i > 0 && !sleep(ctx, over) {
			return ctx.Err()
		}
		if err := w.Look(ctx); err != nil {
			return lookFailed(ctx, err)
		}
	}
	plans := w.Plans()
	if plans == nil {
		return coded{errors.New("a dispatcher began anew between the looks, so what came is not known: try again"), exitUnavailable}
	}
	values := make([]planned, len(plans))
	t := table{head: []string{"MODEL", "WORKERS", "NEEDED", "JOBS", "WHY"}, value: values}
	for i, p := range plans {
		v := planOf(p, a.settings.number("use"))
		values[i] = v
		t.rows = append(t.rows, []string{plain(v.Model), strconv.Itoa(v.Workers), strconv.Itoa(v.Needed), strconv.Itoa(v.Jobs), v.Why})
	}
	return a.print(t)
}

// lookFailed is err with the exit code of what was wrong.
func lookFailed(ctx context.Context, err error) error {
	switch _, unreachable := errors.AsType[*url.Error](err); {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, scaler.ErrRefused):
		return coded{err, exitRefused}
	case unreachable:
		return coded{fmt.Errorf("%w: is the fleet running? Say where with --server", err), exitUnavailable}
	}
	return err
}

// planned is a plan as it is told.
type planned struct {
	Model    string  `json:"model"`
	Workers  int     `json:"workers"`         // that take jobs
	Needed   int     `json:"needed"`          // before the pool's bounds
	Load     float64 `json:"load"`            // in workers
	Jobs     int     `json:"jobs"`            // that wait, run or are held back
	Held     int     `json:"held"`            // of these held back
	Arriving float64 `json:"jobs_per_second"` // what arrives
	Prompt   float64 `json:"prompt_tokens_per_second"`
	Output   float64 `json:"output_tokens_per_second"`
	Why      string  `json:"why"`
}

func planOf(p scaler.Plan, use int) planned {
	v := planned{Model: p.Model, Workers: p.Ready, Needed: int(math.Ceil(p.Decision.Workers)), Load: p.Now, Jobs: p.Jobs, Held: p.Held, Arriving: p.Demand.Jobs, Prompt: p.Demand.Prompt, Output: p.Demand.Output}
	come := fmt.Sprintf("%.2f jobs/s come with %.0f prompt and %.0f output tokens/s", v.Arriving, v.Prompt, v.Output)
	switch {
	case p.Paused:
		v.Why = "the queue is paused: only what runs needs workers"
	case !p.Active:
		v.Why = "no job comes, waits or runs"
	case p.Demand.Jobs == 0:
		v.Why = "no job comes, and one worker ends those that are here"
	case !p.Known:
		v.Why = come + "; what a worker can do is not known before it has run some, so one"
	default:
		v.Why = fmt.Sprintf("%s, which keep %.2f workers busy for %d %% of their time", come, v.Load, use)
	}
	if v.Held > 0 {
		v.Why += fmt.Sprintf("; %d held back, by which KEDA scales too", v.Held)
	}
	return v
}
