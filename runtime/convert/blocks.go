package convert

import (
	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/quant"
)

// product is out = in·Wᵀ, plus residual unless that is "". When gated, W is of gate and up and
// out = silu(in·gateᵀ)·(in·upᵀ).
type product struct {
	in, out, residual string
	columns           int // of in
	gated             bool
}

// blocked tells whether the products of a variant are operators of our own over blocks of 32 weights.
func blocked(variant string) bool { return variant == Q4 || variant == BF16W4 }

// blocks adds a product with the parts' blocks of 32 as they are in the file (operator BlockProduct of
// runtime/onnx/kernels).
func blocks(b *builder, name string, p product, parts ...part) error {
	form, rows, err := storeGroups(b, name, p.columns, p.gated, parts)
	if err != nil {
		return err
	}
	blockProduct(b, name, p, form, rows)
	return nil
}

// blockProduct adds the node over weights that are stored under its name. It norms what comes from a norm itself.
func blockProduct(b *builder, name string, p product, form quant.Grouping, rows int) {
	in, attributes := []string{p.in, name}, shapeOf(form, rows, p.columns, p.gated)
	if n, ok := b.normedBy[p.in]; ok {
		in, attributes = []string{n.in, name, n.weight}, append(attributes, attribute{"epsilon", b.h.epsilon})
	}
	if p.residual != "" {
		in = append(append(in, "")[:3], p.residual)
	}
	b.pelton("BlockProduct", name, in, []string{p.out}, attributes...)
}

// blockRows adds out = the rows of the weights stored under name that ids are the numbers of.
func blockRows(b *builder, name, ids, out string, form quant.Grouping, rows, columns int) {
	b.pelton("BlockRows", name+".rows", []string{ids, name}, []string{out}, shapeOf(form, rows, columns, false)...)
}

func shapeOf(form quant.Grouping, rows, columns int, gated bool) []attribute {
	list := []attribute{{"rows", rows}, {"columns", columns}, {"bits", form.Bits}, {"wide", number(form.Wide)}, {"gated", number(gated)}}
	if form.BFloat16 {
		list = append(list, attribute{"bfloat16", 1})
	}
	return list
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// formOf is the form that keeps most of the parts: the file's 4 bits where all have them, else 8.
func formOf(b *builder, parts []part) quant.Grouping {
	g := quant.Grouping{Bits: 4, BFloat16: b.variant == BF16W4}
	for _, p := range parts {
		t, _ := b.src.Tensor(p.name) // a part that is missing is found when it is read
		if !t.Format.Affine4() {
			g.Bits = 8
		}
	}
	for _, p := range parts {
		t, _ := b.src.Tensor(p.name)
		half := t.Format == quant.Q80 || g.Bits == 4 && t.Format != quant.Q4K
		g.Wide = g.Wide || !half
	}
	return g
}

// storeGroups stores the parts, one below the other or, when gated, with the groups of two in turn.
func storeGroups(b *builder, name string, columns int, gated bool, parts []part) (form quant.Grouping, rows int, err error) {
	form = formOf(b, parts)
	for _, p := range parts {
		rows += p.rows
	}
	size := form.Bytes(columns)
	b.w.begin(name, typeUint8, (rows+quant.Group-1)/quant.Group, size)
	g := groups{form: form, columns: columns, emit: b.w.write}
	if gated {
		var first []byte
		g.emit = func(group []byte) { first = append(first, group...) }
		if err := fill(b, &g, parts[0]); err != nil {
			return form, rows, err
		}
		g.emit = func(group []byte) {
			b.w.write(first[:size])
			b.w.write(group)
			first = first[size:]
		}
		parts = parts[1:]
	}
	for _, p := range parts {
		if err := fill(b, &g, p); err != nil {
			return form, rows, err
		}
	}
	return form, rows, g.flush()
}

func fill(b *builder, g *groups, p part) error {
	return b.chunks(p, g.columns, func(t gguf.Tensor, raw []byte, rows int) error { return g.add(t.Format, raw, rows) })
}

// groups collects rows until a group is full.
type groups struct {
	form           quant.Grouping
	columns        int
	emit           func(group []byte)
	q              []byte
	scales, minima []float32
}

// add unpacks rows in format f and emits the groups that are full.
func (g *groups) add(f quant.Format, raw []byte, rows int) error {
	n := rows * g.columns
	q, scales, minima := make([]byte, n), make([]float32, n/quant.Block), make([]float32, n/quant.Block)
	if g.form.Bits == 8 {
		if err := pack8(q, scales, f, raw); err != nil {
			return err
		}
	} else if err := quant.Take4(f, q, scales, minima, raw); err != nil {
		return err
	}
	g.q, g.scales, g.minima = append(g.q, q...), append(g.scales, scales...), append(g.minima, minima...)
	for len(g.q) >= quant.Group*g.columns {
		if err := g.pack(quant.Group); err != nil {
			return err
		}
	}
	return nil
}

// flush emits the last group, filled up with rows of zeros.
func (g *groups) flush() error {
	if len(g.q) == 0 {
		return nil
	}
	return g.pack(len(g.q) / g.columns)
}

func (g *groups) pack(rows int) error {
	out, blocks := make([]byte, g.form.Bytes(g.columns)), rows*g.columns/quant.Block
	if err := g.form.Pack(out, g.q[:rows*g.columns], g.scales[:blocks], g.minima[:blocks], g.columns); err != nil {
		return err
	}
	g.emit(out)
	g.q, g.scales, g.minima = g.q[rows*g.columns:], g.scales[blocks:], g.minima[blocks:]
	return nil
}
