package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

var (
	seed  = flag.Uint64("seed", 20261125, "of the random mixes")
	mixes = flag.Int("mixes", 3, "mixes of TestPrediction")
)

// childEnv makes the test binary the process whose memory is measured.
const childEnv = "PELTON_TEST_PREDICTION"

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	harness.Main(m)
}

// look is one comparison: the largest difference within a mix.
type look struct{ Predicted, Measured, KV int64 }

// report is what the process under test prints.
type report struct {
	Small look // of one sequence of 100 tokens with a reservation of 2,000
	Looks []look
}

// TestPrediction: what an engine holds is what was predicted, within 5 % or 16 MB, at every step of
// every mix. A short sequence takes what its tokens take, whatever was reserved for it: huge pages would
// make it 180 times 2 MiB.
func TestPrediction(t *testing.T) {
	t.Parallel()
	if _, err := anonymous(); err != nil {
		t.Logf("resident memory is exact on linux only: %v", err)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-seed", fmt.Sprint(*seed), "-mixes", fmt.Sprint(*mixes))
	cmd.Env = append(os.Environ(), childEnv+"=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", *seed, err, &stderr)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil || len(r.Looks) != *mixes {
		t.Fatalf("seed %d: %d mixes of %d, %v: %s", *seed, len(r.Looks), *mixes, err, out)
	}
	looks := r.Looks
	if over := r.Small.Measured - r.Small.Predicted; over > 8<<20 || over < -8<<20 {
		t.Errorf("a sequence of 100 tokens should take %d bytes of KV cache, the process holds %d bytes more than that", r.Small.KV, over)
	}
	var worst, share, most int64
	for i, l := range looks {
		d := max(l.Measured-l.Predicted, l.Predicted-l.Measured)
		worst, share, most = max(worst, d), max(share, 1000*d/l.Predicted), max(most, l.KV)
		if d > max(l.Predicted/20, 16<<20) {
			t.Errorf("seed %d, mix %d: predicted %d bytes, measured %d", *seed, i, l.Predicted, l.Measured)
		}
	}
	t.Logf("seed %d, %d mixes of up to %s of KV cache: the largest difference is %s, or %.1f %%", *seed, len(looks),
		memory.FormatSize(most), memory.FormatSize(worst), float64(share)/10)
}

// child opens an engine, predicts and measures.
func child() error {
	library, err := hub.Library(context.Background(), os.Getenv("PELTON_ORT_LIB"), nil)
	if err != nil {
		return err
	}
	dir, _, err := model.Store{Root: model.DefaultRoot()}.Find(harness.DefaultModel, "q8")
	if err != nil {
		return err
	}
	e, err := onnx.OpenModel(onnx.Config{ModelDir: dir, Library: library})
	if err != nil {
		return err
	}
	weights, arena := e.Footprint()
	base, err := anonymous()
	if err != nil {
		return err
	}
	// Files stay out of both sides: the kernel drops their pages when it likes.
	p := &process{e: e, rng: rand.New(rand.NewPCG(*seed, 0)), heap: heap(),
		plan: memory.Plan{Base: base - weights - arena}, models: weights + arena}
	var r report
	if r.Small, err = p.short(); err != nil {
		return err
	}
	for range *mixes {
		l, err := p.mix()
		if err != nil {
			return err
		}
		r.Looks = append(r.Looks, l)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// process is the process under test.
type process struct {
	e      onnx.Model
	rng    *rand.Rand
	plan   memory.Plan
	models int64
	heap   int64
	held   map[engine.Seq]int // tokens
}

// short feeds 100 tokens to a sequence that reserves 2,000.
func (p *process) short() (l look, err error) {
	p.held = map[engine.Seq]int{}
	s, err := p.e.Open(2000)
	if err != nil {
		return l, err
	}
	defer p.e.Close(s)
	for range 2 {
		l = look{}
		if err := p.step([]*engine.Row{{Seq: s, Tokens: make([]int32, 50)}}, &l); err != nil {
			return l, err
		}
	}
	return l, nil
}

// mix opens sequences of random lengths, feeds and steps them together, ends some in between, and looks
// after each step.
func (p *process) mix() (worst look, err error) {
	p.held = map[engine.Seq]int{}
	defer func() {
		for s := range p.held {
			p.e.Close(s)
		}
	}()
	var rows []*engine.Row
	info := p.e.Info()
	for range 1 + p.rng.IntN(16) {
		n := 2 + p.rng.IntN(40)
		if p.rng.IntN(8) == 0 {
			n = 200 + p.rng.IntN(400)
		}
		s, err := p.e.Open(n + 8)
		if err != nil {
			return worst, err
		}
		p.held[s] = 0
		for rest := n; rest > 0; {
			k := min(rest, info.MaxStepTokens)
			if rest-k == 1 {
				k--
			}
			rest -= k
			row := &engine.Row{Seq: s, Tokens: make([]int32, k), Sample: rest == 0}
			if err := p.step([]*engine.Row{row}, &worst); err != nil {
				return worst, err
			}
		}
		rows = append(rows, &engine.Row{Seq: s, Tokens: []int32{1}, Sample: true})
	}
	for range 4 {
		if err := p.step(rows, &worst); err != nil {
			return worst, err
		}
		if i := p.rng.IntN(len(rows)); len(rows) > 1 { // one is canceled
			p.e.Close(rows[i].Seq)
			delete(p.held, rows[i].Seq)
			rows = append(rows[:i], rows[i+1:]...)
		}
	}
	return worst, nil
}

func (p *process) step(rows []*engine.Row, worst *look) error {
	if err := p.e.Step(context.Background(), rows); err != nil {
		return err
	}
	var kv int64
	for _, r := range rows {
		if r.Err != nil {
			return r.Err
		}
		p.held[r.Seq] += len(r.Tokens)
	}
	for _, n := range p.held {
		kv += p.e.Info().KVBytes(n)
	}
	measured, err := anonymous()
	s := memory.Sample{Resident: measured, Heap: heap() - p.heap, Models: p.models, KV: kv}
	if d := p.plan.Difference(s); worst.Predicted == 0 || max(d, -d) > max(worst.Measured-worst.Predicted, worst.Predicted-worst.Measured) {
		*worst = look{Predicted: p.plan.Predict(s), Measured: measured, KV: kv}
	}
	return err
}

func heap() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}

// anonymous is the process's resident memory that no file backs, in bytes.
func anonymous() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no RssAnon")
}
