package simulate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/ops/loadgen"
	"github.com/pelton-run/pelton/runtime/sim"
)

// Path is the time on the way between the parts, without the devices' and without any waiting.
type Path struct {
	Submit  time.Duration // from the producer to the verdict
	Publish time.Duration // from the verdict until a worker can pull the job
	Pull    time.Duration // of a worker's question to the queue and its answer
	Claim   time.Duration // from the answer until the job is in the batch
	Emit    time.Duration // from a token to the producer
}

// PathOf divides the time that a first token takes on an idle fleet beside the device's among the parts, as
// it was measured on a fleet in one process.
func PathOf(total time.Duration) Path {
	part := func(percent int) time.Duration { return total * time.Duration(percent) / 100 }
	return Path{Submit: part(20), Publish: part(25), Pull: part(15), Claim: part(20), Emit: part(20)}
}

// Config says what is simulated.
type Config struct {
	Plan     loadgen.Plan
	Workers  int         // at least 1
	Profile  sim.Profile // of all workers
	Slots    int         // sequences of a worker; 0 is the engine's default
	Prefill  int         // prompt tokens of a step; 0 is the engine's default
	Overload backlog.Settings
	Path     Path
	Seed     uint64

	// Deaths is how many workers die in the middle of their work, at even times; each is started again and
	// joins after [sim.Profile.Start].
	Deaths int

	FlushInterval time.Duration // least time between two records of a stream; 0 is the worker's default
	FlushTokens   int           // tokens that go at once; 0 is the worker's default
}

// Limits of a simulation, so that it ends in this life and fits in memory.
const (
	MaxWorkers = 20_000
	MaxTokens  = 200_000_000 // of all answers together
	maxPlan    = 8_000_000   // requests
	maxInput   = 1 << 24     // tokens of a prompt
	// patience is how long after the last arrival the last answer is waited for.
	patience = 10 * time.Minute
)

// Validate returns all problems of c at once.
func (c Config) Validate() error {
	errs := []error{c.Overload.Validate(), c.Profile.Validate()}
	bad := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	tokens, before := 0, time.Duration(0)
	for i, r := range c.Plan {
		tokens += min(r.Output, MaxTokens+1)
		bad(r.Input < 1 || r.Input > maxInput || r.Output < 1 || r.At < before || r.Deadline < 0 || r.CancelAfter < 0,
			"request %d: 1 to %d tokens in, at least 1 out, in the order of their times, are simulated", i, maxInput)
		if before = r.At; len(errs) > 10 {
			break
		}
	}
	bad(len(c.Plan) == 0 || len(c.Plan) > maxPlan, "the plan holds %d requests: 1 to %d are simulated", len(c.Plan), maxPlan)
	bad(tokens > MaxTokens, "the plan asks for %d tokens, at most %d are simulated: shorten it", tokens, MaxTokens)
	bad(c.Workers < 1 || c.Workers > MaxWorkers, "%d workers: 1 to %d are simulated", c.Workers, MaxWorkers)
	bad(c.Slots < 0 || c.Slots > 1<<16 || c.Prefill < 0 || c.Prefill > 1<<20, "slots and prompt tokens of a step must be 0 or more, at most 65536 and 1048576")
	bad(c.Deaths < 0 || c.Deaths > 10_000, "%d deaths: 0 to 10000 are simulated", c.Deaths)
	bad(c.FlushInterval < 0 || c.FlushTokens < 0, "the flush interval and tokens must not be negative")
	for _, d := range []time.Duration{c.Path.Submit, c.Path.Publish, c.Path.Pull, c.Path.Claim, c.Path.Emit} {
		bad(d < 0 || d > 10*time.Second, "a part of the path takes %v: 0 to 10 s", d)
	}
	return errors.Join(errs...)
}

// Run simulates c. The samples are in the order of the plan. The end of ctx ends it early, with its cause.
func Run(ctx context.Context, c Config) ([]loadgen.Sample, loadgen.Fleet, error) {
	if err := c.Validate(); err != nil {
		return nil, loadgen.Fleet{}, err
	}
	w := newWorld(c)
	const look = 1 << 14 // events between two looks at ctx
	for n := 0; w.open > 0 && w.at < w.until; n++ {
		if n%look == 0 && ctx.Err() != nil {
			return nil, loadgen.Fleet{}, context.Cause(ctx)
		}
		w.step()
	}
	return w.samples(), w.use(), nil
}
