package convert

import (
	"context"
	"fmt"
	"math"

	"github.com/pelton-run/pelton/runtime/safetensors"
)

// encoderBuilder writes the weights of a BERT encoder and collects the nodes of its graph.
//
// Texts are packed: ids holds the tokens of all of them one after the other and lengths how many each
// has, so that no matrix product runs over padding. Only attention and the mean see a padded batch, of
// padUnit tokens or a multiple: rows are gathered into it before and out of it after. Padding by that
// unit is also what makes a text's vector independent, bit for bit, of the texts beside it.
//
// A layer is QKV → attention → output → skip and norm → up → gelu → down → skip and norm, all biases
// inside the fused nodes.
type encoderBuilder struct {
	ctx       context.Context
	src       *safetensors.File
	e         encoder
	int8      bool
	w         *weights
	nodes     []message
	constants []message
	progress  func(done, total int64)
	prefix    string // of the tensors' names
	stepped   bool   // the constants of product8 are declared
	err       error  // the first one; later calls do nothing
}

// padUnit is what padded lengths are multiples of.
const padUnit = 8

func (b *encoderBuilder) node(op, out string, in []string, attrs ...attribute) string {
	b.nodes = append(b.nodes, nodeProto(domainONNX, op, out, in, []string{out}, attrs))
	return out
}

func (b *encoderBuilder) fused(op, out string, in []string, attrs ...attribute) string {
	b.nodes = append(b.nodes, nodeProto(domainMicrosoft, op, out, in, []string{out}, attrs))
	return out
}

// tensor reads a tensor of the source that must have so many elements.
func (b *encoderBuilder) tensor(name string, elements int) []float32 {
	if b.err != nil {
		return nil
	}
	if b.err = b.ctx.Err(); b.err != nil {
		b.err = context.Cause(b.ctx)
		return nil
	}
	v, err := b.src.Floats(b.prefix + name)
	if err == nil && len(v) != elements {
		err = fmt.Errorf("tensor %s has %d elements, the configuration says %d", name, len(v), elements)
	}
	b.err = err
	return v
}

// vector copies a vector of the source into the weights and returns its name.
func (b *encoderBuilder) vector(name string, n int) string {
	if v := b.tensor(name, n); b.err == nil {
		b.w.floats(name, v, n)
	}
	return name
}

// build writes all weights and adds all nodes.
func (b *encoderBuilder) build() error {
	if _, ok := b.src.Tensors()["bert.embeddings.word_embeddings.weight"]; ok {
		b.prefix = "bert."
	}
	b.layout()
	x := b.embeddings()
	for l := range b.e.Layers {
		if x = b.layer(fmt.Sprintf("encoder.layer.%d.", l), x); b.err != nil {
			return b.err
		}
		if b.progress != nil {
			b.progress(int64(l+1), int64(b.e.Layers))
		}
	}
	b.pool(x)
	return b.err
}

// layout computes where tokens lie in the padded batch of S columns: pad [B,S] is the token of each place
// (the first one in places without), unpad [T] the place of each token, position [T] its column, and
// share [B,1,S] its part of the mean.
func (b *encoderBuilder) layout() {
	for name, v := range map[string]int64{"zero": 0, "unit": 1, "width": padUnit, "less": padUnit - 1} {
		b.constants = append(b.constants, scalarProto(name, v))
	}
	b.constants = append(b.constants, constantProto("second", 1), constantProto("first", 0), constantProto("all", -1), constantProto("rows", -1, int64(b.e.Hidden)))
	long, float := attribute{"to", int(typeInt64)}, attribute{"to", int(typeFloat)}
	n := b.node("Cast", "lengths64", []string{"lengths"}, long)
	ends := b.node("CumSum", "ends", []string{n, "zero"})
	starts := b.node("Sub", "starts", []string{ends, n})
	longest := b.node("ReduceMax", "longest", []string{n}, attribute{"keepdims", 0})
	widths := b.node("Div", "widths", []string{b.node("Add", "longer", []string{longest, "less"}), "width"})
	columns := b.node("Range", "columns", []string{"zero", b.node("Mul", "S", []string{widths, "width"}), "unit"})
	lengths := b.node("Unsqueeze", "column_lengths", []string{n, "second"})
	mask := b.node("Less", "mask", []string{columns, lengths})
	at := b.node("Add", "places", []string{b.node("Unsqueeze", "column_starts", []string{starts, "second"}), columns})
	b.node("Where", "pad", []string{mask, at, "zero"})
	found := b.node("NonZero", "found", []string{b.node("Reshape", "flat_mask", []string{mask, "all"})})
	b.node("Squeeze", "unpad", []string{found, "first"})
	wide := b.node("Where", "wide_positions", []string{mask, columns, "zero"})
	b.node("Gather", "position", []string{b.node("Reshape", "flat_positions", []string{wide, "all"}), "unpad"})
	part := b.node("Div", "part", []string{b.node("Cast", "float_mask", []string{mask}, float), b.node("Cast", "float_lengths", []string{lengths}, float)})
	b.node("Unsqueeze", "share", []string{part, "second"})
}

// embeddings is the sum of word, position and type, normed. The type is always the first one: it is added
// to the positions here.
func (b *encoderBuilder) embeddings() string {
	h := b.e.Hidden
	if words := b.tensor("embeddings.word_embeddings.weight", b.e.Vocab*h); b.err == nil {
		b.w.floats("words", words, b.e.Vocab, h)
	}
	positions := b.tensor("embeddings.position_embeddings.weight", b.e.Positions*h)
	if b.err != nil {
		return ""
	}
	types, err := b.src.Floats(b.prefix + "embeddings.token_type_embeddings.weight")
	if err != nil || len(types) < h {
		b.err = fmt.Errorf("token types: %d elements, want at least %d: %w", len(types), h, err)
		return ""
	}
	for i := range positions {
		positions[i] += types[i%h]
	}
	b.w.floats("positions", positions, b.e.Positions, h)
	word := b.node("Gather", "word", []string{"words", "ids"})
	place := b.node("Gather", "place", []string{"positions", "position"})
	return b.norm("x", "embeddings.LayerNorm.", word, place, "")
}

// norm adds x, its bias and the skipped connection, and norms the sum.
func (b *encoderBuilder) norm(out, name, x, skip, bias string) string {
	in := []string{x, skip, b.vector(name+"weight", b.e.Hidden), b.vector(name+"bias", b.e.Hidden)}
	if bias != "" {
		in = append(in, b.vector(bias, b.e.Hidden))
	}
	return b.fused("SkipLayerNormalization", out, in, attribute{"epsilon", b.e.Epsilon})
}

func (b *encoderBuilder) layer(p, x string) string {
	h := b.e.Hidden
	qkv := b.product(p+"qkv", x, h, b.join(p+"attention.self.", h))
	padded := b.node("Gather", p+"padded", []string{qkv, "pad"})
	parts := []string{p + "query", p + "key", p + "value"}
	b.nodes = append(b.nodes, nodeProto(domainONNX, "Split", p+"split", []string{padded}, parts, []attribute{{"axis", 2}}))
	var bias []float32
	for _, part := range []string{"query", "key", "value"} {
		bias = append(bias, b.tensor(p+"attention.self."+part+".bias", h)...)
	}
	if b.err != nil {
		return ""
	}
	b.w.floats(p+"qkv_bias", bias, 3*h)
	seen := b.fused("MultiHeadAttention", p+"seen", append(parts, p+"qkv_bias", "lengths"), attribute{"num_heads", b.e.Heads})
	flat := b.node("Gather", p+"packed", []string{b.node("Reshape", p+"flat", []string{seen, "rows"}), "unpad"})
	out := b.product(p+"out", flat, h, b.columns(p+"attention.output.dense.weight", h, h))
	y := b.norm(p+"y", p+"attention.output.LayerNorm.", out, x, p+"attention.output.dense.bias")
	up := b.product(p+"up", y, h, b.columns(p+"intermediate.dense.weight", h, b.e.FFN))
	gelu := b.fused("BiasGelu", p+"gelu", []string{up, b.vector(p+"intermediate.dense.bias", b.e.FFN)})
	down := b.product(p+"down", gelu, b.e.FFN, b.columns(p+"output.dense.weight", b.e.FFN, h))
	return b.norm(p+"z", p+"output.LayerNorm.", down, y, p+"output.dense.bias")
}

// pool takes the mean of each text's tokens and brings it to length 1.
func (b *encoderBuilder) pool(x string) {
	padded := b.node("Gather", "padded", []string{x, "pad"})
	mean := b.node("Reshape", "mean", []string{b.node("MatMul", "means", []string{"share", padded}), "rows"})
	b.node("LpNormalization", "embedding", []string{mean}, attribute{"axis", -1}, attribute{"p", 2})
}

// weightMatrix is a weight matrix of rows x columns, row-major, as MatMul reads it.
type weightMatrix struct {
	columns int
	values  []float32
}

// columns reads a linear layer's weights, which lie by output, and turns them.
func (b *encoderBuilder) columns(name string, in, out int) weightMatrix {
	v := b.tensor(name, in*out)
	if b.err != nil {
		return weightMatrix{}
	}
	turned := make([]float32, in*out)
	for o := range out {
		for i := range in {
			turned[i*out+o] = v[o*in+i]
		}
	}
	return weightMatrix{out, turned}
}

// join reads query, key and value weights side by side.
func (b *encoderBuilder) join(name string, h int) weightMatrix {
	joined := make([]float32, 3*h*h)
	for part, what := range []string{"query", "key", "value"} {
		m := b.columns(name+what+".weight", h, h)
		if b.err != nil {
			return weightMatrix{}
		}
		for i := range h {
			copy(joined[i*3*h+part*h:], m.values[i*h:(i+1)*h])
		}
	}
	return weightMatrix{3 * h, joined}
}

// product is x times a matrix of rows rows, without bias.
func (b *encoderBuilder) product(out, x string, rows int, m weightMatrix) string {
	if b.err != nil {
		return ""
	}
	if !b.int8 {
		b.w.floats(out+".weight", m.values, rows, m.columns)
		return b.node("MatMul", out, []string{x, out + ".weight"})
	}
	return b.product8(out, x, rows, m)
}

// product8 divides each row of x by its largest magnitude, rounds it to 8 bits, multiplies integers and
// multiplies the magnitude back: the rounding of a token depends on nothing but the token.
func (b *encoderBuilder) product8(out, x string, rows int, m weightMatrix) string {
	scales := make([]float32, m.columns)
	for i, v := range m.values {
		scales[i%m.columns] = max(scales[i%m.columns], float32(math.Abs(float64(v))))
	}
	q := make([]byte, len(m.values))
	for i, v := range m.values {
		if s := scales[i%m.columns]; s > 0 {
			q[i] = byte(int8(math.RoundToEven(float64(v / s * 127))))
		}
	}
	for i := range scales {
		scales[i] /= 127 * 127
	}
	b.w.begin(out+".weight", typeInt8, rows, m.columns)
	b.w.write(q)
	b.w.floats(out+".scale", scales, m.columns)
	b.steps()
	largest := b.node("ReduceMax", out+".largest", []string{b.node("Abs", out+".abs", []string{x})}, attribute{"axes", []int64{-1}}, attribute{"keepdims", 1})
	scale := b.node("Max", out+".size", []string{largest, "tiny"})
	unit := b.node("Div", out+".unit", []string{x, scale})
	rounded := b.node("QuantizeLinear", out+".rounded", []string{unit, "step", "middle"})
	product := b.fused("MatMulIntegerToFloat", out+".product", []string{rounded, out + ".weight", "one", out + ".scale", "middle"})
	return b.node("Mul", out, []string{product, scale})
}

// steps declares the constants of product8 once.
func (b *encoderBuilder) steps() {
	if b.stepped {
		return
	}
	b.stepped = true
	b.w.floats("tiny", []float32{1e-9})
	b.w.floats("step", []float32{1. / 127})
	b.w.floats("one", []float32{1})
	b.w.begin("middle", typeUint8)
	b.w.write([]byte{128})
}

// graph is the GraphProto.
func (b *encoderBuilder) graph() message {
	var g message
	for _, n := range b.nodes {
		g.sub(1, n)
	}
	g.text(2, "encoder")
	for _, i := range append(b.constants, b.w.initializers...) {
		g.sub(5, i)
	}
	g.sub(11, valueProto("ids", typeInt64, "tokens"))
	g.sub(11, valueProto("lengths", typeInt32, "texts"))
	g.sub(12, valueProto("embedding", typeFloat, "texts", b.e.Hidden))
	return g
}
