package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/runtime/memory"
)

var hostile = flag.Int("hostile", 6, "mixes of TestHostile")

// boxLimit holds one of the models and some jobs; two models do not fit.
const boxLimit = 576 << 20

// TestHostile: in a box with a hard limit on memory, whatever is asked, nobody is killed and no job
// fails. Where no box can be made, the same load runs against --memory and its peak is checked.
func TestHostile(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	args := []string{"--models", harness.Twins(t, names...), "--model", "a", "--model", "b", "--model", "c"}
	box, err := harness.NewBox(t, boxLimit)
	if err != nil {
		t.Logf("without a box: %v", err)
		args = append(args, "--memory", fmt.Sprint(boxLimit))
	}
	p := harness.UpIn(t, box, t.TempDir(), args...)
	a := newAttack(t, p)
	for i := range *hostile {
		model := names[i/10%len(names)]
		if err := a.mix(model, names); err != nil {
			t.Fatalf("seed %d, mix %d of model %s: %v\n%s", *seed, i, model, err, p.Log())
		}
		if i%50 == 49 {
			t.Logf("%d mixes, %d jobs", i+1, a.done.Load())
		}
	}
	resident, err := p.Peak()
	if err != nil {
		t.Fatalf("the fleet is gone: %v", err)
	}
	t.Logf("seed %d: %d mixes, %d jobs completed, %d canceled, %d failed; %d loads; peak resident memory %s of %s", *seed, *hostile,
		a.done.Load(), a.canceled.Load(), a.failed.Load(), a.loads(), memory.FormatSize(resident), memory.FormatSize(boxLimit))
	if resident > boxLimit {
		t.Errorf("peak resident memory is %d bytes, the limit %d", resident, boxLimit)
	}
	if box == nil {
		return
	}
	kills, err := box.Kills()
	if err != nil || kills != 0 {
		t.Errorf("the kernel killed %d processes, %v", kills, err)
	}
	t.Logf("control group: peak %s of %s with page cache, %d kills", memory.FormatSize(box.Peak()), memory.FormatSize(box.Limit), kills)
}

// attack is what is sent to a fleet.
type attack struct {
	t    *testing.T
	p    *harness.Process
	c    *client.Client
	rng  *rand.Rand
	most int // tokens of the largest job

	done, canceled, failed atomic.Int64
}

func newAttack(t *testing.T, p *harness.Process) *attack {
	t.Helper()
	nc, err := nats.Connect(p.NATS, nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	a := &attack{t: t, p: p, c: client.New(nc, "default", client.WithTimeout(time.Minute)), rng: rand.New(rand.NewPCG(*seed, 1))}
	var workers struct {
		Data []contracts.Heartbeat `json:"data"`
	}
	_, body, err := p.Get(t.Context(), "/v1/workers")
	if err != nil || json.Unmarshal([]byte(body), &workers) != nil || len(workers.Data) == 0 {
		t.Fatalf("workers: %v %s", err, body)
	}
	a.most = workers.Data[0].ContextLength
	for _, w := range workers.Data {
		a.most = min(a.most, int(w.KV.Total/w.KV.PerToken))
	}
	a.most -= a.most / 8 // the budget may shrink while the fleet runs
	t.Logf("the largest job is %d tokens", a.most)
	return a
}

// one is a job of a mix.
type one struct {
	model          string
	prompt, output int
	choices        int
	cancel         time.Duration // 0 is never
}

// mix sends one kind of trouble and waits until all of it is over.
func (a *attack) mix(model string, all []string) error {
	var jobs []one
	switch a.rng.IntN(10) {
	case 0: // the largest prompt
		jobs = append(jobs, one{model: model, prompt: a.most - 4, output: 4})
	case 1: // the largest batch of one job
		n := 2 + a.rng.IntN(7)
		jobs = append(jobs, one{model: model, prompt: 8, output: min(a.most/n-32, 8), choices: n})
	case 2, 3: // more small jobs than fit
		for range 16 {
			jobs = append(jobs, one{model: model, prompt: 2 + a.rng.IntN(60), output: 1 + a.rng.IntN(4)})
		}
	case 4, 5, 6: // a storm of cancels among large jobs
		for range 12 {
			jobs = append(jobs, one{model: model, prompt: 2 + a.rng.IntN(a.most/2), output: 400, cancel: time.Duration(1+a.rng.IntN(1500)) * time.Millisecond})
		}
	case 7: // all models at once
		for _, m := range all {
			jobs = append(jobs, one{model: m, prompt: 20, output: 4})
		}
	default:
		for range 4 {
			jobs = append(jobs, one{model: model, prompt: 2 + a.rng.IntN(a.most/8), output: 2 + a.rng.IntN(10), choices: 1 + a.rng.IntN(3)})
		}
	}
	errs := make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, j := range jobs {
		token := int32(100 + a.rng.IntN(40000))
		wg.Go(func() { errs[i] = a.run(j, token) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// run sends a job, reads it to its end, and counts what became of it.
func (a *attack) run(j one, token int32) error {
	ctx, cancel := context.WithTimeout(a.t.Context(), 10*time.Minute)
	defer cancel()
	prompt := make([]int32, j.prompt)
	for i := range prompt {
		prompt[i] = token
	}
	answer, err := a.c.Submit(ctx, &contracts.Job{Model: j.model, Kind: contracts.KindText, Class: contracts.Classes[int(token)%len(contracts.Classes)], Tokens: prompt,
		Params: contracts.Params{MaxTokens: &j.output, N: new(max(j.choices, 1)), IgnoreEOS: true}})
	if err != nil {
		return fmt.Errorf("submit %+v: %w", j, err)
	}
	if j.cancel > 0 {
		timer := time.AfterFunc(j.cancel, func() { _, _ = a.c.Cancel(ctx, answer.Job) })
		defer timer.Stop()
	}
	final, err := a.final(ctx, answer.Job)
	switch {
	case err != nil:
		a.failed.Add(1)
		return fmt.Errorf("%+v: %w", j, err)
	case final.Code == contracts.CodeCanceled && j.cancel > 0:
		a.canceled.Add(1)
	case final.Code != "":
		a.failed.Add(1)
		return fmt.Errorf("%+v failed: %s %s", j, final.Code, final.Message)
	default:
		a.done.Add(1)
	}
	return nil
}

// final reads a job's stream to its last record, again when a busy machine's broker was late.
func (a *attack) final(ctx context.Context, job string) (*contracts.Chunk, error) {
	for {
		s, err := a.c.Follow(ctx, job, -1)
		if err == nil {
			for c, e := range s.Chunks() {
				if err = e; err != nil {
					break
				}
				if c.Final() {
					return c, nil
				}
			}
		}
		if ctx.Err() != nil || contracts.CodeOf(err) != contracts.CodeUnavailable {
			return nil, fmt.Errorf("job %s: %w", job, err)
		}
	}
}

// loads is how often the fleet loaded a model.
func (a *attack) loads() (n int) {
	_, body, err := a.p.Get(a.t.Context(), "/metrics")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, `pelton_model_loads_total{event="loaded"`) {
			var k int
			_, _ = fmt.Sscan(line[strings.LastIndexByte(strings.TrimSpace(line), ' '):], &k)
			n += k
		}
	}
	return n
}

// TestBoxKills: a box does what the other tests rely on.
func TestBoxKills(t *testing.T) {
	t.Parallel()
	box, err := harness.NewBox(t, 32<<20)
	if err != nil {
		t.Logf("no box here: %v", err)
		return
	}
	if kills, err := box.Kills(); err != nil || kills != 0 {
		t.Fatalf("a new box counts %d kills, %v", kills, err)
	}
	file := filepath.Join(t.TempDir(), "out")
	cmd := box.Command("/bin/sh", "-c", `x=$(head -c 100000000 /dev/zero | tr '\0' x); echo ${#x} > `+file)
	err = cmd.Run()
	if _, missing := os.Stat(file); err == nil || missing == nil {
		t.Errorf("a process that takes 100 MB in a box of 32 MiB ended with %v", err)
	}
	if kills, err := box.Kills(); err != nil || kills == 0 {
		t.Errorf("the box counts %d kills, %v", kills, err)
	}
}
