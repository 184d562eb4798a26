package quant

import (
	"fmt"
	"math"
)

// Pack8 stores values in 8 bit, symmetric around zero point 128: dst[i] = round(x/scale) + 128, with
// scale = max|x|/127 over each block. len(dst) == len(src) == Block*len(scales). Values that are not
// finite are an error.
func Pack8(dst []byte, scales, src []float32) error {
	if len(dst) != len(src) || len(src) != Block*len(scales) {
		return fmt.Errorf("pack 8 bit: %d values, %d scales, room for %d", len(src), len(scales), len(dst))
	}
	for b := range scales {
		x, out := src[b*Block:][:Block], dst[b*Block:][:Block]
		peak := float32(0)
		for _, v := range x {
			peak = max(peak, float32(math.Abs(float64(v)))) // max keeps a NaN
		}
		if !(peak <= math.MaxFloat32) {
			return fmt.Errorf("pack 8 bit: value %d or a neighbor is not finite", b*Block)
		}
		scale := peak / 127
		scales[b] = scale
		for i, v := range x {
			q := 0.0
			if scale > 0 {
				q = math.RoundToEven(float64(v) / float64(scale))
			}
			out[i] = byte(int(min(max(q, -127), 127)) + 128)
		}
	}
	return nil
}

// Take8 takes Q8_0 blocks over without loss: the same integers with zero point 128, the same scales.
// len(src) == 34*len(scales), len(dst) == Block*len(scales).
func Take8(dst []byte, scales []float32, src []byte) error {
	if _, err := Q80.check(len(dst), src); err != nil {
		return err
	}
	if len(dst) != Block*len(scales) {
		return fmt.Errorf("take 8 bit: %d values, %d scales", len(dst), len(scales))
	}
	for b := range scales {
		s, out := src[b*34:][:34], dst[b*Block:][:Block]
		scales[b] = half(s)
		for i, q := range s[2:] {
			out[i] = q ^ 0x80 // int8 q to unsigned q + 128
		}
	}
	return finiteScales(scales)
}

// Affine4 reports whether every block of [Block] values of f is d*q + m with a 4-bit q, so that [Take4]
// can take it over.
func (f Format) Affine4() bool { return f == Q40 || f == Q41 || f == Q4K }

// Take4 takes 4-bit blocks over without loss: y = scale*q + minimum with a byte for each q.
// len(minima) == len(scales), len(dst) == Block*len(scales).
func Take4(f Format, dst []byte, scales, minima []float32, src []byte) error {
	if !f.Affine4() {
		return fmt.Errorf("take 4 bit: %s is not a 4-bit format", f)
	}
	if _, err := f.check(Block*len(scales), src); err != nil {
		return err
	}
	if len(minima) != len(scales) || len(dst) != Block*len(scales) {
		return fmt.Errorf("take 4 bit: %d scales, %d minima, room for %d bytes", len(scales), len(minima), len(dst))
	}
	for b := range scales {
		q := dst[b*Block:][:Block]
		switch f {
		case Q40:
			s := src[b*18:][:18]
			scales[b], minima[b] = half(s), -8*half(s)
			unpack4(q, s[2:])
		case Q41:
			s := src[b*20:][:20]
			scales[b], minima[b] = half(s), half(s[2:])
			unpack4(q, s[4:])
		case Q4K:
			s, j := src[b/8*144:][:144], b%8
			scale, minimum := scaleMin(s[4:16], j)
			scales[b], minima[b] = half(s)*scale, -half(s[2:])*minimum
			for i, v := range s[16+j/2*32:][:32] {
				q[i] = v >> (4 * (j & 1)) & 15
			}
		}
	}
	if err := finiteScales(scales); err != nil {
		return err
	}
	return finiteScales(minima)
}

// unpack4 spreads 16 bytes whose low nibbles are values 0-15 and whose high nibbles are values 16-31.
func unpack4(q, src []byte) {
	for i, b := range src[:16] {
		q[i], q[i+16] = b&15, b>>4
	}
}

func finiteScales(scales []float32) error {
	if i := Finite(scales); i >= 0 {
		return fmt.Errorf("scale of block %d is not finite", i)
	}
	return nil
}
