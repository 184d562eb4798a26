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
	bits := math.Float32bits(v)
	sign := uint16(bits >> 16 & 0x8000)
	x := math.Abs(float64(v))
	switch {
	case v != v:
		return sign | 0x7e00
	case x >= 65520: // half way from the largest to what would be the next
		return sign | 0x7c00
	case x < 0x1p-14:
		return sign | uint16(math.RoundToEven(x*0x1p24)) // a carry makes it the smallest normal number
	}
	exponent := int(bits>>23&0xff) - 127
	fraction := math.RoundToEven(math.Ldexp(x, 10-exponent)) - 1024 // a carry raises the exponent
	return sign | uint16((exponent+15)<<10+int(fraction))
}
