package quant

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Format is how numbers are stored, numbered as ggml and GGUF files number their tensor types.
type Format uint32

// The formats that can be read. Q4_0 and its kin store blocks of 32 values; Q4_K and its kin store blocks
// of 256 values whose inner scales are quantized too. IQ4_NL and IQ4_XS are alike, but their 16 steps are not even.
const (
	F32   Format = 0
	F16   Format = 1
	Q40   Format = 2
	Q41   Format = 3
	Q50   Format = 6
	Q51   Format = 7
	Q80   Format = 8
	Q2K   Format = 10
	Q3K   Format = 11
	Q4K   Format = 12
	Q5K   Format = 13
	Q6K   Format = 14
	IQ4NL Format = 20
	IQ4XS Format = 23
	BF16  Format = 30
)

// layout describes one block of a format; decode unpacks exactly one.
type layout struct {
	name   string
	values int
	bytes  int
	decode func(dst []float32, src []byte)
}

var layouts = map[Format]layout{
	F32:   {"F32", 1, 4, decodeF32},
	F16:   {"F16", 1, 2, decodeF16},
	BF16:  {"BF16", 1, 2, decodeBF16},
	Q40:   {"Q4_0", 32, 18, decodeQ40},
	Q41:   {"Q4_1", 32, 20, decodeQ41},
	Q50:   {"Q5_0", 32, 22, decodeQ50},
	Q51:   {"Q5_1", 32, 24, decodeQ51},
	Q80:   {"Q8_0", 32, 34, decodeQ80},
	Q2K:   {"Q2_K", 256, 84, decodeQ2K},
	Q3K:   {"Q3_K", 256, 110, decodeQ3K},
	Q4K:   {"Q4_K", 256, 144, decodeQ4K},
	Q5K:   {"Q5_K", 256, 176, decodeQ5K},
	Q6K:   {"Q6_K", 256, 210, decodeQ6K},
	IQ4NL: {"IQ4_NL", 32, 18, decodeIQ4NL},
	IQ4XS: {"IQ4_XS", 256, 136, decodeIQ4XS},
}

// Known reports whether f is one of the formats above.
func (f Format) Known() bool {
	_, ok := layouts[f]
	return ok
}

// String is the name that the ggml tools use, for example "Q4_1".
func (f Format) String() string {
	if l, ok := layouts[f]; ok {
		return l.name
	}
	return fmt.Sprintf("type %d", uint32(f))
}

// BlockValues is the count of values in one block, 0 for an unknown format.
func (f Format) BlockValues() int { return layouts[f].values }

// BlockBytes is the size of one block, 0 for an unknown format.
func (f Format) BlockBytes() int { return layouts[f].bytes }

// check reports whether src holds exactly n values of format f.
func (f Format) check(n int, src []byte) (layout, error) {
	l, ok := layouts[f]
	if !ok {
		return l, fmt.Errorf("weights of %s cannot be read", f)
	}
	if n%l.values != 0 || len(src) != n/l.values*l.bytes {
		return l, fmt.Errorf("%d bytes of %s do not hold %d values", len(src), f, n)
	}
	return l, nil
}

// Dequantize unpacks src into dst; src must hold exactly len(dst) values. The result is what ggml's own
// reference code computes. Values that are not finite are passed through: see [Finite].
func (f Format) Dequantize(dst []float32, src []byte) error {
	l, err := f.check(len(dst), src)
	if err != nil {
		return err
	}
	if l.values == 1 {
		l.decode(dst, src)
		return nil
	}
	for len(dst) > 0 {
		l.decode(dst[:l.values], src)
		dst, src = dst[l.values:], src[l.bytes:]
	}
	return nil
}

// Finite returns the index of the first value that is NaN or infinite, or -1.
func Finite(values []float32) int {
	for i, v := range values {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return i
		}
	}
	return -1
}

// Half is the value of an IEEE 754 half-precision number.
func Half(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch exp {
	case 0: // zero and subnormals: frac * 2^-24
		v := float32(frac) * 0x1p-24
		return math.Float32frombits(sign | math.Float32bits(v))
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

func half(src []byte) float32 { return Half(binary.LittleEndian.Uint16(src)) }
