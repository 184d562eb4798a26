package quant_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/quant"
)

func floats(b []byte) []float32 {
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("testdata: %v", err)
	}
	return b
}

// The values are those of an independent implementation: see testdata/reference.py.
func TestDequantizeEqualsReference(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/formats.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Format          quant.Format
		Name, Raw, Want string
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 15 {
		t.Fatalf("testdata has %d formats, want 15", len(cases))
	}
	for _, c := range cases {
		raw, want := unhex(t, c.Raw), floats(unhex(t, c.Want))
		if c.Format.String() != c.Name {
			t.Errorf("format %d is called %s, want %s", c.Format, c.Format, c.Name)
		}
		got := make([]float32, len(want))
		if err := c.Format.Dequantize(got, raw); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		for i := range want {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				t.Errorf("%s: value %d is %g (%08x), want %g (%08x)", c.Name, i, got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
			}
		}
	}
}

func TestHalf(t *testing.T) {
	t.Parallel()
	for h := range 1 << 16 {
		sign, exp, frac := 1.0, h>>10&31, float64(h&1023)
		if h>>15 == 1 {
			sign = -1
		}
		want := sign * math.Ldexp(1024+frac, exp-25)
		if exp == 0 {
			want = sign * math.Ldexp(frac, -24)
		}
		got := float64(quant.Half(uint16(h)))
		if exp == 31 {
			if frac == 0 && !math.IsInf(got, int(sign)) || frac != 0 && !math.IsNaN(got) {
				t.Fatalf("half %04x is %g", h, got)
			}
			continue
		}
		if got != want || math.Signbit(got) != (sign < 0) {
			t.Fatalf("half %04x is %g, want %g", h, got, want)
		}
	}
}

func TestDequantizeRefusesWrongSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format quant.Format
		values int
		bytes  int
		want   string
	}{
		{quant.Q41, 32, 19, "do not hold"},
		{quant.Q41, 31, 20, "do not hold"},
		{quant.Q6K, 128, 105, "do not hold"},
		{quant.F32, 2, 4, "do not hold"},
		{quant.Format(99), 1, 1, "type 99 cannot be read"},
	} {
		err := c.format.Dequantize(make([]float32, c.values), make([]byte, c.bytes))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %d values in %d bytes: error %v, want %q", c.format, c.values, c.bytes, err, c.want)
		}
	}
}

func TestPack8IsWithinHalfAStep(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		blocks := rapid.IntRange(1, 4).Draw(t, "blocks")
		src := rapid.SliceOfN(rapid.Float32Range(-1e4, 1e4), blocks*quant.Block, blocks*quant.Block).Draw(t, "values")
		q, scales := make([]byte, len(src)), make([]float32, blocks)
		if err := quant.Pack8(q, scales, src); err != nil {
			t.Fatal(err)
		}
		for i, v := range src {
			scale := float64(scales[i/quant.Block])
			got := scale * float64(int(q[i])-128)
			if math.Abs(got-float64(v)) > scale*0.5001 || q[i] == 0 {
				t.Fatalf("value %d: %g came back as %g (q %d, scale %g)", i, v, got, q[i], scale)
			}
		}
	})
}

func TestPack8Extremes(t *testing.T) {
	t.Parallel()
	src, q, scales := make([]float32, quant.Block), make([]byte, quant.Block), make([]float32, 1)
	if err := quant.Pack8(q, scales, src); err != nil || q[0] != 128 || scales[0] != 0 {
		t.Errorf("zeros: %v, q %d, scale %g; want nil, 128, 0", err, q[0], scales[0])
	}
	src[0] = math.SmallestNonzeroFloat32 // its scale underflows
	if err := quant.Pack8(q, scales, src); err != nil || q[1] != 128 {
		t.Errorf("subnormal: %v, q %d; want nil, 128", err, q[1])
	}
	src[0], src[1] = math.MaxFloat32, -math.MaxFloat32
	if err := quant.Pack8(q, scales, src); err != nil || q[0] != 255 || q[1] != 1 {
		t.Errorf("largest: %v, q %d and %d; want nil, 255, 1", err, q[0], q[1])
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		src[7] = float32(bad)
		if err := quant.Pack8(q, scales, src); err == nil {
			t.Errorf("%g was packed", bad)
		}
	}
	if err := quant.Pack8(q[:31], scales, src); err == nil {
		t.Error("31 bytes took 32 values")
	}
}

// halfBits draws a finite half-precision number of moderate size.
func halfBits(t *rapid.T, name string) uint16 {
	return uint16(rapid.IntRange(0x0400, 0x3fff).Draw(t, name)) | uint16(rapid.IntRange(0, 1).Draw(t, name+" sign"))<<15
}

func rawBlocks(t *rapid.T, f quant.Format, blocks int) []byte {
	raw := rapid.SliceOfN(rapid.Byte(), blocks*f.BlockBytes(), blocks*f.BlockBytes()).Draw(t, "raw")
	for b := range blocks {
		at := raw[b*f.BlockBytes():]
		binary.LittleEndian.PutUint16(at, halfBits(t, "scale"))
		if f == quant.Q41 || f == quant.Q4K {
			binary.LittleEndian.PutUint16(at[2:], halfBits(t, "minimum"))
		}
	}
	return raw
}

func TestTake8IsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := rawBlocks(t, quant.Q80, 3)
		want, q, scales := make([]float32, 96), make([]byte, 96), make([]float32, 3)
		if err := quant.Q80.Dequantize(want, raw); err != nil {
			t.Fatal(err)
		}
		if err := quant.Take8(q, scales, raw); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got := scales[i/32] * float32(int(q[i])-128); got != want[i] {
				t.Fatalf("value %d is %g, want %g", i, got, want[i])
			}
		}
	})
}

func TestTake4IsExact(t *testing.T) {
	t.Parallel()
	for _, f := range []quant.Format{quant.Q40, quant.Q41, quant.Q4K} {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				raw := rawBlocks(t, f, 2)
				n := 2 * f.BlockValues()
				want, q := make([]float32, n), make([]byte, n)
				scales, minima := make([]float32, n/32), make([]float32, n/32)
				if err := f.Dequantize(want, raw); err != nil {
					t.Fatal(err)
				}
				if err := quant.Take4(f, q, scales, minima, raw); err != nil {
					t.Fatal(err)
				}
				for i := range want {
					scale, minimum := float64(scales[i/32]), float64(minima[i/32])
					got := scale*float64(q[i]) + minimum
					// Only float32's rounding of the terms is allowed for.
					if math.Abs(got-float64(want[i])) > 1e-6*(16*math.Abs(scale)+math.Abs(minimum)) {
						t.Fatalf("value %d is %g, want %g (scale %g, minimum %g)", i, got, want[i], scale, minimum)
					}
				}
			})
		})
	}
}

func TestTakeRefusesDamagedBlocks(t *testing.T) {
	t.Parallel()
	nan := make([]byte, 34)
	binary.LittleEndian.PutUint16(nan, 0x7e00)
	if err := quant.Take8(make([]byte, 32), make([]float32, 1), nan); err == nil {
		t.Error("a Q8_0 block with a NaN scale was taken")
	}
	if err := quant.Take4(quant.Q41, make([]byte, 32), make([]float32, 1), make([]float32, 1), nan[:20]); err == nil {
		t.Error("a Q4_1 block with a NaN scale was taken")
	}
	if err := quant.Take4(quant.Q80, make([]byte, 32), make([]float32, 1), make([]float32, 1), nan); err == nil {
		t.Error("Q8_0 was taken for 4 bit")
	}
	if err := quant.Take4(quant.Q41, make([]byte, 31), make([]float32, 1), make([]float32, 1), nan[:20]); err == nil {
		t.Error("31 bytes took 32 values")
	}
	if err := quant.Take8(make([]byte, 32), make([]float32, 2), nan); err == nil {
		t.Error("2 scales for one block")
	}
}

func BenchmarkDequantizeQ41(b *testing.B) {
	raw, dst := make([]byte, 20*1024), make([]float32, 32*1024)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if err := quant.Q41.Dequantize(dst, raw); err != nil {
			b.Fatal(err)
		}
	}
}
