package convert_test

import (
	"math"
	"slices"
)

// quantized is QuantizeLinear to unsigned bytes, rounding half to even.
func quantized(n node) array {
	x, step, zero := n.in[0], n.in[1].f[0], int(n.in[2].bytes[0])
	out := array{dims: x.dims, bytes: make([]byte, len(x.f))}
	for i, v := range x.f {
		out.bytes[i] = byte(min(max(int(math.RoundToEven(float64(v/step)))+zero, 0), 255))
	}
	return out
}

// unquantized is DequantizeLinear of unsigned bytes.
func unquantized(n node) array {
	x, step, zero := n.in[0], n.in[1].f[0], int(n.in[2].bytes[0])
	out := array{dims: x.dims, f: make([]float32, len(x.bytes))}
	for i, v := range x.bytes {
		out.f[i] = float32(int(v)-zero) * step
	}
	return out
}

// stacked is Concat of two values of bytes along the axis before the last.
func stacked(a, b array) array {
	axis, width := len(a.dims)-2, a.dims[len(a.dims)-1]
	piece := a.dims[axis] * width
	out := array{dims: slices.Clone(a.dims)}
	out.dims[axis] *= 2
	for at := 0; at < len(a.bytes); at += piece {
		out.bytes = append(append(out.bytes, a.bytes[at:at+piece]...), b.bytes[at:at+piece]...)
	}
	return out
}

// halved is Split in two equal parts along the axis before the last.
func halved(x array) []array {
	axis, width := len(x.dims)-2, x.dims[len(x.dims)-1]
	piece := x.dims[axis] * width / 2
	dims := slices.Clone(x.dims)
	dims[axis] /= 2
	out := []array{{dims: dims}, {dims: dims}}
	for at := 0; at < len(x.f); at += 2 * piece {
		out[0].f = append(out[0].f, x.f[at:at+piece]...)
		out[1].f = append(out[1].f, x.f[at+piece:at+2*piece]...)
	}
	return out
}

// byteProduct is MatMulIntegerToFloat: unsigned bytes times signed ones, summed exactly.
func byteProduct(n node) array {
	x, w, step, scales, zero := n.in[0], n.in[1], n.in[2].f[0], n.in[3].f, int(n.in[4].bytes[0])
	k, rows := w.dims[0], w.dims[1]
	out := array{dims: append(slices.Clone(x.dims[:len(x.dims)-1]), rows)}
	for at := 0; at < len(x.bytes); at += k {
		for r := range rows {
			sum := 0
			for i := range k {
				sum += (int(x.bytes[at+i]) - zero) * int(int8(w.bytes[i*rows+r]))
			}
			out.f = append(out.f, float32(sum)*step*scales[r])
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
