package convert_test

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/pelton-run/pelton/runtime/quant"
)

// grouped is the matrix that an operator of ours takes in groups of 16 rows, as numbers.
func grouped(n node) array {
	rows, columns, four, wide, brief := n.ints["rows"], n.ints["columns"], n.ints["bits"] == 4, n.ints["wide"] == 1, n.ints["bfloat16"] == 1
	packed := n.in[1].bytes
	out := array{dims: []int{rows, columns}, f: make([]float32, rows*columns)}
	half := func(at, i int) float32 {
		if wide {
			return math.Float32frombits(binary.LittleEndian.Uint32(packed[at+4*i:]))
		}
		return quant.Half(binary.LittleEndian.Uint16(packed[at+2*i:]))
	}
	size := 16 * 32
	if four {
		size /= 2
	}
	numbers := 16 * 2 // bytes of scales
	if wide {
		numbers *= 2
	}
	block := size + numbers
	if four {
		block += numbers
	}
	for r := range rows {
		for c := range columns {
			at := (r/16*(columns/32) + c/32) * block
			k, scale := c%32, half(at+size, r%16)
			switch b := at + 4*(r%16) + k%4; {
			case brief && four:
				q := packed[at+r%16/4*64+2*k+r%4/2] >> (4 * (r % 2)) & 15
				out.f[r*columns+c] = scale*float32(q) + half(at+size, 16+r%16)
			case brief:
				out.f[r*columns+c] = scale * float32(int8(packed[at+r%16*32+k]))
			case !four:
				out.f[r*columns+c] = scale * float32(int(packed[b+k/4*64])-128)
			case k < 16:
				out.f[r*columns+c] = scale*float32(packed[b+k/4*64]&15) + half(at+size, 16+r%16)
			default:
				out.f[r*columns+c] = scale*float32(packed[b+(k-16)/4*64]>>4) + half(at+size, 16+r%16)
			}
		}
	}
	return out
}

// blockProduct is BlockProduct with activations as they are.
func blockProduct(n node) array {
	rows, x := n.ints["rows"], n.in[0]
	if len(n.in) > 2 && len(n.in[2].f) > 0 {
		x, _ = normed(x, n.in[2], n.floats["epsilon"])
	}
	out := times(x, grouped(n).f, n.ints["columns"], rows)
	if len(n.in) > 3 {
		out = each(out, n.in[3], func(a, b float32) float32 { return a + b })
	}
	if n.ints["gated"] == 0 {
		return out
	}
	both := out.f
	out.dims, out.f = append(slices.Clone(out.dims[:len(out.dims)-1]), rows/2), nil
	for i := range len(both) / 2 {
		at := i/(rows/2)*rows + i%(rows/2)/16*32 + i%16
		gate := float64(both[at])
		out.f = append(out.f, float32(gate/(1+math.Exp(-gate)))*both[at+16])
	}
	return out
}
