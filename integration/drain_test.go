package integration

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/integration/harness"
)

// TestWorkerDrain: an operator's drain lets a stream end where it runs, or moves it when its time is over, and in both
// cases nothing of it is lost or repeated; a process whose worker left ends with 0, and pelton up goes on without it.
func TestWorkerDrain(t *testing.T) {
	t.Parallel()
	p := harness.Up(t, t.TempDir(), "--engine", "sim", "--model", "sim")
	ctx := testContext(t, 5*time.Minute)
	c := connect(t, p)
	cli := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, harness.Binary(t), append(args, "--server", p.HTTP)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("pelton %v: %v\n%s%s", args, err, out, &stderr)
		}
		return string(out)
	}
	processes := map[string]*harness.Process{} // of workers, by the worker's name
	hire := func(name string) {
		t.Helper()
		w := harness.Start(t, "worker", "--nats", p.NATS, "--name", name, "--engine", "sim", "--model", "sim")
		waitFor(t, ctx, "worker "+name, func() bool {
			var live []contracts.Heartbeat
			if err := json.Unmarshal([]byte(cli("worker", "ls", "-o", "json")), &live); err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(live, func(h contracts.Heartbeat) bool { return strings.HasPrefix(h.Worker, name+"-") })
			if i >= 0 {
				processes[live[i].Worker] = w
			}
			return i >= 0
		})
	}
	job := func(tokens int) *contracts.Job {
		return &contracts.Job{Model: "sim", Kind: contracts.KindText, Prompt: "count", Params: contracts.Params{MaxTokens: new(tokens), Temperature: new(0.7), Seed: new(int64(7)), IgnoreEOS: true}}
	}
	begin := func(tokens int) (s *client.Stream, worker string) { // returns when a worker has it
		t.Helper()
		j := job(tokens)
		j.ID = t.Name() + time.Now().Format(time.RFC3339Nano)
		s, err := c.Run(ctx, j)
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, ctx, "the stream to run", func() bool {
			status, err := c.Status(ctx, j.ID)
			worker = status.Worker
			return err == nil && status.State == contracts.StateRunning
		})
		return s, worker
	}

	var own []contracts.Heartbeat
	if err := json.Unmarshal([]byte(cli("worker", "ls", "-o", "json")), &own); err != nil || len(own) != 1 {
		t.Fatalf("workers: %v, %v", own, err)
	}
	hire("one")
	if out := cli("worker", "drain", own[0].Worker, "--wait"); !strings.Contains(out, "stopped") {
		t.Errorf("drain of the worker of up: %s", out)
	}

	hire("two")
	s, first := begin(1500)
	if out := cli("worker", "drain", first, "--grace", "5m"); !strings.Contains(out, "draining") {
		t.Errorf("drain: %s", out)
	}
	for _, look := range [][]string{{"worker", "ls"}, {"top", "--once"}} {
		if out := cli(look...); !strings.Contains(out, first+"  draining") {
			t.Errorf("%v does not say that %s drains:\n%s", look, first, out)
		}
	}
	later, err := c.Run(ctx, job(3))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, final := collect(t, later); final.Claim.Worker == first {
		t.Errorf("a job that came during the drain ran on the draining %s", first)
	}
	if tokens, _, final := collect(t, s); len(tokens) != 1500 || final.Code != "" || final.Claim.Worker != first || final.Claim.Attempt != 1 {
		t.Errorf("the stream during the drain: %d tokens, %q, by %+v", len(tokens), final.Code, final.Claim)
	}
	if code := processes[first].Exit(); code != 0 {
		t.Errorf("the drained process ends with %d\n%s", code, processes[first].Log())
	}

	hire("three")
	s, second := begin(1000)
	if out := cli("worker", "drain", second, "--grace", "100ms", "--wait"); !strings.Contains(out, "stopped") {
		t.Errorf("drain --wait: %s", out)
	}
	if code := processes[second].Exit(); code != 0 {
		t.Errorf("the drained process ends with %d\n%s", code, processes[second].Log())
	}
	tokens, text, final := collect(t, s)
	if len(tokens) != 1000 || final.Code != "" || final.Claim.Worker == second || final.Claim.Failures != 0 {
		t.Errorf("the stream that moved: %d tokens, %q, by %+v", len(tokens), final.Code, final.Claim)
	}
	again, err := c.Run(ctx, job(1000))
	if err != nil {
		t.Fatal(err)
	}
	if want, wantText, _ := collect(t, again); !slices.Equal(tokens, want) || text != wantText {
		t.Error("the stream that moved is not the one of an undisturbed run")
	}
}
