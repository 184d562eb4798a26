package convert

// attention adds the beginning of layer i, up to what its heads have seen.
func (b *builder) attention(i int) error {
	h, n, p := b.h, itoa(i), "blk."+itoa(i)+"."
	q, kv := h.Heads*h.HeadDim, h.KVHeads*h.HeadDim
	parts := []part{{p + "attn_q.weight", q, 0}, {p + "attn_k.weight", kv, 0}, {p + "attn_v.weight", kv, 0}}
	if h.interleaved {
		parts[0].heads, parts[1].heads = h.Heads, h.KVHeads
	}
	if err := b.matrix(p+"qkv", "n."+n, p+"qkv.out", h.Hidden, parts...); err != nil {
		return err
	}
	in := p + "qkv.out"
	if h.bias {
		if err := b.addBias(p, q, kv); err != nil {
			return err
		}
		in = p + "qkv.biased"
	}
	if h.headNorms {
		if err := b.normHeads(p, in); err != nil {
			return err
		}
		in = p + "qkv.normed"
	}
	if paged(b.variant) {
		b.pagedAttention(i, in)
	} else {
		list := []attribute{{"heads", h.Heads}, {"kv_heads", h.KVHeads}, {"width", kvWidth(b.variant)}}
		if b.variant == BF16W4 && h.HeadDim%32 == 0 && h.HeadDim <= 256 { // as its kernels want them
			list = append(list, attribute{"bfloat16", 1})
		}
		b.pelton("Attention", p+"attention", []string{in, "keys." + n, "values." + n, "places", "cos", "sin"}, []string{p + "attention.out"}, list...)
	}
	return nil
}

// addBias adds the biases of Q, K and V in one piece to the layer's qkv.out.
func (b *builder) addBias(p string, q, kv int) error {
	var all []float32
	for i, name := range biasTensors {
		v, err := b.vector(p+name, []int{q, kv, kv}[i])
		if err != nil {
			return err
		}
		all = append(all, v...)
	}
	b.w.floats(p+"qkv.bias", all, len(all))
	b.onnx("Add", p+"qkv.add", []string{p + "qkv.out", p + "qkv.bias"}, []string{p + "qkv.biased"})
	return nil
}

// normHeads normalizes each head of Q and K by itself, which with V lie side by side in `in` and in the
// layer's qkv.normed.
func (b *builder) normHeads(p, in string) error {
	h := b.h
	q, kv := h.Heads*h.HeadDim, h.KVHeads*h.HeadDim
	sizes := b.constant("qkv.sizes", int64(q), int64(kv), int64(kv))
	b.onnx("Split", p+"qkv.split", []string{in, sizes}, []string{p + "q", p + "k", p + "v"}, attribute{"axis", -1})
	for _, part := range []struct {
		name  string
		heads int
	}{{"q", h.Heads}, {"k", h.KVHeads}} {
		weight, at := p+"attn_"+part.name+"_norm.weight", p+part.name
		if err := b.store(weight, h.HeadDim); err != nil {
			return err
		}
		heads := b.constant("heads."+itoa(part.heads), 0, int64(part.heads), int64(h.HeadDim))
		flat := b.constant("flat."+itoa(part.heads), 0, int64(part.heads*h.HeadDim))
		b.onnx("Reshape", at+".cut", []string{at, heads}, []string{at + ".heads"})
		b.rmsNorm(at+".norm", at+".heads", weight, at+".heads.normed")
		b.onnx("Reshape", at+".join", []string{at + ".heads.normed", flat}, []string{at + ".normed"})
	}
	b.onnx("Concat", p+"qkv.join", []string{p + "q.normed", p + "k.normed", p + "v"}, []string{p + "qkv.normed"}, attribute{"axis", -1})
	return nil
}

// kvWidth is the bytes of a number in the cache: half precision where the variant runs on processors that convert it in
// an instruction, and rounds its activations by more anyway.
func kvWidth(variant string) int {
	if blocked(variant) || paged(variant) {
		return 2
	}
	return 4
}
