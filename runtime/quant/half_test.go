package quant_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/quant"
)

// half is the value of a half-precision number.
func half(h uint16) float64 {
	v := math.Ldexp(float64(h&0x3ff|0x400), int(h>>10&31)-25)
	switch h >> 10 & 31 {
	case 0:
		v = math.Ldexp(float64(h&0x3ff), -24)
	case 31:
		v = math.Inf(1)
	}
	return v
}

// TestToHalf compares with the definition: the nearest number, of two the even one.
func TestToHalf(t *testing.T) {
	t.Parallel()
	check := func(v float32) {
		got := quant.ToHalf(v)
		if sign := got>>15 == 1; sign != math.Signbit(float64(v)) {
			t.Fatalf("%g: the sign of %#04x", v, got)
		}
		x, h := math.Abs(float64(v)), got&0x7fff
		if x >= 65520 {
			if h != 0x7c00 {
				t.Fatalf("%g: %#04x, want infinity", v, got)
			}
			return
		}
		off := math.Abs(half(h) - x)
		for _, near := range []uint16{h - 1, h + 1} {
			other := math.Abs(half(near) - x)
			if near < 0x7c00 && (other < off || other == off && h&1 == 1) {
				t.Fatalf("%g: %#04x is off by %g, %#04x by %g", v, got, off, near, other)
			}
		}
	}
	for h := range uint16(0x7c00) {
		x, next := half(h), half(h+1)
		if h == 0x7bff {
			next = 65536
		}
		for _, v := range []float64{x, (x + next) / 2} {
			for _, f := range []float32{float32(v), math.Nextafter32(float32(v), 0), math.Nextafter32(float32(v), 1e9)} {
				check(f)
				check(-f)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if v := math.Float32frombits(rapid.Uint32().Draw(t, "bits")); v == v {
			check(v)
		} else if quant.ToHalf(v)&0x7fff <= 0x7c00 {
			t.Fatalf("%x is no number, but %#04x is", math.Float32bits(v), quant.ToHalf(v))
		}
	})
}
