package quant

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Group is the count of rows that lie side by side in the layout of [Grouping].
const Group = 16

// Grouping is the layout of weights for the operators of runtime/onnx/kernels, whose blocks.h describes
// it: groups of [Group] rows, block after block, so that one instruction multiplies with several rows.
type Grouping struct {
	Bits int  // 4: a weight is scale*q + minimum; 8: it is scale*(q-128)
	Wide bool // scales and minima in single instead of half precision
	// BFloat16 is the layout for products of bfloat16.
	BFloat16 bool
}

// Bytes is the size of a group with the given columns, a multiple of [Block].
func (g Grouping) Bytes(columns int) int { return columns / Block * g.block() }

func (g Grouping) block() int {
	number := 2
	if g.Wide {
		number = 4
	}
	if g.Bits == 4 {
		return Group * (Block/2 + 2*number)
	}
	return Group * (Block + number)
}

// Pack stores up to [Group] rows: q has a byte for each weight, scales and (of 4 bits) minima are those of
// the rows' blocks. len(q) == rows*columns, len(scales) == len(q)/Block, len(dst) == Bytes(columns).
// Without Wide all scales must be exact in half precision.
func (g Grouping) Pack(dst, q []byte, scales, minima []float32, columns int) error {
	rows := len(q) / max(columns, 1)
	if g.Bits != 4 && g.Bits != 8 || columns <= 0 || columns%Block != 0 || rows > Group || len(q) != rows*columns ||
		len(scales) != len(q)/Block || g.Bits == 4 && len(minima) != len(scales) || len(dst) != g.Bytes(columns) {
		return fmt.Errorf("pack a group: %d values in %d bits, %d columns, %d scales, %d minima, room for %d bytes", len(q), g.Bits, columns, len(scales), len(minima), len(dst))
	}
	clear(dst)
	blocks := columns / Block
	for b := range blocks {
		out := dst[b*g.block():][:g.block()]
		numbers := out[Group*Block*g.Bits/8:]
		for r := range rows {
			g.place(out, r, q[r*columns+b*Block:][:Block])
			if err := g.number(numbers, r, scales[r*blocks+b]); err != nil {
				return err
			}
			if g.Bits == 8 {
				continue
			}
			if err := g.number(numbers, Group+r, minima[r*blocks+b]); err != nil {
				return err
			}
		}
	}
	return nil
}

// place stores the values of a row's block.
func (g Grouping) place(out []byte, r int, q []byte) {
	for k, v := range q {
		switch {
		case g.BFloat16 && g.Bits == 8:
			out[r*Block+k] = v ^ 0x80
		case g.BFloat16:
			out[r/4*64+2*k+r%4/2] |= v << (4 * (r % 2))
		case g.Bits == 8:
			out[k/4*64+4*r+k%4] = v
		case k < Block/2:
			out[k/4*64+4*r+k%4] |= v
		default:
			out[(k-Block/2)/4*64+4*r+k%4] |= v << 4
		}
	}
}

// number stores the i-th scale or minimum.
func (g Grouping) number(out []byte, i int, v float32) error {
	if g.Wide {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
		return nil
	}
	h := ToHalf(v)
	if Half(h) != v {
		return fmt.Errorf("pack a group: %g is not exact in half precision", v)
	}
	binary.LittleEndian.PutUint16(out[2*i:], h)
	return nil
}

// ToHalf is the IEEE 754 half-precision number nearest to v, of two the even one.
func ToHalf(v float32) uint16 {
	const (
		infinite, half = 0x7f800000, 0x3f000000 // as bits: infinity, 0.5
		tooLarge       = 0x477ff000             // 65520: half way from the largest to what would be the next
		normal         = 0x38800000             // 2^-14
		bias           = (127 - 15) << 10       // of the exponents, where they lie in a half
	)
	bits := math.Float32bits(v)
	sign, x := uint16(bits>>16&0x8000), bits&0x7fffffff
	switch {
	case x > infinite:
		return sign | 0x7e00
	case x >= tooLarge:
		return sign | 0x7c00
	case x < normal: // the last bit of numbers from 0.5 on is worth as much as that of a half below 2^-14
		return sign | uint16(math.Float32bits(math.Float32frombits(x)+0.5)-half)
	}
	return sign | uint16((x+0xfff+x>>13&1)>>13-bias) // a carry raises the exponent
}
