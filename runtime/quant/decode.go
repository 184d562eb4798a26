package quant

import (
	"encoding/binary"
	"math"
)

// Each function unpacks one block, as ggml-quants.c of llama.cpp defines it. In formats of 32 values the
// low nibble of byte i is value i and the high nibble value i+16.
// Products are converted before they are added, which forbids a fused multiply-add: every platform makes
// the same bits, and so the same model folder.

// Formats without blocks are unpacked any number of values at once.

func decodeF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func decodeF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = half(src[2*i:])
	}
}

func decodeBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

func decodeQ40(dst []float32, src []byte) {
	d, q := half(src), src[2:18]
	for i, b := range q {
		dst[i] = d * float32(int(b&15)-8)
		dst[i+16] = d * float32(int(b>>4)-8)
	}
}

func decodeQ41(dst []float32, src []byte) {
	d, m, q := half(src), half(src[2:]), src[4:20]
	for i, b := range q {
		dst[i] = float32(d*float32(b&15)) + m
		dst[i+16] = float32(d*float32(b>>4)) + m
	}
}

func decodeQ50(dst []float32, src []byte) {
	d, high, q := half(src), binary.LittleEndian.Uint32(src[2:]), src[6:22]
	for i, b := range q {
		dst[i] = d * float32(int(uint32(b&15)|high>>i&1<<4)-16)
		dst[i+16] = d * float32(int(uint32(b>>4)|high>>(i+16)&1<<4)-16)
	}
}

func decodeQ51(dst []float32, src []byte) {
	d, m, high, q := half(src), half(src[2:]), binary.LittleEndian.Uint32(src[4:]), src[8:24]
	for i, b := range q {
		dst[i] = float32(d*float32(uint32(b&15)|high>>i&1<<4)) + m
		dst[i+16] = float32(d*float32(uint32(b>>4)|high>>(i+16)&1<<4)) + m
	}
}

func decodeQ80(dst []float32, src []byte) {
	d := half(src)
	for i, b := range src[2:34] {
		dst[i] = d * float32(int8(b))
	}
}

// The values are in two halves of 128, each of four groups of 32: group j of a half has bits 2j and 2j+1 of 32 bytes.

func decodeQ2K(dst []float32, src []byte) {
	scales, q, d, dm := src[:16], src[16:80], half(src[80:]), half(src[82:])
	for j := range 8 {
		for i, b := range q[j/4*32 : j/4*32+32] {
			s := scales[2*j+i/16]
			dst[32*j+i] = float32(float32(d*float32(s&15))*float32(b>>(2*(j%4))&3)) - float32(dm*float32(s>>4))
		}
	}
}

// The third bit of Q3_K is bit j of 32 more bytes. Of its 16 scales of 6 bits the low four are the nibbles of
// eight bytes, the high two lie in four more.
func decodeQ3K(dst []float32, src []byte) {
	high, q, scales, d := src[:32], src[32:96], src[96:108], half(src[108:])
	for j := range 8 {
		for i, b := range q[j/4*32 : j/4*32+32] {
			n := 2*j + i/16
			s := scales[n%8]>>(n/8*4)&15 | scales[8+n%4]>>(n/4*2)&3<<4
			v := b>>(2*(j%4))&3 | high[i]>>j&1<<2
			dst[32*j+i] = d * float32(int(s)-32) * float32(int(v)-4)
		}
	}
}

// scaleMin is the 6-bit scale and minimum of inner block j (0 to 7) of a Q4_K or Q5_K block. The first
// four of each lie in the low 6 bits of bytes 0-3 and 4-7; the others are split between bytes 8-11 and
// the top bits of the first eight.
func scaleMin(s []byte, j int) (scale, minimum float32) {
	if j < 4 {
		return float32(s[j] & 63), float32(s[j+4] & 63)
	}
	return float32(s[j+4]&15 | s[j-4]>>6<<4), float32(s[j+4]>>4 | s[j]>>6<<4)
}

func decodeQ4K(dst []float32, src []byte) {
	d, dm, scales, q := half(src), half(src[2:]), src[4:16], src[16:144]
	for j := range 8 {
		scale, minimum := scaleMin(scales, j)
		scale, minimum = d*scale, dm*minimum
		shift := 4 * (j & 1)
		for i, b := range q[j/2*32 : j/2*32+32] {
			dst[32*j+i] = float32(scale*float32(b>>shift&15)) - minimum
		}
	}
}

func decodeQ5K(dst []float32, src []byte) {
	d, dm, scales, high, q := half(src), half(src[2:]), src[4:16], src[16:48], src[48:176]
	for j := range 8 {
		scale, minimum := scaleMin(scales, j)
		scale, minimum = d*scale, dm*minimum
		shift := 4 * (j & 1)
		for i, b := range q[j/2*32 : j/2*32+32] {
			dst[32*j+i] = float32(scale*float32(b>>shift&15|high[i]>>j&1<<4)) - minimum
		}
	}
}

func decodeQ6K(dst []float32, src []byte) {
	low, high, scales, d := src[:128], src[128:192], src[192:208], half(src[208:])
	for part := range 2 { // 128 values each
		ql, qh, out := low[64*part:], high[32*part:], dst[128*part:]
		for group := range 4 { // 32 values each
			shift, at := 4*(group/2), 32*(group&1)
			for i := range 32 {
				scale := d * float32(int8(scales[8*part+2*group+i/16]))
				q := ql[at+i]>>shift&15 | qh[i]>>(2*group)&3<<4
				out[32*group+i] = scale * float32(int(q)-32)
			}
		}
	}
}

// uneven are the 16 steps of IQ4_NL and IQ4_XS: closer where weights are many.
var uneven = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func decodeIQ4NL(dst []float32, src []byte) {
	decodeUneven(dst, half(src), src[2:18])
}

func decodeUneven(dst []float32, d float32, q []byte) {
	for i, b := range q {
		dst[i] = d * uneven[b&15]
		dst[i+16] = d * uneven[b>>4]
	}
}

func decodeIQ4XS(dst []float32, src []byte) {
	d, high, low, q := half(src), binary.LittleEndian.Uint16(src[2:]), src[4:8], src[8:136]
	for j := range 8 {
		scale := int(low[j/2]>>(4*(j%2))&15) | int(high>>(2*j)&3)<<4
		decodeUneven(dst[32*j:], d*float32(scale-32), q[16*j:16*j+16])
	}
}
