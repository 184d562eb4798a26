package convert

import (
	"math"

	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/quant"
)

// Activations in 16 bit are two bytes around zero point 128: a coarse one, and one for what that leaves,
// whose steps are finer by fineness. Both are rows of one product of bytes, whose sums are exact integers:
// they depend neither on the other rows nor on the order of summation nor on the processor.
const (
	byteZero = 128
	fineness = 254
)

// integer adds out = in·Wᵀ with 8-bit weights, a scale for each row of W, and 16-bit activations. The
// steps of the activations are fixed when in is normed: |x| ≤ √columns·max|norm weight| then. Any other
// input is normed first, which its result is multiplied with afterwards.
func integer(b *builder, name, in, out string, parts []part, rows, columns int) error {
	x, bound, product := in, math.Sqrt(float64(columns)), out
	norm, normed := b.normedBy[in]
	if normed {
		bound *= float64(b.stored[norm.weight].peak)
	} else {
		x, product = name+".normed", name+".unscaled"
		b.onnx("SimplifiedLayerNormalization", name+".norm", []string{in, ones(b, columns)}, []string{x, name + ".rms"},
			attribute{"axis", -1}, attribute{"epsilon", float32(tinyEpsilon)}, attribute{"stash_type", int(typeFloat)})
	}
	step := float32(max(bound, tinyEpsilon) / 127)
	coarse, fine := b.scalar(name+".step", step), b.scalar(name+".fine_step", step/fineness)
	zero := b.byteConstant("byte.zero", byteZero)
	b.onnx("QuantizeLinear", name+".coarse", []string{x, coarse, zero}, []string{name + ".hi"})
	b.onnx("DequantizeLinear", name+".back", []string{name + ".hi", coarse, zero}, []string{name + ".near"})
	b.onnx("Sub", name+".rest", []string{x, name + ".near"}, []string{name + ".far"})
	b.onnx("QuantizeLinear", name+".fine", []string{name + ".far", fine, zero}, []string{name + ".lo"})
	b.onnx("Concat", name+".both", []string{name + ".hi", name + ".lo"}, []string{name + ".bytes"}, attribute{"axis", -2})
	b.microsoft("MatMulIntegerToFloat", name, []string{name + ".bytes", name, coarse, name + ".scales", zero}, []string{name + ".sums"})
	b.onnx("Split", name+".apart", []string{name + ".sums"}, []string{name + ".of_hi", name + ".of_lo"}, attribute{"axis", -2})
	b.onnx("Mul", name+".finer", []string{name + ".of_lo", b.scalar("finer", 1.0/fineness)}, []string{name + ".of_lo.scaled"})
	b.onnx("Add", name+".sum", []string{name + ".of_hi", name + ".of_lo.scaled"}, []string{product})
	if !normed {
		b.onnx("Div", name+".scaled", []string{product, name + ".rms"}, []string{out})
	}
	return perRow(b, name, parts, rows, columns)
}

// tinyEpsilon keeps rows of zeros from dividing by zero, and is far below any other row.
const tinyEpsilon = 1e-12

// ones is a vector of n ones.
func ones(b *builder, n int) string {
	name := "ones." + itoa(n)
	if !b.known[name] {
		b.known[name] = true
		v := make([]float32, n)
		for i := range v {
			v[i] = 1
		}
		b.w.floats(name, v, n)
	}
	return name
}

// perRow writes the stacked parts as signed bytes, [columns, rows], and a scale for each row.
func perRow(b *builder, name string, parts []part, rows, columns int) error {
	bytes, scales := make([]byte, rows*columns), make([]float32, 0, rows)
	at := 0
	for _, p := range parts {
		err := b.chunks(p, columns, func(t gguf.Tensor, raw []byte, n int) error {
			v, q := make([]float32, n*columns), make([]int8, columns)
			if err := t.Format.Dequantize(v, raw); err != nil {
				return err
			}
			for r := range n {
				scale, err := quant.PackRow8(q, v[r*columns:][:columns])
				if err != nil {
					return err
				}
				scales = append(scales, scale)
				for c, x := range q {
					bytes[c*rows+at] = byte(x)
				}
				at++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	b.w.begin(name, typeInt8, columns, rows)
	b.w.write(bytes)
	b.w.floats(name+".scales", scales, rows)
	return nil
}
