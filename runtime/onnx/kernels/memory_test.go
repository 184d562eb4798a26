//go:build cgo && (linux || darwin)

package kernels_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/onnx/kernels"
	"github.com/pelton-run/pelton/runtime/quant"
)

// TestMemory runs a graph on tensors that the library allocated, and on views of them, in the memory of the host: that
// of devices is had in the same way.
func TestMemory(t *testing.T) {
	t.Parallel()
	const rows, columns = 40, 96
	matrix := randomMatrix(t, rand.New(rand.NewPCG(3, 4)), quant.Grouping{Bits: 8}, rows, columns)
	s, err := open(t, "BlockRows", []value{{"ids", 7, 2}, {"w", 2, 2}}, []value{{"y", 1, 3}},
		attribute{"rows", rows}, attribute{"columns", columns}, attribute{"bits", 8}, attribute{"wide", 0}, attribute{"gated", 0})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kernels.NewMemory(s, "nowhere", 0); err == nil {
		t.Error("there is memory called nowhere")
	}
	m, err := kernels.NewMemory(s, kernels.HostMemory, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Free()
	tensor := func(kind ort.TensorElementDataType, dims ...int64) *kernels.Tensor {
		v, err := m.Tensor(kind, dims...)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	groups := int64(rows+quant.Group-1) / quant.Group
	ids, out := tensor(ort.TensorElementDataTypeInt64, 4), tensor(ort.TensorElementDataTypeFloat, 4, columns)
	weights := tensor(ort.TensorElementDataTypeUint8, groups, int64(len(matrix.packed))/groups)
	copy(kernels.Numbers[byte](weights, len(matrix.packed)), matrix.packed)
	wanted := []int64{6, 39, 3, 5}
	copy(kernels.Numbers[int64](ids, 4), wanted)
	some, err := m.View(ids, 8, 16, ort.TensorElementDataTypeInt64, 1, 2) // 39 and 3
	if err != nil {
		t.Fatal(err)
	}
	middle, err := m.View(out, columns*4, 2*columns*4, ort.TensorElementDataTypeFloat, 1, 2, columns)
	if err != nil {
		t.Fatal(err)
	}
	all := kernels.Numbers[float32](out, 4*columns)
	for i := range all {
		all[i] = -1000
	}
	options, err := ort.NewRunOptions()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = options.Destroy() }()
	if err := kernels.Entry(options, "gpu_graph_id", "-1"); err != nil {
		t.Fatal(err)
	}
	if err := s.RunWithOptions([]ort.Value{some, weights}, []ort.Value{middle}, options); err != nil {
		t.Fatal(err)
	}
	for i, got := range all {
		want := -1000.0
		if r := i / columns; r == 1 || r == 2 {
			want = matrix.values[int(wanted[r])*columns+i%columns]
		}
		if math.Abs(float64(got)-want) > 1e-6*math.Abs(want) {
			t.Fatalf("number %d is %g, want %g", i, got, want)
		}
	}
	if err := kernels.UseCUDA(0); err != nil && !strings.Contains(err.Error(), "CUDA") {
		t.Errorf("without CUDA: %v", err)
	}
}
