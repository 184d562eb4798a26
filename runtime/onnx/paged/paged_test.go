//go:build cgo && (linux || darwin)

package paged_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/enginetest"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// folder is that of the default model, or the one that PELTON_TEST_MODEL names.
func folder(t testing.TB, variant string) string {
	t.Helper()
	if dir := os.Getenv("PELTON_TEST_MODEL"); dir != "" {
		return dir
	}
	dir, _, err := hub.Ensure(context.Background(), model.Store{Root: model.DefaultRoot()}, hub.Default, variant, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func library(t testing.TB) string {
	t.Helper()
	path, err := hub.Library(context.Background(), os.Getenv("PELTON_ORT_LIB"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens the default model on the GPU that PELTON_TEST_DEVICE names; without one the test is skipped: nothing
// but a GPU runs these graphs.
func open(t testing.TB, variant string, change func(*onnx.Config)) onnx.Model {
	t.Helper()
	d, err := device.Parse(os.Getenv("PELTON_TEST_DEVICE"))
	if err != nil || !d.NVIDIA() {
		t.Skip("no GPU: PELTON_TEST_DEVICE=cuda:0 and PELTON_ORT_LIB name one and the library for it")
	}
	c := onnx.Config{ModelDir: folder(t, variant), Library: library(t), Device: d}
	if change != nil {
		change(&c)
	}
	e, err := onnx.OpenModel(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v, memory %+v", e.Info(), e.Memory())
	t.Cleanup(func() {
		if err := e.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// variants are those for GPUs, or of the model that is named the one that it has.
func variants() []string {
	if dir := os.Getenv("PELTON_TEST_MODEL"); dir != "" {
		return []string{filepath.Base(dir)}
	}
	return []string{convert.FP16, convert.FP16W8, convert.FP16W4}
}

// TestConformance allows more rounding where weights have blocks: the library's products of few rows add up in half
// precision, those of many do not.
func TestConformance(t *testing.T) {
	for _, variant := range variants() {
		t.Run(variant, func(t *testing.T) {
			rounding := map[string]float64{convert.FP16W8: 0.1, convert.FP16W4: 0.1}[variant]
			enginetest.Run(t, func(t *testing.T) engine.Engine {
				return open(t, variant, func(c *onnx.Config) { c.MaxSequences, c.MaxStepTokens = 8, 37 })
			}, enginetest.Options{SetBudget: func(e engine.Engine, bytes int64) { e.(onnx.Model).SetKVBudget(bytes) }, Longest: 300, Rounding: rounding})
		})
	}
}

// TestAgrees compares with single precision on the CPU, for texts of one page and of several. The weights of 8 bits are
// rounded once more, those of 4 bits are the file's.
func TestAgrees(t *testing.T) {
	for _, variant := range variants() {
		t.Run(variant, func(t *testing.T) { agrees(t, variant, variant == convert.FP16W8) })
	}
}

func agrees(t *testing.T, variant string, rounded bool) {
	within, others := 0.02, 0.02
	if rounded {
		within, others = 0.05, 0.12
	}
	e := open(t, variant, nil)
	reference, err := onnx.OpenModel(onnx.Config{ModelDir: folder(t, convert.FP32), Library: library(t), Device: device.Device{Kind: device.CPU}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reference.Shutdown() }()
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 7, 255, 256, 257, 1500} {
		text := make([]int32, n)
		for i := range text {
			text[i] = int32(r.IntN(e.Info().Vocab))
		}
		got, err := e.Logits(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		want, err := reference.Logits(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		same, far := 0, 0
		for i := range want {
			if largest(got[i]) == largest(want[i]) {
				same++
			}
			if apart(got[i], want[i]) > within {
				far++
			}
		}
		t.Logf("%d tokens: %d with the same next one, %d with logits that are far apart", n, same, far)
		// Text without sense has near ties, and a token in some hundred that the model treats in another way when the
		// last bit of a weight changes.
		if far > 1+n/100 || same < n-2-int(others*float64(n)) {
			t.Errorf("%d tokens: %d with the same next one, %d with logits further apart than %g of their length", n, same, far, within)
		}
	}
}

// TestShare compares sequences that took the beginning of their prompt over, from an open one and from one that is
// kept, with one that computed it all, and looks that none takes over from another tenant's.
func TestShare(t *testing.T) {
	e := open(t, convert.FP16, func(c *onnx.Config) { c.MaxSequences = 8 })
	sharer, page := e.(engine.Sharer), e.Info().BlockTokens
	sharer.Keep(e.Memory().Budget)
	r := rand.New(rand.NewPCG(3, 4))
	common := make([]int32, 3*page+50)
	for i := range common {
		common[i] = int32(r.IntN(e.Info().Vocab))
	}
	begin := func(scope string, prompt []int32) (s engine.Seq, logits []float32, shared int) {
		s, err := e.Open(len(prompt) + 8)
		if err != nil {
			t.Fatal(err)
		}
		shared = sharer.Share(s, scope, prompt)
		row := &engine.Row{Seq: s, Tokens: prompt[shared:], Sample: true}
		if err := e.Step(t.Context(), []*engine.Row{row}); err != nil || row.Err != nil {
			t.Fatal(err, row.Err)
		}
		return s, slices.Clone(row.Logits), shared
	}
	source, _, _ := begin("ann", common)
	for _, from := range []string{"an open one", "one that is kept"} {
		for _, n := range []int{3*page + 50, 2*page + 1, page - 1} {
			prompt := append(slices.Clone(common[:n]), int32(len(from)), 6, 7)
			s, got, shared := begin("ann", prompt)
			other, want, none := begin(fmt.Sprint(from, n), prompt) // a tenant of its own
			if shared != n/page*page || none != 0 {
				t.Errorf("%d tokens in common with %s: %d were taken over, and %d from another tenant's", n, from, shared, none)
			}
			if d := apart(got, want); d > 0.02 {
				t.Errorf("%d tokens in common with %s: logits are %g of their length from those that were computed", n, from, d)
			}
			e.Close(s)
			e.Close(other)
		}
		e.Close(source)
	}
	if m := e.Memory(); m.Reserved != 0 || m.Kept == 0 {
		t.Errorf("at the end: %+v", m)
	}
	sharer.Keep(0)
	if m := e.Memory(); m.Kept != 0 {
		t.Errorf("nothing may be kept: %+v", m)
	}
}

func apart(a, b []float32) float64 {
	var d, l float64
	for i := range b {
		x := float64(a[i] - b[i])
		d, l = d+x*x, l+float64(b[i])*float64(b[i])
	}
	return math.Sqrt(d / l)
}

func largest(v []float32) (at int) {
	for i := range v {
		if v[i] > v[at] {
			at = i
		}
	}
	return at
}

// BenchmarkDecode steps n sequences that hold 200 tokens at first, with their logits, with the likeliest token only,
// and without either.
func BenchmarkDecode(b *testing.B) {
	for _, variant := range variants() {
		b.Run(variant, func(b *testing.B) {
			e := open(b, variant, nil)
			for _, want := range []string{"logits", "likeliest", "nothing"} {
				for _, n := range []int{1, 8, 32, 64, 128, 256, 512} {
					b.Run(fmt.Sprintf("%s/b%d", want, n), func(b *testing.B) { decode(b, e, n, 200, want) })
				}
			}
		})
	}
}

// BenchmarkContext steps sequences that hold more tokens.
func BenchmarkContext(b *testing.B) {
	e := open(b, convert.FP16, nil)
	for _, held := range []int{1000, 4000} {
		for _, n := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%d/b%d", held, n), func(b *testing.B) { decode(b, e, n, held, "likeliest") })
		}
	}
}

func decode(b *testing.B, e engine.Engine, n, held int, want string) {
	const most = 300
	rows := fill(b, e, n, held, held+most)
	for _, r := range rows {
		r.Sample, r.Likeliest = want != "nothing", want == "likeliest"
	}
	steps := min(b.N, most)
	b.ResetTimer()
	for range steps {
		step(b, e, rows)
	}
	b.StopTimer()
	took := b.Elapsed().Seconds() / float64(steps)
	b.ReportMetric(took*1e3, "ms/step")
	b.ReportMetric(float64(n)/took, "tokens/s")
	for _, r := range rows {
		e.Close(r.Seq)
	}
}

// BenchmarkPrefill feeds prompts of n tokens, one in each step.
func BenchmarkPrefill(b *testing.B) {
	for _, variant := range variants() {
		b.Run(variant, func(b *testing.B) {
			e := open(b, variant, nil)
			for _, n := range []int{64, 256, 512, 1024, 2048} {
				b.Run(fmt.Sprintf("p%d", n), func(b *testing.B) { prefill(b, e, n) })
			}
		})
	}
}

func prefill(b *testing.B, e engine.Engine, n int) {
	for range b.N {
		for _, r := range fill(b, e, 1, n, n) {
			e.Close(r.Seq)
		}
	}
	took := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(took*1e3, "ms/prompt")
	b.ReportMetric(float64(n)/took, "tokens/s")
}

// fill opens n sequences of at most so many tokens and feeds each a prompt.
func fill(b *testing.B, e engine.Engine, n, prompt, most int) (rows []*engine.Row) {
	b.Helper()
	text := make([]int32, prompt)
	for i := range text {
		text[i] = int32((i*7919 + 31) % e.Info().Vocab)
	}
	for range n {
		s, err := e.Open(most)
		if err != nil {
			b.Fatal(err)
		}
		row := &engine.Row{Seq: s, Sample: true}
		for at := 0; at < prompt; at += len(row.Tokens) {
			row.Tokens = text[at:min(prompt, at+e.Info().MaxStepTokens)]
			step(b, e, []*engine.Row{row})
		}
		row.Tokens = text[:1]
		rows = append(rows, row)
	}
	return rows
}

func step(b *testing.B, e engine.Engine, rows []*engine.Row) {
	b.Helper()
	if err := e.Step(context.Background(), rows); err != nil {
		b.Fatal(err)
	}
	for _, r := range rows {
		if r.Err != nil {
			b.Fatal(r.Err)
		}
	}
}
