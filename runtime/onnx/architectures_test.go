//go:build cgo && (linux || darwin)

package onnx_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/onnx"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// Each architecture computes what llama.cpp computes, and cuts text as it does: testdata/architectures.py.
func TestArchitecturesEqualLlamaCpp(t *testing.T) {
	t.Parallel()
	var cases []struct {
		Arch   string
		Tokens []int32
		Logits [][]float64 // every Every-th of each row
		Every  int
		Texts  []struct {
			Text string
			IDs  []int32
		}
	}
	raw, err := os.ReadFile("testdata/architectures.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 3 {
		t.Fatalf("%d architectures, want 3", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Arch, func(t *testing.T) {
			t.Parallel()
			path := unpack(t, c.Arch+".gguf")
			for variant, within := range map[string]float64{convert.FP32: 1e-4, convert.Q8: 0.15, convert.Q4: 0.15, convert.BF16W4: 0.15} {
				dir := t.TempDir()
				if _, err := convert.FromGGUF(t.Context(), path, dir, convert.Options{Variant: variant}); err != nil {
					t.Fatal(err)
				}
				e := open(t, func(c *onnx.Config) { c.ModelDir, c.Threads, c.Spin, c.MaxSequences = dir, 1, onnx.SpinOff, 4 })
				logits, err := e.Logits(t.Context(), c.Tokens)
				if err != nil {
					t.Fatal(err)
				}
				worst, peak := 0.0, 0.0
				for i, row := range c.Logits {
					for j, want := range row {
						peak = max(peak, math.Abs(want))
						if diff := math.Abs(float64(logits[i][j*c.Every]) - want); !(diff <= worst) {
							worst = diff
						}
					}
				}
				if !(worst <= within*peak) || peak < 1 {
					t.Errorf("%s: logits differ by up to %g, allowed are %g (the largest is %g)", variant, worst, within*peak, peak)
				}
				words, err := tokenizer.Load(dir)
				if err != nil {
					t.Fatal(err)
				}
				for _, text := range c.Texts {
					if got := words.Encode(text.Text); !slices.Equal(got, text.IDs) {
						t.Errorf("Encode(%q) = %v, want %v", text.Text, got, text.IDs)
					}
					if got := words.Decode(text.IDs); got != text.Text {
						t.Errorf("Decode(%v) = %q, want %q", text.IDs, got, text.Text)
					}
				}
			}
		})
	}
}

// unpack writes a packed file of testdata to a folder of the test's and returns its path.
func unpack(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
