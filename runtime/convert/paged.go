package convert

import "github.com/pelton-run/pelton/runtime/model"

// pageTokens is how many tokens a page of the cache of an FP16 model holds: as few as ONNX Runtime's fast kernel
// for GPUs takes at this size of heads.
func pageTokens(headDim int) int {
	switch {
	case headDim <= 64:
		return 256
	case headDim <= 128:
		return 128
	}
	return 64
}

// pagedAttention adds layer i's attention over a cache in pages, which it appends to in place, by ONNX Runtime's
// operator for GPUs. Q, K and V lie side by side in `in`.
func (b *builder) pagedAttention(i int, in string) {
	h, n, p := b.h, itoa(i), "blk."+itoa(i)+"."
	inputs := []string{in, "", "", "keys." + n, "values." + n, model.PagedStarts, model.PagedHeld, model.PagedPages, "cos", "sin",
		"", "", "", "", "", "", model.PagedBounds}
	b.microsoft("PagedAttention", p+"attention", inputs, []string{p + "attention.out"},
		attribute{"num_heads", h.Heads}, attribute{"kv_num_heads", h.KVHeads}, attribute{"do_rotary", 1})
}

// pagedInputs declares the inputs of a graph over a cache in pages, beside ids.
func pagedInputs(g *message, h hyper) {
	g.sub(11, valueProto(model.PagedStarts, typeInt32, "B+1"))
	g.sub(11, valueProto(model.PagedHeld, typeInt32, "B"))
	g.sub(11, valueProto(model.PagedPages, typeInt32, "B", "P"))
	g.sub(11, valueProto(model.PagedBounds, typeInt32, 3))
	g.sub(11, valueProto("sel", typeInt64, "R"))
	for i := range h.Layers {
		for _, kv := range []string{"keys.", "values."} {
			g.sub(11, valueProto(kv+itoa(i), typeHalf, "pages", h.PageTokens, h.KVHeads, h.HeadDim))
		}
	}
}
