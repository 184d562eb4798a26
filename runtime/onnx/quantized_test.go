//go:build cgo && (linux || darwin)

package onnx_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// TestQuantizedModels compares the fp32 variant of a real model in each of the common GGUF formats with
// llama.cpp on the same file: see testdata/quantized.py, which makes the files, and `make quantized`. They
// are far too large to keep, so it runs only when their folder is given. llama.cpp rounds activations to 8
// bit, so that the two differ by that.
func TestQuantizedModels(t *testing.T) {
	dir := os.Getenv("PELTON_QUANTIZED")
	if dir == "" {
		return
	}
	var tokens []int32
	raw, err := os.ReadFile(filepath.Join(dir, "tokens.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &tokens); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.gguf"))
	if err != nil || len(files) < 13 {
		t.Fatalf("%d files in %s (%v), want at least 13", len(files), dir, err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".gguf")
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join(dir, name+".logits"))
			if err != nil {
				t.Fatal(err)
			}
			folder := t.TempDir()
			if _, err := convert.FromGGUF(t.Context(), path, folder, convert.Options{Variant: convert.FP32}); err != nil {
				t.Fatal(err)
			}
			e := open(t, func(c *onnx.Config) { c.ModelDir, c.MaxSequences = folder, 2 })
			got, err := e.Logits(t.Context(), tokens)
			if err != nil {
				t.Fatal(err)
			}
			same, divergence := 0, 0.0
			for i, row := range got {
				other := make([]float32, len(row))
				for j := range other {
					other[j] = math.Float32frombits(binary.LittleEndian.Uint32(want[4*(i*len(row)+j):]))
				}
				if greedy(row) == greedy(other) {
					same++
				}
				divergence += kullbackLeibler(other, row) / float64(len(got))
			}
			t.Logf("%s: %d of %d best tokens are the same, mean divergence %.5f", name, same, len(got), divergence)
			if float64(same) < 0.9*float64(len(got)) || divergence > 0.02 {
				t.Errorf("%s: want at least 90 %% and at most 0.02", name)
			}
		})
	}
}

// kullbackLeibler is the divergence of the predictions q from p, both given by logits, in nats.
func kullbackLeibler(p, q []float32) float64 {
	sum := func(x []float32) float64 {
		s := 0.0
		for _, v := range x {
			s += math.Exp(float64(v))
		}
		return math.Log(s)
	}
	logP, logQ, d := sum(p), sum(q), 0.0
	for i := range p {
		a, b := float64(p[i])-logP, float64(q[i])-logQ
		d += math.Exp(a) * (a - b)
	}
	return d
}
