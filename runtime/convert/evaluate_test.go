package convert_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pelton-run/pelton/runtime/quant"
)

// evaluator runs a converted graph by the definitions of its operators: slowly, and without the library
// that runs it in earnest.
type evaluator struct {
	t       *testing.T
	graph   wire
	weights []byte
	inits   map[string]array
}

// array is a value of the graph: floats, integers or bytes, whichever is set.
type array struct {
	dims  []int
	f     []float32
	i     []int64
	bytes []byte
}

// wire is a decoded protobuf message.
type wire struct {
	bytes map[protowire.Number][][]byte
	ints  map[protowire.Number][]int64
	f32   map[protowire.Number][]float32
}

func unwire(t *testing.T, b []byte) wire {
	t.Helper()
	w := wire{map[protowire.Number][][]byte{}, map[protowire.Number][]int64{}, map[protowire.Number][]float32{}}
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatalf("graph: %v", protowire.ParseError(n))
		}
		b = b[n:]
		switch kind {
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			w.bytes[field], b = append(w.bytes[field], v), b[n:]
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			w.ints[field], b = append(w.ints[field], int64(v)), b[n:]
		case protowire.Fixed32Type:
			v, n := protowire.ConsumeFixed32(b)
			w.f32[field], b = append(w.f32[field], math.Float32frombits(v)), b[n:]
		default:
			t.Fatalf("graph: field %d has wire type %d", field, kind)
		}
	}
	return w
}

func (w wire) texts(field protowire.Number) []string {
	var out []string
	for _, b := range w.bytes[field] {
		out = append(out, string(b))
	}
	return out
}

func (w wire) text(field protowire.Number) string { return string(w.bytes[field][0]) }

func load(t *testing.T, dir string) *evaluator {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := unwire(t, read("model.onnx"))
	e := &evaluator{t: t, graph: unwire(t, m.bytes[7][0]), weights: read("weights.bin"), inits: map[string]array{}}
	for _, b := range e.graph.bytes[5] {
		w := unwire(t, b)
		if _, twice := e.inits[w.text(8)]; twice {
			t.Fatalf("initializer %s appears twice", w.text(8))
		}
		e.inits[w.text(8)] = e.initializer(w)
	}
	return e
}

func (e *evaluator) initializer(w wire) array {
	var a array
	n := 1
	for _, d := range w.ints[1] {
		a.dims, n = append(a.dims, int(d)), n*int(d)
	}
	switch {
	case len(w.ints[14]) == 0 && len(w.bytes[9]) == 0:
		a.i = w.ints[7]
		return a
	case len(w.ints[14]) == 0 && w.ints[2][0] == 1:
		a.f = []float32{math.Float32frombits(binary.LittleEndian.Uint32(w.bytes[9][0]))}
		return a
	case len(w.ints[14]) == 0:
		a.bytes = w.bytes[9][0]
		return a
	}
	at := map[string]int{}
	for _, b := range w.bytes[13] {
		kv := unwire(e.t, b)
		if kv.text(1) == "location" {
			continue
		}
		v, err := strconv.Atoi(kv.text(2))
		if err != nil {
			e.t.Fatalf("%s: %v", w.text(8), err)
		}
		at[kv.text(1)] = v
	}
	if at["offset"]%4096 != 0 || at["offset"]+at["length"] > len(e.weights) {
		e.t.Fatalf("%s lies at %v in a file of %d bytes", w.text(8), at, len(e.weights))
	}
	raw := e.weights[at["offset"]:][:at["length"]]
	if w.ints[2][0] == 2 || w.ints[2][0] == 3 {
		a.bytes = raw
		if len(raw) != n {
			e.t.Fatalf("%s: %d bytes, shape %v", w.text(8), len(raw), a.dims)
		}
		return a
	}
	width := 4
	if w.ints[2][0] == 10 {
		width = 2
	}
	for i := 0; i < n && len(raw) == width*n; i++ {
		if width == 2 {
			a.f = append(a.f, quant.Half(binary.LittleEndian.Uint16(raw[2*i:])))
		} else {
			a.f = append(a.f, math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
		}
	}
	if len(raw) != width*n {
		e.t.Fatalf("%s: %d bytes, shape %v", w.text(8), len(raw), a.dims)
	}
	return a
}

// node is one step with its attributes.
type node struct {
	op, name string
	ints     map[string]int
	floats   map[string]float32
	in       []array
}

// run computes the graph's outputs from its inputs, which are not changed.
func (e *evaluator) run(inputs map[string]array) map[string]array {
	values := map[string]array{}
	for _, m := range []map[string]array{e.inits, inputs} {
		for k, v := range m {
			values[k] = v
		}
	}
	for _, b := range e.graph.bytes[1] {
		w := unwire(e.t, b)
		n := node{op: w.text(4), name: w.text(3), ints: map[string]int{}, floats: map[string]float32{}}
		for _, b := range w.bytes[5] {
			a := unwire(e.t, b)
			switch {
			case len(a.f32[2]) > 0:
				n.floats[a.text(1)] = a.f32[2][0]
			case len(a.ints[8]) > 0:
				n.ints[a.text(1)] = int(a.ints[8][0])
			default:
				n.ints[a.text(1)] = int(a.ints[3][0])
			}
		}
		for _, name := range w.texts(1) {
			v, ok := values[name]
			if !ok && name != "" {
				e.t.Fatalf("node %s: nothing makes %q", n.name, name)
			}
			n.in = append(n.in, v)
		}
		for i, name := range w.texts(2) {
			if _, twice := values[name]; twice {
				e.t.Fatalf("node %s: %q is there already", n.name, name)
			}
			if name != "" {
				values[name] = e.compute(n)[i]
			}
		}
	}
	out := map[string]array{}
	for _, b := range e.graph.bytes[12] {
		name := unwire(e.t, b).text(1)
		out[name] = values[name]
	}
	return out
}

func (e *evaluator) compute(n node) []array {
	x := n.in[0]
	switch n.op {
	case "GatherBlockQuantized":
		return []array{gather(dequantized(x, n.in[2], n.ints["bits"]), n.in[1])}
	case "Gather":
		return []array{gather(x, n.in[1])}
	case "SimplifiedLayerNormalization":
		out, inverse := normed(x, n.in[1], n.floats["epsilon"])
		return []array{out, inverse}
	case "SkipSimplifiedLayerNormalization":
		sum := each(x, n.in[1], func(a, b float32) float32 { return a + b })
		out, _ := normed(sum, n.in[2], n.floats["epsilon"])
		return []array{out, {}, {}, sum}
	case "Div":
		return []array{divided(x, n.in[1])}
	case "Concat":
		return []array{beside(n.in)}
	case "Add":
		return []array{each(x, n.in[1], func(a, b float32) float32 { return a + b })}
	case "Mul":
		return []array{each(x, n.in[1], func(a, b float32) float32 { return a * b })}
	case "QuickGelu":
		alpha := float64(n.floats["alpha"])
		return []array{each(x, x, func(a, _ float32) float32 { return float32(float64(a) / (1 + math.Exp(-alpha*float64(a)))) })}
	case "BlockRows":
		return []array{gather(grouped(n), x)}
	case "BlockProduct":
		return []array{blockProduct(n)}
	case "MatMulNBits":
		w := dequantized(n.in[1], n.in[2], n.ints["bits"])
		if len(w.f) != n.ints["K"]*n.ints["N"] {
			e.t.Fatalf("%s: %d weights, K %d, N %d", n.name, len(w.f), n.ints["K"], n.ints["N"])
		}
		return []array{times(x, w.f, n.ints["K"], n.ints["N"])}
	case "Gemm":
		if n.ints["transB"] == 1 {
			return []array{times(x, n.in[1].f, n.in[1].dims[1], n.in[1].dims[0])}
		}
		return []array{each(n.in[2], times(x, flipped(n.in[1]), n.in[1].dims[0], n.in[1].dims[1]), func(a, b float32) float32 { return a + b })}
	case "MatMul":
		return []array{times(x, flipped(n.in[1]), n.in[1].dims[0], n.in[1].dims[1])}
	case "Reshape":
		return []array{reshaped(x, n.in[1].i)}
	case "ReduceSum":
		return []array{summed(x, n.ints["keepdims"])}
	case "ReduceMean":
		width := float32(x.dims[len(x.dims)-1])
		sum := summed(x, n.ints["keepdims"])
		return []array{each(sum, sum, func(a, _ float32) float32 { return a / width })}
	case "Sqrt":
		return []array{each(x, x, func(a, _ float32) float32 { return float32(math.Sqrt(float64(a))) })}
	case "Sigmoid":
		return []array{each(x, x, func(a, _ float32) float32 { return float32(1 / (1 + math.Exp(-float64(a)))) })}
	case "Split":
		return split(x, n.in[1].i)
	case "Attention":
		return []array{attention(n)}
	case "PagedAttention":
		return []array{pagedAttention(n)}
	case "DecodeAttention":
		return []array{decodeAttention(n), {}}
	case "Slice":
		from, width := int(n.in[1].i[0]), x.dims[1]
		return []array{{dims: []int{x.dims[0] - from, width}, f: x.f[from*width:]}}
	case "Cast":
		return []array{x}
	case "Gate":
		parts := split(x, []int64{int64(x.dims[1] / 2), int64(x.dims[1] / 2)})
		return []array{each(parts[0], parts[1], func(a, b float32) float32 { return a / float32(1+math.Exp(-float64(a))) * b })}
	case "Best":
		return []array{largest(x)}
	}
	e.t.Fatalf("%s: operator %s is not known to the evaluator", n.name, n.op)
	return nil
}

// dequantized gives [rows, K] floats of blocks of 32 with the zero point in the middle.
func dequantized(q, scales array, bits int) array {
	out := array{dims: []int{q.dims[0], len(q.bytes) * 8 / bits / q.dims[0]}}
	for i := range len(q.bytes) * 8 / bits {
		v := int(q.bytes[i*bits/8])
		if bits == 4 {
			v = v >> (4 * (i & 1)) & 15
		}
		out.f = append(out.f, scales.f[i/32]*float32(v-1<<(bits-1)))
	}
	return out
}

func gather(x, rows array) array {
	width := x.dims[1]
	out := array{dims: append(slices.Clone(rows.dims), width)}
	for _, r := range rows.i {
		out.f = append(out.f, x.f[int(r)*width:][:width]...)
	}
	return out
}

// each combines a with b, which is as large or a vector for each of a's rows.
func each(a, b array, f func(a, b float32) float32) array {
	out := array{dims: a.dims, f: make([]float32, len(a.f))}
	for i := range a.f {
		out.f[i] = f(a.f[i], b.f[i%len(b.f)])
	}
	return out
}

// normed gives the normed rows and, for each, what it was multiplied with.
func normed(x, w array, epsilon float32) (out, inverse array) {
	out = array{dims: x.dims, f: make([]float32, len(x.f))}
	width := len(w.f)
	for at := 0; at < len(x.f); at += width {
		sum := 0.0
		for _, v := range x.f[at : at+width] {
			sum += float64(v) * float64(v)
		}
		scale := 1 / math.Sqrt(sum/float64(width)+float64(epsilon))
		for i := range width {
			out.f[at+i] = float32(float64(x.f[at+i])*scale) * w.f[i]
		}
		inverse.f = append(inverse.f, float32(scale))
	}
	return out, inverse
}

// times multiplies rows of k values with n rows of weights.
func times(x array, w []float32, k, n int) array {
	out := array{dims: append(slices.Clone(x.dims[:len(x.dims)-1]), n)}
	for at := 0; at < len(x.f); at += k {
		for r := range n {
			sum := 0.0
			for i := range k {
				sum += float64(x.f[at+i]) * float64(w[r*k+i])
			}
			out.f = append(out.f, float32(sum))
		}
	}
	return out
}

func flipped(x array) []float32 {
	out := make([]float32, len(x.f))
	for r := range x.dims[0] {
		for c := range x.dims[1] {
			out[c*x.dims[0]+r] = x.f[r*x.dims[1]+c]
		}
	}
	return out
}

func reshaped(x array, shape []int64) array {
	out, known, free := array{f: x.f}, 1, -1
	for i, d := range shape {
		switch d {
		case 0:
			d = int64(x.dims[i])
		case -1:
			free, d = i, 1
		}
		out.dims, known = append(out.dims, int(d)), known*int(d)
	}
	if free >= 0 {
		out.dims[free] = len(x.f) / known
	}
	return out
}

func summed(x array, keep int) array {
	width := x.dims[len(x.dims)-1]
	out := array{dims: slices.Clone(x.dims[:len(x.dims)-1])}
	if keep == 1 {
		out.dims = append(out.dims, 1)
	}
	for at := 0; at < len(x.f); at += width {
		sum := float32(0)
		for _, v := range x.f[at : at+width] {
			sum += v
		}
		out.f = append(out.f, sum)
	}
	return out
}

func split(x array, sizes []int64) []array {
	width := x.dims[len(x.dims)-1]
	out, from := make([]array, len(sizes)), 0
	for i, size := range sizes {
		out[i].dims = append(slices.Clone(x.dims[:len(x.dims)-1]), int(size))
		for at := from; at < len(x.f); at += width {
			out[i].f = append(out[i].f, x.f[at:at+int(size)]...)
		}
		from += int(size)
	}
	return out
}

// beside is Concat along the last axis.
func beside(parts []array) array {
	dims := slices.Clone(parts[0].dims)
	last, rows := len(dims)-1, 1
	for _, d := range dims[:last] {
		rows *= d
	}
	out := array{dims: dims}
	for r := range rows {
		for _, a := range parts {
			width := len(a.f) / rows
			out.f = append(out.f, a.f[r*width:][:width]...)
		}
	}
	out.dims[last] = len(out.f) / rows
	return out
}

// attention is the operator of runtime/onnx/kernels with rotary over halves, and with a cache of the
// simplest layout: [slots, kv_heads, capacity, dim] floats, written in place.
func attention(n node) array {
	places, capacity := n.in[3].i, n.in[1].dims[2]
	kvHeads, dim := n.ints["kv_heads"], n.in[1].dims[3]
	c := cache{n.in[1], n.in[2], func(t, group, position int) int {
		return ((int(places[2*t])*kvHeads+group)*capacity + position) * dim
	}}
	return attend(n.in[0], n.in[4], n.in[5], n.ints["heads"], kvHeads, func(t int) int { return int(places[2*t+1]) }, c)
}

// cache is keys and values, and where those of token t's sequence lie at a position.
type cache struct {
	keys, values array
	at           func(t, group, position int) int
}

// attend computes attention with rotary over halves, for tokens at positions, and writes to the cache.
func attend(qkv, cos, sin array, heads, kvHeads int, at func(t int) int, c cache) array {
	width := qkv.dims[1]
	dim := width / (heads + 2*kvHeads)
	out := array{dims: []int{qkv.dims[0], heads * dim}, f: make([]float32, qkv.dims[0]*heads*dim)}
	turned := func(x []float32, position int) []float32 {
		y, half := make([]float32, dim), dim/2
		for i := range half {
			c, s := cos.f[position*half+i], sin.f[position*half+i]
			y[i], y[i+half] = x[i]*c-x[i+half]*s, x[i]*s+x[i+half]*c
		}
		return y
	}
	for t := range qkv.dims[0] {
		position := at(t)
		row := qkv.f[t*width:][:width]
		for g := range kvHeads {
			copy(c.keys.f[c.at(t, g, position):][:dim], turned(row[(heads+g)*dim:][:dim], position))
			copy(c.values.f[c.at(t, g, position):][:dim], row[(heads+kvHeads+g)*dim:][:dim])
		}
		for h := range heads {
			q, g := turned(row[h*dim:][:dim], position), h/(heads/kvHeads)
			score, total := make([]float64, position+1), 0.0
			for o := range score {
				dot := 0.0
				for i, x := range c.keys.f[c.at(t, g, o):][:dim] {
					dot += float64(x) * float64(q[i])
				}
				score[o] = math.Exp(dot / math.Sqrt(float64(dim)))
				total += score[o]
			}
			for o := range score {
				for i, x := range c.values.f[c.at(t, g, o):][:dim] {
					out.f[(t*heads+h)*dim+i] += float32(score[o] / total * float64(x))
				}
			}
		}
	}
	return out
}

// divided divides each row of a by its number in b.
func divided(a, b array) array {
	width := len(a.f) / len(b.f)
	out := array{dims: a.dims, f: make([]float32, len(a.f))}
	for i := range a.f {
		out.f[i] = a.f[i] / b.f[i/width]
	}
	return out
}
