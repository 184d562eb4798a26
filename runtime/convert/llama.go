package convert

import (
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/quant"
)

// builder writes the weights of a decoder and collects the nodes of its graph. Each layer is
//
//	norm → QKV (+ bias, + norms of heads) → Attention (rotary inside) → output → skip and norm → gate and up → SiLU(gate)·up → down → skip and norm
//
// with Q, K and V fused into one matrix, and gate and up into another; our own products (of Q4 and BF16W4) norm what
// comes in and add to the residual. The rows whose logits are wanted are gathered before the last norm, so that the
// head, a fifth of the weights, runs for them only; where products are our own, which make the same bits of a row
// whatever stands beside it, as soon as the last layer has seen the others. Names of the graph's inputs and outputs are
// those of runtime/model.Shape.
type builder struct {
	ctx     context.Context
	src     *gguf.File
	h       hyper
	variant string
	w       *weights
	nodes
	stored   map[string]int  // sizes of vectors, by name
	normedBy map[string]norm // by the name of a norm's result
	progress func(done, total int64)
	done     int64
	total    int64
}

// norm is RMSNorm(in) with the weights of that name.
type norm struct{ in, weight string }

func newBuilder(ctx context.Context, f *gguf.File, h hyper, opt Options, w *weights) *builder {
	return &builder{ctx: ctx, src: f, h: h, variant: opt.Variant, w: w, progress: opt.Progress, nodes: nodes{known: map[string]bool{}},
		stored: map[string]int{}, normedBy: map[string]norm{}}
}

func itoa(i int) string { return strconv.Itoa(i) }

func (b *builder) advance(n int64) {
	b.done += n
	if b.progress != nil {
		b.progress(min(b.done, b.total), b.total)
	}
}

// build writes all weights and adds all nodes.
func (b *builder) build() error {
	var err error
	if b.total, err = checkTensors(b.src, b.h); err != nil {
		return err
	}
	if err := b.embedding(); err != nil {
		return err
	}
	b.rotary()
	if err := b.norm("blk.0.attn_norm.weight"); err != nil {
		return err
	}
	normed(b, "blk.0.attn_norm", norm{"x.0", "blk.0.attn_norm.weight"}, "n.0")
	for i := range b.h.Layers {
		if err := b.layer(i); err != nil {
			return err
		}
	}
	return b.head()
}

// layer adds layer i. In come x.i, the residual, and n.i, its norm; out go those of i+1, of the last layer
// the residual only, where products are our own that of the rows whose logits are wanted.
func (b *builder) layer(i int) error {
	if err := b.attention(i); err != nil {
		return err
	}
	h, p, residual, seen := b.h, "blk."+itoa(i)+".", "x."+itoa(i), "blk."+itoa(i)+".attention.out"
	if i == h.Layers-1 && blocked(b.variant) {
		residual, seen = b.selected(residual), b.selected(seen)
	}
	o := product{in: seen, out: p + "x", residual: residual, columns: h.Heads * h.HeadDim}
	if err := added(b, p+"o", o, part{p + "attn_output.weight", h.Hidden, 0}, p+"ffn_norm", p+"ffn.in"); err != nil {
		return err
	}
	if err := gate(b, p); err != nil {
		return err
	}
	next, by := itoa(i+1), ""
	if i < h.Layers-1 {
		by = "blk." + next + ".attn_norm"
	}
	down := product{in: p + "ffn.mid", out: "x." + next, residual: p + "x", columns: h.FFN}
	return added(b, p+"down", down, part{p + "ffn_down.weight", h.Hidden, 0}, by, "n."+next)
}

// added adds a product with its residual, and result, its norm by the weights of tensor by.weight; by "" is none.
func added(b *builder, name string, p product, of part, by, result string) error {
	if !blocked(b.variant) {
		if err := b.matrix(name, p.in, name+".out", p.columns, of); err != nil {
			return err
		}
		if by != "" {
			return b.skipNorm(by, p.residual, name+".out", result, p.out)
		}
		b.onnx("Add", name+".add", []string{p.residual, name + ".out"}, []string{p.out})
		return nil
	}
	if by != "" {
		normed(b, by, norm{p.out, by + ".weight"}, result)
		if err := b.norm(by + ".weight"); err != nil {
			return err
		}
	}
	return blocks(b, name, p, of)
}

// selected adds the choice of the rows whose logits are wanted.
func (b *builder) selected(of string) string {
	b.onnx("Gather", of+".select", []string{of, "sel"}, []string{of + ".selected"}, attribute{"axis", 0})
	return of + ".selected"
}

// gate adds layer prefix p's gate, behind its SiLU, and its product with up.
func gate(b *builder, p string) error {
	h := b.h
	gate, up := part{p + "ffn_gate.weight", h.FFN, 0}, part{p + "ffn_up.weight", h.FFN, 0}
	if blocked(b.variant) && h.FFN%quant.Group == 0 {
		return blocks(b, p+"gate_up", product{in: p + "ffn.in", out: p + "ffn.mid", columns: h.Hidden, gated: true}, gate, up)
	}
	if b.variant == Naive {
		return plainGate(b, p)
	}
	if err := b.matrix(p+"gate_up", p+"ffn.in", p+"gate_up.out", h.Hidden, gate, up); err != nil {
		return err
	}
	if paged(b.variant) {
		b.pelton("Gate", p+"gate", []string{p + "gate_up.out"}, []string{p + "ffn.mid"})
		return nil
	}
	halves := b.constant("ffn.halves", int64(h.FFN), int64(h.FFN))
	b.onnx("Split", p+"split", []string{p + "gate_up.out", halves}, []string{p + "gate", p + "up"}, attribute{"axis", -1})
	b.microsoft("QuickGelu", p+"silu", []string{p + "gate"}, []string{p + "act"}, attribute{"alpha", float32(1)})
	b.onnx("Mul", p+"mul", []string{p + "act", p + "up"}, []string{p + "ffn.mid"})
	return nil
}

// norm stores a norm's weights under the tensor's own name.
func (b *builder) norm(name string) error { return b.store(name, b.h.Hidden) }

// store writes a vector of size values under the tensor's own name.
func (b *builder) store(name string, size int) error {
	v, err := b.vector(name, size)
	if err != nil {
		return err
	}
	b.w.floats(name, v, len(v))
	b.stored[name] = size
	return nil
}

// normed adds the norm of hidden states, result. Our own products norm what they take themselves.
func normed(b *builder, name string, of norm, result string) {
	if !blocked(b.variant) {
		b.rmsNorm(name, of.in, of.weight, result)
	}
	b.normedBy[result] = of
}

// rmsNorm adds out = RMSNorm(in). ONNX Runtime registers this operator of its own in ONNX's domain.
func (b *builder) rmsNorm(name, in, weight, out string) {
	if b.variant == Naive {
		plainNorm(b, name, in, weight, out, b.stored[weight])
		return
	}
	b.onnx("SimplifiedLayerNormalization", name, []string{in, weight}, []string{out},
		attribute{"axis", -1}, attribute{"epsilon", b.h.epsilon}, attribute{"stash_type", int(typeFloat)})
}

// skipNorm adds sum = residual + delta and normed = RMSNorm(sum), with the weights of tensor name.weight.
func (b *builder) skipNorm(name, residual, delta, normed, sum string) error {
	if b.variant == Naive {
		b.onnx("Add", name+".skip", []string{residual, delta}, []string{sum})
		plainNorm(b, name, sum, name+".weight", normed, b.h.Hidden)
		return b.norm(name + ".weight")
	}
	b.microsoft("SkipSimplifiedLayerNormalization", name, []string{residual, delta, name + ".weight"},
		[]string{normed, "", "", sum}, attribute{"epsilon", b.h.epsilon})
	b.normedBy[normed] = norm{sum, name + ".weight"}
	return b.norm(name + ".weight")
}

// embedding adds the lookup of token ids. Unless in float32, its table is the head's matrix as well when
// the file has no other: in 8 bit the head's operator sees the same bytes of the weights file in another
// shape.
func (b *builder) embedding() error {
	h, p := b.h, part{tensorEmbed, b.h.Vocab, 0}
	if float(b.variant) {
		b.onnx("Gather", "embedding", []string{"embed", "ids"}, []string{"x.0"}, attribute{"axis", 0})
		return b.rowMajor("embed", p, h.Hidden)
	}
	if blocked(b.variant) {
		name := "embed"
		if b.tied() {
			name = "head"
		}
		form, rows, err := storeGroups(b, name, h.Hidden, false, []part{p})
		blockRows(b, name, "ids", "x.0", form, rows, h.Hidden)
		return err
	}
	b.microsoft("GatherBlockQuantized", "embedding", []string{"embed", "ids", "embed.scales"}, []string{"x.0"},
		attribute{"bits", 8}, attribute{"block_size", quant.Block}, attribute{"gather_axis", 0}, attribute{"quantize_axis", 1})
	blocks := h.Hidden / quant.Block
	at, scales, err := b.eight([]part{p}, h.Vocab, h.Hidden)
	if err != nil {
		return err
	}
	b.w.alias("embed", typeUint8, at, h.Vocab, h.Hidden)
	scalesAt := b.w.floats("embed.scales", scales, h.Vocab, blocks)
	if b.tied() {
		b.w.alias("head", typeUint8, at, h.Vocab, blocks, quant.Block)
		b.w.alias("head.scales", b.w.real, scalesAt, h.Vocab, blocks)
	}
	return nil
}

// tied reports whether the embedding is the head as well.
func (b *builder) tied() bool {
	_, own := b.src.Tensor(tensorHead)
	return !own
}

// head adds the choice of rows, the last norm and the logits.
func (b *builder) head() error {
	rows, out := "x."+itoa(b.h.Layers), "logits"
	switch {
	case b.variant == Fused || b.variant == Naive:
		out = "logits.all"
	case paged(b.variant):
		rows, out = b.selected(rows), "logits.half"
	case !blocked(b.variant): // whose rows are selected in the last layer
		rows = b.selected(rows)
	}
	if err := b.norm(tensorLastNorm); err != nil {
		return err
	}
	normed(b, "output_norm", norm{rows, tensorLastNorm}, "normed")
	if err := headMatrix(b, "normed", out); err != nil {
		return err
	}
	switch out {
	case "logits.all":
		b.onnx("Gather", "select", []string{out, "sel"}, []string{"logits"}, attribute{"axis", 0})
	case "logits.half":
		b.onnx("Cast", "logits", []string{out}, []string{"logits"}, attribute{"to", int(typeFloat)})
		b.pelton("Best", "best", []string{out}, []string{"best"})
	}
	return nil
}

// headMatrix adds the head's product, with the embedding's table where the file has no other.
func headMatrix(b *builder, in, out string) error {
	h, p := b.h, part{tensorHead, b.h.Vocab, 0}
	switch {
	case blocked(b.variant) && b.tied():
		blockProduct(b, "head", product{in: in, out: out, columns: h.Hidden}, formOf(b, []part{{tensorEmbed, h.Vocab, 0}}), h.Vocab)
		return nil
	case blocked(b.variant):
		return blocks(b, "head", product{in: in, out: out, columns: h.Hidden}, p)
	case float(b.variant) && b.tied():
		b.onnx("Gemm", "head", []string{in, "embed"}, []string{out}, attribute{"transB", 1})
		return nil
	case float(b.variant):
		b.onnx("Gemm", "head", []string{in, "head"}, []string{out}, attribute{"transB", 1})
		return b.rowMajor("head", p, h.Hidden)
	case b.tied():
		b.matMulNBits("head", in, out, h.Hidden, h.Vocab, 8)
		return nil
	}
	return matrix8(b, "head", in, out, []part{p}, h.Vocab, h.Hidden)
}

// rotary writes cosines and sines of every position and frequency, [ContextLength, HeadDim/2] each.
func (b *builder) rotary() {
	half := b.h.HeadDim / 2
	row := make([]float32, half)
	for _, table := range []struct {
		name string
		of   func(float64) float64
	}{{"cos", math.Cos}, {"sin", math.Sin}} {
		b.w.begin(table.name, b.w.real, b.h.ContextLength, half)
		for p := range b.h.ContextLength {
			for i := range row {
				row[i] = float32(table.of(b.h.angle(p, i)))
			}
			b.w.writeFloats(row)
		}
	}
}

// graph is the whole GraphProto.
func (b *builder) graph() message {
	h := b.h
	var g message
	for _, n := range b.nodes.list {
		g.sub(1, n)
	}
	g.text(2, "decoder")
	for _, m := range slices.Concat(b.w.initializers, b.constants) {
		g.sub(5, m)
	}
	g.sub(12, valueProto("logits", typeFloat, "R", h.Vocab))
	g.sub(11, valueProto("ids", typeInt64, "T"))
	if h.PageTokens > 0 {
		g.sub(12, valueProto("best", typeInt64, "R"))
		pagedInputs(&g, h)
		return g
	}
	g.sub(11, valueProto("places", typeInt32, "T", 2))
	g.sub(11, valueProto("sel", typeInt64, "R"))
	for i := range h.Layers {
		for _, kv := range []string{"keys.", "values."} {
			g.sub(11, valueProto(kv+itoa(i), typeUint8, "slots", h.KVHeads, "bytes"))
		}
	}
	return g
}
