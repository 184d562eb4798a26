package chaos

import (
	"testing"
	"time"

	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/worker"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestChaos: workers and dispatchers of a simulated fleet die, freeze, drain and are preempted in the
// middle of streams; every answer is whole and that of a calm run.
func TestChaos(t *testing.T) {
	t.Parallel()
	const often = 1000 // a job may lose as many holders as it happens to
	f := NewInProcess(t, Floor{Workers: 6, Dispatchers: 2, Slots: 4, Step: 16 * time.Millisecond, AckWait: 2 * time.Second,
		Worker: func(c *worker.Config) { c.MaxFailures = often }})
	report(t, Run(t, f, Plan{
		Seed: *seed, Orders: Orders(*seed, 16, 80, Model), Jobs: *jobs, Flight: 40, MaxFailures: often, Limit: time.Hour,
		Script: Script(*seed, Pace{Deaths: *deaths, Mean: 150 * time.Millisecond, Workers: 6, Dispatchers: 2, Freeze: 3 * time.Second}),
	}))
}

// TestProcesses is the same with processes of the binary and real signals.
func TestProcesses(t *testing.T) {
	t.Parallel()
	f := NewProcesses(t, 3, []string{"--model", Model, "--engine", "sim", "--device", "sim:l40s"}, []string{"--memory", "512MiB"})
	report(t, Run(t, f, Plan{
		Seed: *seed, Orders: Orders(*seed, 8, 60, Model), Jobs: 4 * *kills, Flight: 8, Limit: time.Hour,
		Script: Script(*seed, Pace{Deaths: *kills, Mean: 500 * time.Millisecond, Workers: 3, Dispatchers: 2, Freeze: 3 * time.Second}),
	}))
}

// TestModel is the same with the default model: the bits of its answers do not depend on who computed
// which part of them.
func TestModel(t *testing.T) {
	const name = "smollm2-135m-instruct"
	f := NewProcesses(t, 2, []string{"--model", name}, []string{"--memory", "420MiB", "--threads", "1"})
	report(t, Run(t, f, Plan{
		Seed: *seed, Orders: Orders(*seed, 4, 40, name), Jobs: 3 * *model, Flight: 4, Limit: time.Hour,
		Script: Script(*seed, Pace{Deaths: *model, Mean: 2 * time.Second, Workers: 2, Dispatchers: 1}),
	}))
}
