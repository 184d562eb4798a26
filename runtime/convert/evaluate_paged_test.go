package convert_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/quant"
)

// pagedAttention is ONNX Runtime's operator PagedAttention of packed Q, K and V: a cache of pages
// [pages, tokens, kv_heads, dim], which tokens of sequences side by side are appended to.
func pagedAttention(n node) array {
	keys, starts, held, table := n.in[3], n.in[5].i, n.in[6].i, n.in[7]
	page, kvHeads, dim := keys.dims[1], n.ints["kv_num_heads"], keys.dims[3]
	sequence := func(t int) int {
		i, ok := slices.BinarySearch(starts, int64(t))
		if !ok {
			i--
		}
		return i
	}
	c := cache{keys, n.in[4], func(t, group, position int) int {
		number := int(table.i[sequence(t)*table.dims[1]+position/page])
		return ((number*page+position%page)*kvHeads + group) * dim
	}}
	return attend(n.in[0], n.in[8], n.in[9], n.ints["num_heads"], kvHeads, func(t int) int {
		s := sequence(t)
		return int(held[s]) + t - int(starts[s])
	}, c)
}

// decodeAttention is our own operator DecodeAttention (runtime/onnx/kernels): that of the first tokens, each of a
// sequence of its own, over the same cache. What the others' gave is put behind.
func decodeAttention(n node) array {
	qkv, others, keys, held, table := n.in[0], n.in[1], n.in[2], n.in[4].i, n.in[5]
	page, kvHeads, dim := keys.dims[1], n.ints["kv_heads"], keys.dims[3]
	c := cache{keys, n.in[3], func(t, group, position int) int {
		number := int(table.i[t*table.dims[1]+position/page])
		return ((number*page+position%page)*kvHeads + group) * dim
	}}
	first := array{dims: []int{len(held), qkv.dims[1]}, f: qkv.f[:len(held)*qkv.dims[1]]}
	out := attend(first, n.in[6], n.in[7], n.ints["heads"], kvHeads, func(t int) int { return int(held[t]) }, c)
	return array{dims: []int{qkv.dims[0], out.dims[1]}, f: slices.Concat(out.f, others.f)}
}

// largest is ArgMax along the last axis.
func largest(x array) array {
	width := x.dims[len(x.dims)-1]
	out := array{dims: x.dims[:len(x.dims)-1]}
	for at := 0; at < len(x.f); at += width {
		best := 0
		for i, v := range x.f[at:][:width] {
			if v > x.f[at+best] {
				best = i
			}
		}
		out.i = append(out.i, int64(best))
	}
	return out
}

// checkPaged feeds a graph with pages all tokens but the last beside another sequence, then the last beside a third
// one, and returns the logits behind tokens 0, 2, the last but one and the last.
func checkPaged(t *testing.T, e *evaluator, s model.Shape, ids []int64) []float32 {
	t.Helper()
	caches := map[string]array{}
	for i := range s.Layers {
		for _, kv := range []string{"keys.", "values."} {
			dims := []int{4, s.PageTokens, s.KVHeads, s.HeadDim}
			caches[kv+strconv.Itoa(i)] = array{dims: dims, f: make([]float32, dims[0]*dims[1]*dims[2]*dims[3])}
		}
	}
	vector := func(v ...int64) array { return array{dims: []int{len(v)}, i: v} }
	table := func(rows int, v ...int64) array { return array{dims: []int{rows, len(v) / rows}, i: v} }
	feed := func(in map[string]array) []float32 {
		for name, a := range caches {
			in[name] = a
		}
		in[model.PagedBounds] = vector(0, 0, 0)
		out := e.run(in)
		for i, best := range out["best"].i {
			row := out["logits"].f[i*s.Vocab:][:s.Vocab]
			if row[best] != slices.Max(row) {
				t.Errorf("row %d: token %d is called the likeliest, its logit is %g of at most %g", i, best, row[best], slices.Max(row))
			}
		}
		return out["logits"].f
	}
	last := int64(len(ids) - 1)
	// One sequence decodes its first token, another brings three and ours all but the last.
	first := feed(map[string]array{
		"ids": vector(append([]int64{11, 9, 8, 7}, ids[:last]...)...), "sel": vector(4, 6, 3+last),
		model.PagedDecoding: vector(1), model.PagedDecodingHeld: vector(0), model.PagedDecodingPages: table(1, 1, 0),
		model.PagedStarts: vector(0, 3, 3+last), model.PagedHeld: vector(0, 0), model.PagedPages: table(2, 2, 0, 3, 0),
	})
	// Ours decodes, behind another one and before two tokens of a third.
	return slices.Concat(first, feed(map[string]array{
		"ids": vector(12, ids[last], 5, 6), "sel": vector(1),
		model.PagedDecoding: vector(2), model.PagedDecodingHeld: vector(1, last), model.PagedDecodingPages: table(2, 1, 3),
		model.PagedStarts: vector(0, 2), model.PagedHeld: vector(3), model.PagedPages: table(1, 2),
	}))
}

// TestHalf compares graphs for GPUs with the reference, by the definitions of their operators: nothing but a GPU
// runs them.
func TestHalf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tiny
		variant string
		within  float64
	}{
		"of F16":                          {small(quant.F16, quant.F16), convert.FP16, 5e-3},
		"of Q4_1":                         {small(quant.Q41, quant.Q80), convert.FP16, 5e-3},
		"longer heads, head of its own":   {with(small(quant.F32, quant.F32), func(c *tiny) { c.headDim, c.tied = 128, false }), convert.FP16, 5e-3},
		"of qwen2":                        {with(small(quant.F32, quant.F32), func(c *tiny) { c.arch = "qwen2" }), convert.FP16, 5e-3},
		"of qwen3, one head for the rest": {with(small(quant.F16, quant.F32), func(c *tiny) { c.arch, c.kvHeads = "qwen3", 1 }), convert.FP16, 5e-3},

		"8 bits of Q8_0":               {small(quant.Q80, quant.Q80), convert.FP16W8, 5e-3},
		"8 bits of F16":                {small(quant.F16, quant.F16), convert.FP16W8, 3e-2},
		"8 bits, head of its own":      {with(small(quant.Q80, quant.Q80), func(c *tiny) { c.tied = false }), convert.FP16W8, 3e-2},
		"4 bits of Q4_0":               {small(quant.Q40, quant.Q80), convert.FP16W4, 5e-3},
		"4 bits of Q4_1":               {small(quant.Q41, quant.Q80), convert.FP16W4, 5e-3},
		"4 bits of Q4_K":               {wide(quant.Q4K, quant.Q80), convert.FP16W4, 5e-3},
		"4 bits of Q8_0, which has 8":  {small(quant.Q80, quant.Q80), convert.FP16W4, 5e-3},
		"4 bits of Q4_1, qwen3's form": {with(small(quant.Q41, quant.Q80), func(c *tiny) { c.arch = "qwen3" }), convert.FP16W4, 5e-3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, m, f := converted(t, c.tiny, c.variant)
			if page := map[bool]int{true: 256, false: 128}[c.headDim <= 64]; m.Shape.PageTokens != page || m.Shape.KVWidth != 2 {
				t.Errorf("pages of %d tokens, numbers of %d bytes; want %d and 2", m.Shape.PageTokens, m.Shape.KVWidth, page)
			}
			ids := []int64{5, 200, 256, 31, 262, 7, 7}
			compareLogits(t, checkPaged(t, load(t, dir), m.Shape, ids), m.Shape, ids, reference{t, f, c.tiny}.logits(ids), c.within)
		})
	}
}
