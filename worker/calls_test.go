package worker

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/engine"
)

// Whatever texts a job has, each is in exactly one call, whole, calls keep to the limit, and the vectors
// come back in the order of the texts.
func TestTextsGoOutAndVectorsComeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 300).Draw(t, "limit")
		lengths := rapid.SliceOfN(rapid.IntRange(1, 600), 1, 40).Draw(t, "lengths")
		rows := make([][]int32, len(lengths))
		for i, n := range lengths {
			rows[i] = slices.Repeat([]int32{int32(i)}, n)
		}
		calls, places := texts(rows, limit)
		outputs := make([][]engine.Tensor, len(calls))
		for c, call := range calls {
			tokens := 0
			v := engine.Tensor{Type: "FP32", Shape: []int64{int64(call.Rows), 1}}
			ids := call.Inputs[0].Data
			for k, i := range places[c] {
				n := int(binary.LittleEndian.Uint32(call.Inputs[1].Data[4*k:]))
				if n != len(rows[i]) {
					t.Fatalf("call %d says that its text %d has %d tokens, it has %d", c, k, n, len(rows[i]))
				}
				for range n {
					if got := binary.LittleEndian.Uint64(ids); got != uint64(i) {
						t.Fatalf("call %d has a token of text %d in the place of text %d", c, got, i)
					}
					ids = ids[8:]
				}
				tokens += n
				v.Data = binary.LittleEndian.AppendUint32(v.Data, uint32(i))
			}
			if call.Units != tokens || call.Rows != len(places[c]) || len(ids) != 0 || tokens > limit && call.Rows > 1 {
				t.Fatalf("call %d of %d texts counts %d units of %d tokens, the limit is %d", c, call.Rows, call.Units, tokens, limit)
			}
			outputs[c] = []engine.Tensor{v}
		}
		got, err := vectors(len(rows), places, outputs)
		if err != nil || len(got) != 1 || got[0].Name != contracts.Embedding || !slices.Equal(got[0].Shape, []int64{int64(len(rows)), 1}) {
			t.Fatalf("vectors = %+v, %v", got, err)
		}
		for i := range rows {
			if at := binary.LittleEndian.Uint32(got[0].Data[4*i:]); at != uint32(i) {
				t.Fatalf("vector %d is that of text %d", i, at)
			}
		}
	})
}

func TestVectorsOfAnotherShapeAreAnError(t *testing.T) {
	t.Parallel()
	for name, out := range map[string][]engine.Tensor{
		"none":    nil,
		"rank":    {{Type: "FP32", Shape: []int64{2}, Data: make([]byte, 8)}},
		"too few": {{Type: "FP32", Shape: []int64{1, 1}, Data: make([]byte, 4)}},
		"two":     {{Type: "FP32", Shape: []int64{2, 1}, Data: make([]byte, 8)}, {}},
	} {
		if v, err := vectors(2, [][]int{{0, 1}}, [][]engine.Tensor{out}); err == nil {
			t.Errorf("%s: vectors = %v, want an error", name, v)
		}
	}
}

// describedGraph is a graph of which only the description is asked.
type describedGraph struct {
	engine.Graph
	info engine.GraphInfo
}

func (g describedGraph) Info() engine.GraphInfo { return g.info }

func TestTensorsBecomeCalls(t *testing.T) {
	t.Parallel()
	batched := engine.GraphInfo{Inputs: []engine.Port{{Name: "a", Type: "FP32", Shape: []int64{-1, 2}}, {Name: "b", Type: "INT8", Shape: []int64{-1}}}}
	fixed := engine.GraphInfo{Inputs: []engine.Port{{Name: "a", Type: "FP32", Shape: []int64{2, 2}}}}
	turned := batched
	turned.Outputs = []engine.Port{{Name: "y", Type: "FP32", Shape: []int64{4, -1}}} // 4 rows joined would be cut across
	in := func(rows int64) []contracts.Tensor {
		return []contracts.Tensor{{Name: "b", Type: "INT8", Shape: []int64{rows}, Data: make([]byte, rows)}, {Name: "a", Type: "FP32", Shape: []int64{rows, 2}, Data: make([]byte, 8*rows)}}
	}
	uneven := in(3)
	uneven[0] = contracts.Tensor{Name: "b", Type: "INT8", Shape: []int64{2}, Data: make([]byte, 2)}
	for name, c := range map[string]struct {
		graph  engine.GraphInfo
		in     []contracts.Tensor
		most   int
		rows   int
		joined bool
	}{
		"joined":                   {batched, in(3), 8, 3, true},
		"full by itself":           {batched, in(8), 8, 8, false},
		"never joined":             {batched, in(3), 0, 3, false},
		"first sizes differ":       {batched, uneven, 8, 1, false},
		"an output has other rows": {turned, in(3), 8, 3, false},
		"no batch":                 {fixed, []contracts.Tensor{in(2)[1]}, 8, 1, false},
		"an input is missing":      {batched, in(3)[:1], 8, 3, false},
	} {
		calls := Calls{Graph: describedGraph{info: c.graph}, Kind: contracts.KindTensor, MaxBatch: c.most}
		got := calls.tensors(c.in)
		if got.Rows != c.rows || got.Units != c.rows || (got.Bucket != "") != c.joined {
			t.Errorf("%s: %d rows, %d units, bucket %q", name, got.Rows, got.Units, got.Bucket)
		}
		if len(got.Inputs) == 2 && got.Inputs[0].Name != "a" {
			t.Errorf("%s: inputs are not in the graph's order", name)
		}
		if err := calls.fits(got, len(c.in)); (err != nil) != (name == "an input is missing") || err != nil && !errors.Is(err, engine.ErrBadTensor) {
			t.Errorf("%s: fits = %v", name, err)
		}
	}
}

func TestWantedOutputs(t *testing.T) {
	t.Parallel()
	out := []engine.Tensor{{Name: "x", Type: "FP32", Shape: []int64{1}, Data: make([]byte, 4)}, {Name: "y", Type: "INT8", Shape: []int64{0}}}
	for _, c := range []struct{ names, want []string }{{nil, []string{"x", "y"}}, {[]string{"y"}, []string{"y"}}, {[]string{"y", "x"}, []string{"x", "y"}}, {[]string{"x", "z"}, nil}} {
		got, err := wanted(c.names, out)
		var names []string
		for _, t := range got {
			names = append(names, t.Name)
		}
		if (err != nil) != (c.want == nil) || cmp.Diff(c.want, names) != "" {
			t.Errorf("wanted(%q) = %q, %v", c.names, names, err)
		}
	}
}
