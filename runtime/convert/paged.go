package convert

import (
	"fmt"
	"math"

	"github.com/pelton-run/pelton/runtime/model"
)

// paged reports whether a variant is one for GPUs: in half precision, with the cache in pages.
func paged(variant string) bool { return variant == FP16 || variant == FP16W8 || variant == FP16W4 }

// mostPagedDim is the longest head of such a model: that of the operator DecodeAttention.
const mostPagedDim = 128

// checkPaged tells whether a model can be of a variant for GPUs.
func checkPaged(h hyper, variant string) error {
	if h.HeadDim > mostPagedDim || h.HeadDim%8 != 0 {
		return fmt.Errorf("heads of %d numbers: variant %s is for multiples of 8 up to %d, choose another", h.HeadDim, variant, mostPagedDim)
	}
	return nil
}

// pageTokens is how many tokens a page of the cache of such a model holds: as few as ONNX Runtime's fast kernel
// for GPUs takes at this size of heads.
func pageTokens(headDim int) int {
	if headDim <= 64 {
		return 256
	}
	return 128
}

// pagedAttention adds layer i's attention over a cache in pages, which it appends to in place: that of sequences that
// bring one token, by an operator of our own, and behind them that of the others, by ONNX Runtime's. Q, K and V lie
// side by side in `in`.
func (b *builder) pagedAttention(i int, in string) {
	h, n, p := b.h, itoa(i), "blk."+itoa(i)+"."
	heads := []attribute{{"num_heads", h.Heads}, {"kv_num_heads", h.KVHeads}, {"do_rotary", 1}}
	b.onnx("Slice", p+"others", []string{in, model.PagedDecoding, b.constant("all.tokens", math.MaxInt64), b.constant("first.axis", 0)}, []string{p + "others.qkv"})
	b.microsoft("PagedAttention", p+"others.attention", []string{p + "others.qkv", "", "", "keys." + n, "values." + n,
		model.PagedStarts, model.PagedHeld, model.PagedPages, "cos", "sin", "", "", "", "", "", "", model.PagedBounds}, []string{p + "others.out"}, heads...)
	b.pelton("DecodeAttention", p+"attention", []string{in, p + "others.out", "keys." + n, "values." + n, model.PagedDecodingHeld, model.PagedDecodingPages, "cos", "sin"},
		[]string{p + "attention.out", p + "attention.scratch"}, attribute{"heads", h.Heads}, attribute{"kv_heads", h.KVHeads})
}

// pagedInputs declares the inputs of a graph over a cache in pages, beside ids.
func pagedInputs(g *message, h hyper) {
	g.sub(11, valueProto(model.PagedDecoding, typeInt64, 1))
	g.sub(11, valueProto(model.PagedDecodingHeld, typeInt32, "D"))
	g.sub(11, valueProto(model.PagedDecodingPages, typeInt32, "D", "P"))
	g.sub(11, valueProto(model.PagedStarts, typeInt32, "B+1"))
	g.sub(11, valueProto(model.PagedHeld, typeInt32, "B"))
	g.sub(11, valueProto(model.PagedPages, typeInt32, "B", "P"))
	g.sub(11, valueProto(model.PagedBounds, typeInt32, 3))
	g.sub(11, valueProto("sel", typeInt64, "R"))
	for i := range h.Layers {
		for _, kv := range []string{"keys.", "values."} {
			g.sub(11, valueProto(kv+itoa(i), typeHalf, "pages", h.PageTokens, h.KVHeads, h.HeadDim))
		}
		// What a slice of unknown length leaves unknown, and the next operator wants to know.
		g.sub(13, valueProto("blk."+itoa(i)+".others.qkv", typeHalf, "others", (h.Heads+2*h.KVHeads)*h.HeadDim))
	}
}
