package gather

import (
	"fmt"

	"github.com/pelton-run/pelton/runtime/engine"
)

// Call is what a job asks of a graph.
type Call struct {
	Inputs []engine.Tensor
	Units  int    // of work, as engine.GraphInfo counts them
	Rows   int    // of the first dimension of each output that belong to the call, when it has a bucket
	Bucket string // calls of one bucket can be joined along their first dimension; "" is none
}

// join puts the inputs of several calls behind each other. The calls have the same inputs in the same
// order, which are alike but for the first dimension.
func join(calls []Call) []engine.Tensor {
	if len(calls) == 1 {
		return calls[0].Inputs
	}
	joined := make([]engine.Tensor, len(calls[0].Inputs))
	for i, t := range calls[0].Inputs {
		size, rows := 0, int64(0)
		for _, c := range calls {
			size += len(c.Inputs[i].Data)
			rows += c.Inputs[i].Shape[0]
		}
		t.Shape = append([]int64{rows}, t.Shape[1:]...)
		data := make([]byte, 0, size)
		for _, c := range calls {
			data = append(data, c.Inputs[i].Data...)
		}
		t.Data = data
		joined[i] = t
	}
	return joined
}

// split gives each call its rows of the outputs.
func split(calls []Call, outputs []engine.Tensor) ([][]engine.Tensor, error) {
	if len(calls) == 1 {
		return [][]engine.Tensor{outputs}, nil
	}
	rows := 0
	for _, c := range calls {
		rows += c.Rows
	}
	parts := make([][]engine.Tensor, len(calls))
	for _, t := range outputs {
		if len(t.Shape) == 0 || t.Shape[0] != int64(rows) {
			return nil, fmt.Errorf("output %q has the shape %v where %d rows went in: the model cannot be called in batches", t.Name, t.Shape, rows)
		}
		each, at := len(t.Data)/rows, 0
		for i, c := range calls {
			part := t
			part.Shape = append([]int64{int64(c.Rows)}, t.Shape[1:]...)
			part.Data = t.Data[at : at+c.Rows*each]
			at += c.Rows * each
			parts[i] = append(parts[i], part)
		}
	}
	return parts, nil
}
