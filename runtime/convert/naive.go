package convert

// The forms of the two variants that exist only to be measured against (runtime/PERFORMANCE.md): Naive is
// what a plain export of the model's equations gives, Fused has the operators of FP32 but computes the
// logits of every token, wanted or not.

// float reports whether a variant's weights are no whole numbers.
func float(variant string) bool {
	return variant == FP32 || variant == FP16 || variant == Fused || variant == Naive
}

// plainNorm adds out = RMSNorm(in), over width values, in single steps.
func plainNorm(b *builder, name, in, weight, out string, width int) {
	b.onnx("Mul", name+".square", []string{in, in}, []string{name + ".squares"})
	b.onnx("ReduceSum", name+".sum", []string{name + ".squares", b.constant("last", -1)}, []string{name + ".summed"}, attribute{"keepdims", 1})
	b.onnx("Mul", name+".mean", []string{name + ".summed", b.scalar("per."+itoa(width), 1/float32(width))}, []string{name + ".meaned"})
	b.onnx("Add", name+".epsilon", []string{name + ".meaned", b.scalar("epsilon", b.h.epsilon)}, []string{name + ".kept"})
	b.onnx("Sqrt", name+".root", []string{name + ".kept"}, []string{name + ".rms"})
	b.onnx("Div", name+".divide", []string{in, name + ".rms"}, []string{name + ".unit"})
	b.onnx("Mul", name+".weigh", []string{name + ".unit", weight}, []string{out})
}

// plainMatrix adds out = in·Wᵀ with a product for each part.
func plainMatrix(b *builder, name, in, out string, columns int, parts []part) error {
	var results []string
	for _, p := range parts {
		result := p.name + ".out"
		if len(parts) == 1 {
			result = out
		}
		b.onnx("MatMul", p.name+".product", []string{in, p.name}, []string{result})
		if err := b.transposed(p.name, []part{p}, p.rows, columns); err != nil {
			return err
		}
		results = append(results, result)
	}
	if len(parts) > 1 {
		b.onnx("Concat", name+".join", results, []string{out}, attribute{"axis", -1})
	}
	return nil
}

// plainGate adds the two products of layer prefix p's gate and up, each by itself, and SiLU in two steps.
func plainGate(b *builder, p string) error {
	for _, out := range []string{"gate", "up"} {
		if err := plainMatrix(b, p+out, p+"ffn.in", p+out, b.h.Hidden, []part{{p + "ffn_" + out + ".weight", b.h.FFN, 0}}); err != nil {
			return err
		}
	}
	b.onnx("Sigmoid", p+"sigmoid", []string{p + "gate"}, []string{p + "sigmoid"})
	b.onnx("Mul", p+"silu", []string{p + "gate", p + "sigmoid"}, []string{p + "act"})
	b.onnx("Mul", p+"mul", []string{p + "act", p + "up"}, []string{p + "ffn.mid"})
	return nil
}
