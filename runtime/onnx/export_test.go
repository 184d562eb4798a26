//go:build cgo && (linux || darwin)

package onnx_test

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pelton-run/pelton/runtime/adopt"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/enginetest"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// exports are those of testdata/exports.py, and what is found in them.
var exports = []struct {
	name, variant string
	inPlace       bool
}{
	{"genai-fp32", "fp32", true}, {"genai-int4", "q4", true},
	{"optimum", "fp32", false}, {"optimum-merged", "fp32", false}, {"optimum-fp16", "fp16", false},
	{"optimum-int8", "int8", false}, {"optimum-bare", "fp32", false},
}

// adopted unpacks an export and makes a model folder of it.
func adopted(t *testing.T, name string) (dir string, m model.Manifest) {
	t.Helper()
	from, to := unpacked(t, name), t.TempDir()
	found, err := adopt.Inspect(from, "")
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if m, err = adopt.Place(t.Context(), found, to, adopt.Options{Name: name}); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return to, m
}

func unpacked(t *testing.T, name string) string {
	t.Helper()
	from := t.TempDir()
	z, err := zip.OpenReader(filepath.Join("testdata", name+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = z.Close() }()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(from, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return from
}

// A graph whose head is pruned (prune_lm_head of the genai builder) gives the logits of the last token only.
func TestExportOfLastLogits(t *testing.T) {
	t.Parallel()
	whole, _ := adopted(t, "optimum")
	from, to := unpacked(t, "optimum"), t.TempDir()
	field := func(to []byte, number protowire.Number, parts ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), slices.Concat(parts...))
	}
	number := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
	}
	text := func(n protowire.Number, s string) []byte { return field(nil, n, []byte(s)) }
	// A second graph is merged with the first: y = logits[:, -1:].
	var graph []byte
	graph = field(graph, 5, number(1, 1), number(2, 7), text(8, "end"), field(nil, 9, protowire.AppendFixed64(nil, math.MaxUint64))) // -1
	graph = field(graph, 1, text(1, "logits"), text(1, "end"), text(2, "y"), text(4, "Gather"), field(nil, 5, text(1, "axis"), number(3, 1), number(20, 2)))
	graph = field(graph, 12, text(1, "y"), field(nil, 2, field(nil, 1, number(1, 1),
		field(nil, 2, field(nil, 1, text(2, "batch")), field(nil, 1, number(1, 1)), field(nil, 1, number(1, 1205))))))
	path := filepath.Join(from, "model.onnx")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config := `{"model":{"decoder":{"filename":"model.onnx","outputs":{"logits":"y"}}}}`
	if err := errors.Join(os.WriteFile(path, field(raw, 7, graph), 0o600), os.WriteFile(filepath.Join(from, "genai_config.json"), []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	found, err := adopt.Inspect(from, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := adopt.Place(t.Context(), found, to, adopt.Options{Name: "last"}); err != nil {
		t.Fatal(err)
	}
	prompt, tokens := []int32{5, 200, 77, 31, 1000, 7, 7}, []int32{1, 2, 3}
	e := openExport(t, to, nil)
	want, got := led(t, openExport(t, whole, nil), prompt, tokens), led(t, e, prompt, tokens)
	for i := range want {
		if !slices.EqualFunc(want[i], got[i], func(a, b float32) bool { return math.Abs(float64(a-b)) < within }) {
			t.Errorf("step %d: the logits are others than those of the whole graph", i)
		}
	}
	if _, err := e.Logits(t.Context(), prompt); err == nil || !strings.Contains(err.Error(), "last token only") {
		t.Errorf("Logits of each token: %v, want an error", err)
	}
}

func openExport(t *testing.T, dir string, change func(*onnx.Config)) onnx.Model {
	t.Helper()
	c := onnx.Config{ModelDir: dir, Library: libraryPath(t), MaxSequences: 8, Threads: 1, Spin: onnx.SpinOff}
	if change != nil {
		change(&c)
	}
	e, err := onnx.OpenModel(c)
	if err != nil {
		t.Fatalf("OpenModel(%+v) = %v, want an engine", c, err)
	}
	t.Cleanup(func() {
		if err := e.Shutdown(); err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
	})
	return e
}

// within is how far a logit may be from that of Python's onnxruntime: kernels round as the processor makes them.
const within = 0.02

// Each export generates the tokens that Python's onnxruntime generates with the same file: behind those before, each
// is the likeliest, or one of two that lie closer than both may be off.
func TestExportsEqualPython(t *testing.T) {
	t.Parallel()
	var want []struct {
		Export         string
		Prompt, Tokens []int32
		Logits         []float64
		Every          int
	}
	raw, err := os.ReadFile("testdata/exports.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	for _, x := range exports {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			dir, m := adopted(t, x.name)
			if m.Variant != x.variant || m.Graph.InPlace != x.inPlace || m.Shape.ContextLength != 512 || !slices.Equal(m.EOS, []int32{1203}) {
				t.Errorf("found variant %s, in place %v, shape %+v, eos %v; want %+v", m.Variant, m.Graph.InPlace, m.Shape, m.EOS, x)
			}
			e, cases := openExport(t, dir, nil), 0
			for _, w := range want {
				if w.Export != x.name {
					continue
				}
				cases++
				steps := led(t, e, w.Prompt, w.Tokens)
				for i, v := range w.Logits {
					if diff := math.Abs(float64(steps[0][i*w.Every]) - v); !(diff < within) {
						t.Errorf("prompt of %d: logit %d is %g, want %g", len(w.Prompt), i*w.Every, steps[0][i*w.Every], v)
					}
				}
				for i, logits := range steps {
					if best := greedy(logits); !(logits[best]-logits[w.Tokens[i]] < 2*within) {
						t.Errorf("prompt of %d: token %d is %d, want %d", len(w.Prompt), i, best, w.Tokens[i])
					}
				}
			}
			if cases != 3 {
				t.Fatalf("%d prompts, want 3", cases)
			}
		})
	}
}

// led returns the logits behind the prompt and behind each of the tokens but the last.
func led(t *testing.T, e engine.Engine, prompt, tokens []int32) (steps [][]float32) {
	t.Helper()
	seq, err := e.Open(len(prompt) + len(tokens))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(seq)
	in := prompt
	for i := range tokens {
		row := &engine.Row{Seq: seq, Tokens: in, Sample: true}
		if err := e.Step(t.Context(), []*engine.Row{row}); err != nil || row.Err != nil {
			t.Fatal(err, row.Err)
		}
		steps, in = append(steps, slices.Clone(row.Logits)), tokens[i:i+1]
	}
	return steps
}

func TestExportConformance(t *testing.T) {
	t.Parallel()
	for _, x := range exports {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := adopted(t, x.name)
			enginetest.Run(t, func(t *testing.T) engine.Engine {
				return openExport(t, dir, func(c *onnx.Config) { c.MaxStepTokens = 16 })
			}, enginetest.Options{
				SetBudget: func(e engine.Engine, bytes int64) { e.(onnx.Model).SetKVBudget(bytes) },
				Longest:   16,
				Checks:    6,
			})
		})
	}
}

// A long prompt gives the same bits however it is cut, also with a scale that depends on the whole call
// (dynamic quantization), and whether its end is sampled or replayed.
func TestExportCuts(t *testing.T) {
	t.Parallel()
	for _, x := range exports {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := adopted(t, x.name)
			e := openExport(t, dir, func(c *onnx.Config) { c.MaxStepTokens = 16 })
			prompt := make([]int32, 75)
			for i := range prompt {
				prompt[i] = int32((i*131 + 977) % e.Info().Vocab)
			}
			var want []float32
			for _, cuts := range [][]int{{16, 16, 16, 16, 11}, {2, 16, 3, 16, 9, 16, 13}, {15, 15, 15, 15, 15}} {
				seq, err := e.Open(len(prompt) + 1)
				if err != nil {
					t.Fatal(err)
				}
				rest := prompt
				for _, n := range cuts {
					row := &engine.Row{Seq: seq, Tokens: rest[:n]}
					if err := e.Step(t.Context(), []*engine.Row{row}); err != nil || row.Err != nil {
						t.Fatal(err, row.Err)
					}
					rest = rest[n:]
				}
				last := &engine.Row{Seq: seq, Tokens: []int32{7}, Sample: true}
				if err := e.Step(t.Context(), []*engine.Row{last}); err != nil || last.Err != nil {
					t.Fatal(err, last.Err)
				}
				if want == nil {
					want = slices.Clone(last.Logits)
				}
				if !slices.Equal(last.Logits, want) {
					t.Errorf("cut into %v: the logits are others than cut into 16s", cuts)
				}
				e.Close(seq)
			}
			all, err := e.Logits(t.Context(), append(slices.Clone(prompt), 7))
			if err != nil || len(all) != len(prompt)+1 {
				t.Errorf("Logits of %d tokens: %d rows, %v", len(prompt)+1, len(all), err)
			}
		})
	}
}
