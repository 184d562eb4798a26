//go:build cgo && (linux || darwin)

package onnx_test

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// Graphs that take x of shape [n], as ONNX files.
const (
	sumOf    = "CAg6ZgoiCgF4EgF5IglSZWR1Y2VTdW0qDwoIa2VlcGRpbXMYAKABAgoMCgF4EgF6IgRSZWx1EgFnWhAKAXgSCwoJCAESBQoDEgFuYgsKAXkSBgoECAESAGIQCgF6EgsKCQgBEgUKAxIBbkIECgAQDQ==" // y is the sum of x, of no dimension, and z is relu(x)
	nonZero  = "CAg6PAoPCgF4EgF5IgdOb25aZXJvEgFnWhAKAXgSCwoJCAESBQoDEgFuYhQKAXkSDwoNCAcSCQoCCAEKAxIBbUIECgAQDQ=="                                                         // y of shape [1, m] says where x is not 0
	squeezed = "CAg6MQoPCgF4EgF5IgdTcXVlZXplEgFnWhAKAXgSCwoJCAESBQoDEgFuYgkKAXkSBAoCCAFCBAoAEA0="                                                                         // y is x, of no dimension where that is one number
)

// TestOutputsOfAnyShape: an output without elements, or without dimensions, comes back as what it is, each time.
func TestOutputsOfAnyShape(t *testing.T) {
	t.Parallel()
	type call struct {
		x    []float32
		want []engine.Tensor
	}
	tensor := func(name string, shape []int64, values ...float32) engine.Tensor {
		return engine.Tensor{Name: name, Type: "FP32", Shape: shape, Data: inMemory(values...)}
	}
	empty := engine.Tensor{Name: "y", Type: "INT64", Shape: []int64{1, 0}, Data: []byte{}}
	for name, c := range map[string]struct {
		graph string
		calls []call
	}{
		"no dimension": {sumOf, []call{
			{[]float32{1, 3}, []engine.Tensor{tensor("y", []int64{}, 4), tensor("z", []int64{2}, 1, 3)}},
			{[]float32{-2}, []engine.Tensor{tensor("y", []int64{}, -2), tensor("z", []int64{1}, 0)}},
		}},
		"no element": {nonZero, []call{{[]float32{0, 0}, []engine.Tensor{empty}}}},
		"now and then no dimension": {squeezed, []call{
			{[]float32{5, 6}, []engine.Tensor{tensor("y", []int64{2}, 5, 6)}}, {[]float32{7}, []engine.Tensor{tensor("y", []int64{}, 7)}},
			{[]float32{8}, []engine.Tensor{tensor("y", []int64{}, 8)}}, {[]float32{9, 1, 2}, []engine.Tensor{tensor("y", []int64{3}, 9, 1, 2)}},
		}},
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
			for i, call := range c.calls {
				got, err := n.Run(t.Context(), []engine.Tensor{tensor("x", []int64{int64(len(call.x))}, call.x...)})
				if diff := cmp.Diff(call.want, got); err != nil || diff != "" {
					t.Errorf("call %d: %v; %s", i, err, diff)
				}
			}
		})
	}
}

// inMemory are numbers as they lie in memory.
func inMemory(values ...float32) (out []byte) {
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}
