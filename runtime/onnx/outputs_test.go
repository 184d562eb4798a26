//go:build cgo && (linux || darwin)

package onnx_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// Graphs that take x of shape [n], as ONNX files.
const (
	sumOf   = "CAg6ZgoiCgF4EgF5IglSZWR1Y2VTdW0qDwoIa2VlcGRpbXMYAKABAgoMCgF4EgF6IgRSZWx1EgFnWhAKAXgSCwoJCAESBQoDEgFuYgsKAXkSBgoECAESAGIQCgF6EgsKCQgBEgUKAxIBbkIECgAQDQ==" // y is the sum of x, of no dimension, and z is relu(x)
	nonZero = "CAg6PAoPCgF4EgF5IgdOb25aZXJvEgFnWhAKAXgSCwoJCAESBQoDEgFuYhQKAXkSDwoNCAcSCQoCCAEKAxIBbUIECgAQDQ=="                                                         // y of shape [1, m] says where x is not 0
)

// TestOutputsOfAnyShape: an output without elements comes back as what it is, one without dimensions is an error that
// names it.
func TestOutputsOfAnyShape(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		graph string
		want  []engine.Tensor
		says  string
	}{
		"no dimension": {sumOf, nil, `output "y" is a scalar`},
		"no element":   {nonZero, []engine.Tensor{{Name: "y", Type: "INT64", Shape: []int64{1, 0}, Data: []byte{}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			raw, err := base64.StdEncoding.DecodeString(c.graph)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, model.GraphFile)
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			m := model.Manifest{Format: model.Format, Name: "m", Kind: model.KindTensor, Variant: "onnx", Architecture: "onnx"}
			if m.Inputs, m.Outputs, err = onnx.Ports(libraryPath(t), path); err != nil {
				t.Fatal(err)
			}
			file, err := model.Sum(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			m.Files = []model.File{file}
			if err := model.Write(dir, m); err != nil {
				t.Fatal(err)
			}
			n, err := onnx.OpenNet(onnx.Config{ModelDir: dir, Library: libraryPath(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = n.Shutdown() }()
			got, err := n.Run(t.Context(), []engine.Tensor{{Name: "x", Type: "FP32", Shape: []int64{2}, Data: make([]byte, 8)}})
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want an error that says %s", err, c.says)
				}
				return
			}
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%v; %s", err, diff)
			}
		})
	}
}
