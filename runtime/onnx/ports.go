//go:build cgo && (linux || darwin)

package onnx

import (
	"fmt"
	"slices"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx/session"
)

// Load loads the ONNX Runtime library at a path, as opening a model does; the error says why it cannot be used.
func Load(library string) error { return session.Load(library) }

// Ports reads the inputs and outputs of an ONNX file with the ONNX Runtime library at a path. What this
// version cannot pass on is an error that names it: values that are no tensors, inputs of rank 0, strings
// and the smaller kinds of floating point.
func Ports(library, path string) (inputs, outputs []model.Port, err error) {
	if err := session.Load(library); err != nil {
		return nil, nil, err
	}
	in, out, err := ort.GetInputOutputInfo(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the inputs and outputs of %s: %w", path, err)
	}
	if inputs, err = ports("input", in, true); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if outputs, err = ports("output", out, false); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return inputs, outputs, nil
}

func ports(what string, list []ort.InputOutputInfo, input bool) ([]model.Port, error) {
	var out []model.Port
	for _, i := range list {
		p := model.Port{Name: i.Name, Shape: slices.Clone([]int64(i.Dimensions))}
		for name, t := range elementTypes {
			if t == i.DataType {
				p.Type = name
			}
		}
		switch {
		case i.OrtValueType != ort.ONNXTypeTensor:
			return nil, fmt.Errorf("%s %q is no tensor: export the model without sequences and maps (for scikit-learn: zipmap off)", what, i.Name)
		case p.Type == "" || p.Type == "FP16" && !input:
			return nil, fmt.Errorf("%s %q has elements of type %v, which this version does not pass on: cast it in the graph", what, i.Name, i.DataType)
		case len(p.Shape) == 0 && input:
			return nil, fmt.Errorf("input %q is a scalar: give it a shape of [1]", i.Name)
		}
		for k, d := range p.Shape {
			p.Shape[k] = max(d, -1)
		}
		out = append(out, p)
	}
	return out, nil
}

func portNames(list []model.Port) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.Name
	}
	return out
}

func samePorts(manifest, graph []model.Port) bool {
	return slices.EqualFunc(manifest, graph, func(a, b model.Port) bool {
		return a.Name == b.Name && a.Type == b.Type && slices.Equal(a.Shape, b.Shape)
	})
}
