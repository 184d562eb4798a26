//go:build cgo && (linux || darwin)

package kernels_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/onnx/kernels"
	"github.com/pelton-run/pelton/runtime/quant"
)

// matrix is weights as numbers and as the operator takes them.
type matrix struct {
	form          quant.Grouping
	rows, columns int
	values        []float64
	sizes         []float64 // of the terms of which the values are made
	packed        []byte
}

func randomMatrix(t testing.TB, r *rand.Rand, form quant.Grouping, rows, columns int) matrix {
	t.Helper()
	m := matrix{form: form, rows: rows, columns: columns}
	for from := 0; from < rows; from += quant.Group {
		n := min(quant.Group, rows-from)
		q, scales, minima := make([]byte, n*columns), make([]float32, n*columns/quant.Block), make([]float32, n*columns/quant.Block)
		for b := range scales {
			scales[b] = quant.Half(uint16(0x1000 + r.IntN(0x2000)))
			minima[b] = -quant.Half(uint16(0x2000 + r.IntN(0x2000)))
			for i := range quant.Block {
				v := byte(r.IntN(1 << form.Bits))
				q[b*quant.Block+i] = v
				if form.Bits == 4 {
					m.values = append(m.values, float64(scales[b])*float64(v)+float64(minima[b]))
					m.sizes = append(m.sizes, float64(scales[b])*float64(v)+math.Abs(float64(minima[b])))
				} else {
					m.values = append(m.values, float64(scales[b])*float64(int(v)-128))
					m.sizes = append(m.sizes, math.Abs(m.values[len(m.values)-1]))
				}
			}
		}
		group := make([]byte, form.Bytes(columns))
		if err := form.Pack(group, q, scales, minima, columns); err != nil {
			t.Fatal(err)
		}
		m.packed = append(m.packed, group...)
	}
	return m
}

// quantized rounds activations as the operator does: to whole numbers up to most in each block.
func quantized(x []float32, most float32) []float64 {
	out := make([]float64, len(x))
	for from := 0; from < len(x); from += quant.Block {
		peak := float32(0)
		for _, v := range x[from : from+quant.Block] {
			peak = max(peak, float32(math.Abs(float64(v))))
		}
		for i, v := range x[from : from+quant.Block] {
			if peak > 0 {
				out[from+i] = math.RoundToEven(float64(v*(most/peak))) * float64(peak/most)
			}
		}
	}
	return out
}

// product is the definition, and how far float32 may be from it: each of some operations for a block, and of the sum of
// all blocks, rounds by at most 2^-24 of the sizes of all terms.
func (m matrix) product(x []float32) (out, off []float64) {
	roundings := float64(m.columns/quant.Block + 8)
	most := float32(127)
	if m.form.Bits == 8 {
		most = 32767
	}
	for row := 0; row < len(x); row += m.columns {
		q := quantized(x[row:row+m.columns], most)
		for r := range m.rows {
			sum, size := 0.0, 0.0
			for c, v := range q {
				sum += v * m.values[r*m.columns+c]
				size += math.Abs(v) * m.sizes[r*m.columns+c]
			}
			out, off = append(out, sum), append(off, size*roundings/(1<<24))
		}
	}
	return out, off
}

// session of the product.
func (m matrix) session(t testing.TB, gated bool) *ort.DynamicAdvancedSession {
	t.Helper()
	s, err := open(t, "BlockProduct", []value{{"x", 1, 2}, {"w", 2, 2}}, []value{{"y", 1, 2}},
		attribute{"rows", int64(m.rows)}, attribute{"columns", int64(m.columns)}, attribute{"bits", int64(m.form.Bits)},
		attribute{"wide", flag(m.form.Wide)}, attribute{"gated", flag(gated)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (m matrix) run(s *ort.DynamicAdvancedSession, x []float32) ([]float32, error) {
	in, err := ort.NewTensor(ort.NewShape(int64(len(x)/m.columns), int64(m.columns)), x)
	if err != nil {
		return nil, err
	}
	return m.with(s, in)
}

// with runs a session on an input and the matrix.
func (m matrix) with(s *ort.DynamicAdvancedSession, in ort.Value) ([]float32, error) {
	bytes := m.form.Bytes(m.columns)
	w, err := ort.NewTensor(ort.NewShape(int64(len(m.packed)/bytes), int64(bytes)), m.packed)
	if err != nil {
		return nil, err
	}
	out := []ort.Value{nil}
	if err := s.Run([]ort.Value{in, w}, out); err != nil {
		return nil, err
	}
	return out[0].(*ort.Tensor[float32]).GetData(), nil
}

// TestBlockProduct checks sums, the gate, and that neither the level nor the rows beside it change a bit of
// a row. It selects levels, so nothing else of this package may run beside it.
func TestBlockProduct(t *testing.T) {
	t.Log(kernels.Levels())
	defer func() { _ = kernels.Select(kernels.Level()) }()
	const seed = uint64(1)
	for _, form := range []quant.Grouping{{Bits: 4}, {Bits: 4, Wide: true}, {Bits: 8}, {Bits: 8, Wide: true}} {
		for _, size := range [][2]int{{1, 32}, {40, 96}, {576, 1536}, {960, 576}} {
			t.Run(fmt.Sprintf("%d bits wide %v %dx%d", form.Bits, form.Wide, size[0], size[1]), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				m := randomMatrix(t, r, form, size[0], size[1])
				tokens := 19 // more than kernels for many rows take at once
				if m.rows < 100 {
					tokens = 37
				}
				x := make([]float32, tokens*m.columns)
				for i := range x {
					x[i] = float32(r.NormFloat64() * math.Exp(3*r.NormFloat64()))
				}
				clear(x[2*m.columns : 2*m.columns+quant.Block]) // a block of zeros
				m.check(t, x, seed)
			})
		}
	}
}

func (m matrix) check(t *testing.T, x []float32, seed uint64) {
	s := m.session(t, false)
	want, off := m.product(x)
	var first []float32
	for _, level := range kernels.Levels() {
		if err := kernels.Select(level); err != nil {
			t.Fatal(err)
		}
		got, err := m.run(s, x)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = got
			for i := range want {
				if !(math.Abs(float64(got[i])-want[i]) <= off[i]) {
					t.Fatalf("value %d of row %d is %g, want %g (seed %d)", i%m.rows, i/m.rows, got[i], want[i], seed)
				}
			}
		}
		if !slices.Equal(got, first) {
			t.Errorf("level %s differs from %s (seed %d)", level, kernels.Levels()[0], seed)
		}
		for row := range len(x) / m.columns {
			alone, err := m.run(s, x[row*m.columns:][:m.columns])
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(alone, got[row*m.rows:][:m.rows]) {
				t.Errorf("level %s: row %d alone has other bits than beside others (seed %d)", level, row, seed)
			}
		}
		if m.rows%(2*quant.Group) == 0 {
			m.checkGate(t, x, got, level, seed)
		}
	}
}

func (m matrix) checkGate(t *testing.T, x, plain []float32, level string, seed uint64) {
	got, err := m.run(m.session(t, true), x)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		row, c := i/(m.rows/2), i%(m.rows/2)
		at := row*m.rows + c/quant.Group*2*quant.Group + c%quant.Group
		gate, up := float64(plain[at]), float64(plain[at+quant.Group])
		want := gate / (1 + math.Exp(-gate)) * up
		if math.Abs(float64(v)-want) > 1e-6*math.Abs(want)+1e-30*math.Abs(up) {
			t.Fatalf("level %s: gate %g with up %g gives %g, want %g (seed %d)", level, gate, up, v, want, seed)
		}
	}
}

// BenchmarkBlockProduct multiplies rows of activations with a matrix of the default model, at each level that the
// processor has, by turns.
func BenchmarkBlockProduct(b *testing.B) {
	defer func() { _ = kernels.Select(kernels.Level()) }()
	for _, bits := range []int{4, 8} {
		m := randomMatrix(b, rand.New(rand.NewPCG(1, 1)), quant.Grouping{Bits: bits}, 1536, 576)
		s := m.session(b, false)
		for _, rows := range []int{1, 4, 16, 32, 60, 64} {
			b.Run(fmt.Sprintf("%dbits/rows%d", bits, rows), func(b *testing.B) { m.bench(b, s, rows) })
		}
	}
}

// bench times the product of rows of activations at each level, by turns.
func (m matrix) bench(b *testing.B, s *ort.DynamicAdvancedSession, rows int) {
	x, best := make([]float32, rows*m.columns), map[string]time.Duration{}
	for b.Loop() {
		for _, level := range kernels.Levels()[1:] {
			if err := kernels.Select(level); err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			if _, err := m.run(s, x); err != nil {
				b.Fatal(err)
			}
			if took := time.Since(start); best[level] == 0 || took < best[level] {
				best[level] = took
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for level, took := range best {
		b.ReportMetric(float64(len(x)*m.rows)/float64(took.Nanoseconds()), level+"-GMAC/s")
	}
}

func TestBlockProductRefuses(t *testing.T) {
	m := randomMatrix(t, rand.New(rand.NewPCG(1, 1)), quant.Grouping{Bits: 4}, 16, 64)
	s := m.session(t, false)
	wrong := m
	wrong.columns = 32
	if _, err := wrong.run(s, make([]float32, 32)); err == nil {
		t.Error("an input of 32 columns was multiplied with 64")
	}
	if out, err := m.run(s, nil); err == nil && len(out) != 0 {
		t.Errorf("no rows gave %v", out)
	}
	for _, bad := range []attribute{{"columns", 33}, {"bits", 5}, {"rows", 0}, {"gated", 1}} {
		list := []attribute{{"rows", 16}, {"columns", 64}, {"bits", 4}, {"wide", 0}, {"gated", 0}}
		for i := range list {
			if list[i].name == bad.name {
				list[i] = bad
			}
		}
		if _, err := open(t, "BlockProduct", []value{{"x", 1, 2}, {"w", 2, 2}}, []value{{"y", 1, 2}}, list...); err == nil {
			t.Errorf("%s of %d was taken", bad.name, bad.value)
		}
	}
}

func TestBlockRows(t *testing.T) {
	for _, form := range []quant.Grouping{{Bits: 4}, {Bits: 4, Wide: true}, {Bits: 8}, {Bits: 8, Wide: true}} {
		m := randomMatrix(t, rand.New(rand.NewPCG(1, 2)), form, 40, 96)
		s, err := open(t, "BlockRows", []value{{"ids", 7, 2}, {"w", 2, 2}}, []value{{"y", 1, 3}},
			attribute{"rows", 40}, attribute{"columns", 96}, attribute{"bits", int64(form.Bits)}, attribute{"wide", flag(form.Wide)}, attribute{"gated", 0})
		if err != nil {
			t.Fatal(err)
		}
		ids := []int64{39, 0, 17, 16}
		got, err := m.rowsOf(s, ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if want := m.values[int(ids[i/96])*96+i%96]; math.Abs(float64(v)-want) > 1e-6*math.Abs(want) {
				t.Fatalf("%+v: value %d is %g, want %g", form, i, v, want)
			}
		}
		for _, bad := range []int64{-1, 40} {
			if _, err := m.rowsOf(s, []int64{0, bad}); err == nil {
				t.Errorf("row %d of 40 was read", bad)
			}
		}
	}
}

func (m matrix) rowsOf(s *ort.DynamicAdvancedSession, ids []int64) ([]float32, error) {
	in, err := ort.NewTensor(ort.NewShape(1, int64(len(ids))), ids)
	if err != nil {
		return nil, err
	}
	return m.with(s, in)
}
