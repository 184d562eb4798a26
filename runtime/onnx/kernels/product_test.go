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

// forms are all that the operators take.
var forms = []quant.Grouping{
	{Bits: 4}, {Bits: 4, Wide: true}, {Bits: 8}, {Bits: 8, Wide: true},
	{Bits: 4, BFloat16: true}, {Bits: 4, Wide: true, BFloat16: true}, {Bits: 8, BFloat16: true}, {Bits: 8, Wide: true, BFloat16: true},
}

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
				if form.BFloat16 {
					m.values = append(m.values, briefWeight(form.Bits, v, scales[b], minima[b]))
					m.sizes = append(m.sizes, math.Abs(m.values[len(m.values)-1]))
				} else if form.Bits == 4 {
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

// briefWeight is a weight of bfloat16 as blocks.h defines it.
func briefWeight(bits int, q byte, scale, minimum float32) float64 {
	const lift = float32(1) + float32(1.386)/512
	v := float32(float64(q)*float64(lift*scale) + float64(lift*minimum))
	if bits == 8 {
		v = float32(int(q)-128) * (lift * scale)
	}
	return float64(math.Float32frombits(math.Float32bits(v) &^ 0xffff))
}

// brief rounds activations to bfloat16.
func brief(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		if bits := math.Float32bits(v); math.Abs(float64(v)) >= 0x1p-50 {
			out[i] = float64(math.Float32frombits((bits + 0x7fff + bits>>16&1) &^ 0xffff))
		}
	}
	return out
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
		if m.form.BFloat16 {
			q, roundings = brief(x[row:row+m.columns]), float64(m.columns)
		}
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

// session of the product; more are the inputs behind the weights, with epsilon for them.
func (m matrix) session(t testing.TB, gated bool, more ...value) *ort.DynamicAdvancedSession {
	t.Helper()
	s, err := open(t, "BlockProduct", append([]value{{"x", 1, 2}, {"w", 2, 2}}, more...), []value{{"y", 1, 2}}, m.attributes(gated, len(more) > 0)...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (m matrix) attributes(gated, normed bool) []attribute {
	list := []attribute{{"rows", m.rows}, {"columns", m.columns}, {"bits", m.form.Bits}, {"wide", flag(m.form.Wide)}, {"bfloat16", flag(m.form.BFloat16)}, {"gated", flag(gated)}}
	if normed {
		list = append(list, attribute{"epsilon", float32(epsilon)})
	}
	return list
}

const epsilon = 1e-5

func flag(b bool) int {
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

// with runs a session on an input, the matrix and what stands behind it.
func (m matrix) with(s *ort.DynamicAdvancedSession, in ort.Value, more ...ort.Value) ([]float32, error) {
	bytes := m.form.Bytes(m.columns)
	w, err := ort.NewTensor(ort.NewShape(int64(len(m.packed)/bytes), int64(bytes)), m.packed)
	if err != nil {
		return nil, err
	}
	out := []ort.Value{nil}
	if err := s.Run(append([]ort.Value{in, w}, more...), out); err != nil {
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
	for _, form := range forms {
		for _, size := range [][2]int{{1, 32}, {40, 96}, {576, 1536}, {960, 576}} {
			t.Run(fmt.Sprintf("%+v %dx%d", form, size[0], size[1]), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				m := randomMatrix(t, r, form, size[0], size[1])
				tokens := 19 // more than a chunk of rows
				if m.rows < 100 {
					tokens = 117 // more than kernels take at once
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

// TestBlockProductNormed: a product that norms its input and adds to a residual gives the bits of one of the normed input,
// plus the residual, at every level and whatever rows stand beside.
func TestBlockProductNormed(t *testing.T) {
	defer func() { _ = kernels.Select(kernels.Level()) }()
	const seed = uint64(3)
	for _, form := range []quant.Grouping{{Bits: 4}, {Bits: 8, Wide: true}, {Bits: 4, BFloat16: true}} {
		for _, tokens := range []int{1, 5, 23} {
			r := rand.New(rand.NewPCG(seed, uint64(tokens)))
			m := randomMatrix(t, r, form, 56, 96)
			x, norm, residual := make([]float32, tokens*m.columns), make([]float32, m.columns), make([]float32, tokens*m.rows)
			for _, list := range [][]float32{x, norm, residual} {
				for i := range list {
					list[i] = float32(r.NormFloat64() * math.Exp(2*r.NormFloat64()))
				}
			}
			plain, normed, both := m.session(t, false), m.session(t, false, value{"norm", 1, 1}), m.session(t, false, value{"norm", 1, 1}, value{"residual", 1, 2})
			want, err := m.run(plain, rmsNorm(x, norm))
			if err != nil {
				t.Fatal(err)
			}
			for _, level := range kernels.Levels() {
				if err := kernels.Select(level); err != nil {
					t.Fatal(err)
				}
				in, weights := tensor(t, x, m.columns), tensor(t, norm)
				got, err := m.with(normed, in, weights)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%+v, %d tokens, level %s: %v, or a norm of its own gives other bits (seed %d)", form, tokens, level, err, seed)
				}
				got, err = m.with(both, in, weights, tensor(t, residual, m.rows))
				for i := range residual {
					if err != nil || got[i] != want[i]+residual[i] {
						t.Fatalf("%+v, %d tokens, level %s: %v, or value %d is not the sum with the residual (seed %d)", form, tokens, level, err, i, seed)
					}
				}
			}
		}
	}
}

// rmsNorm is the norm as kernels/blocks.h defines it.
func rmsNorm(x, weights []float32) (out []float32) {
	for row := 0; row < len(x); row += len(weights) {
		var sum [16]float32
		for i := range weights {
			sum[i%16] += x[row+i] * x[row+i]
		}
		for step := 8; step > 0; step /= 2 {
			for i := range step {
				sum[i] += sum[i+step]
			}
		}
		unit := 1 / float32(math.Sqrt(float64(sum[0]/float32(len(weights))+float32(epsilon))))
		for i, w := range weights {
			out = append(out, x[row+i]*unit*w)
		}
	}
	return out
}

func tensor(t testing.TB, v []float32, width ...int) ort.Value {
	t.Helper()
	shape := ort.NewShape(int64(len(v)))
	for _, w := range width {
		shape = ort.NewShape(int64(len(v)/w), int64(w))
	}
	out, err := ort.NewTensor(shape, v)
	if err != nil {
		t.Fatal(err)
	}
	return out
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
	for _, form := range []quant.Grouping{{Bits: 4}, {Bits: 8}, {Bits: 4, BFloat16: true}, {Bits: 8, BFloat16: true}} {
		m := randomMatrix(b, rand.New(rand.NewPCG(1, 1)), form, 1536, 576)
		s := m.session(b, false)
		for _, rows := range []int{1, 4, 16, 32, 60, 80} {
			b.Run(fmt.Sprintf("%dbits,bfloat16=%v/rows%d", form.Bits, form.BFloat16, rows), func(b *testing.B) { m.bench(b, s, rows) })
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
		list := m.attributes(false, false)
		for i := range list {
			if list[i].name == bad.name {
				list[i] = bad
			}
		}
		if _, err := open(t, "BlockProduct", []value{{"x", 1, 2}, {"w", 2, 2}}, []value{{"y", 1, 2}}, list...); err == nil {
			t.Errorf("%s of %v was taken", bad.name, bad.value)
		}
	}
	gated := randomMatrix(t, rand.New(rand.NewPCG(1, 1)), quant.Grouping{Bits: 4}, 32, 64)
	x := tensor(t, make([]float32, 64), 64)
	if _, err := gated.with(gated.session(t, true, value{"norm", 1, 1}, value{"residual", 1, 2}), x, tensor(t, make([]float32, 64)), tensor(t, make([]float32, 16), 16)); err == nil {
		t.Error("a residual was added to a gated product")
	}
	none, err := open(t, "BlockProduct", []value{{"x", 1, 2}, {"w", 2, 2}, {"norm", 1, 1}}, []value{{"y", 1, 2}}, m.attributes(false, false)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.with(none, x, tensor(t, make([]float32, 64))); err == nil {
		t.Error("a norm without epsilon was taken")
	}
	for _, bad := range []struct {
		ports []value
		more  []ort.Value
	}{
		{[]value{{"norm", 1, 1}}, []ort.Value{tensor(t, make([]float32, 63))}},
		{[]value{{"norm", 1, 1}, {"residual", 1, 2}}, []ort.Value{tensor(t, make([]float32, 64)), tensor(t, make([]float32, 15), 15)}},
	} {
		if _, err := m.with(m.session(t, false, bad.ports...), x, bad.more...); err == nil {
			t.Errorf("%v of other sizes were taken", bad.ports)
		}
	}
}

func TestBlockRows(t *testing.T) {
	for _, form := range forms {
		m := randomMatrix(t, rand.New(rand.NewPCG(1, 2)), form, 40, 96)
		s, err := open(t, "BlockRows", []value{{"ids", 7, 2}, {"w", 2, 2}}, []value{{"y", 1, 3}},
			m.attributes(false, false)...)
		if err != nil {
			t.Fatal(err)
		}
		ids := []int64{39, 0, 17, 16}
		got, err := m.rowsOf(s, ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			want, within := m.values[int(ids[i/96])*96+i%96], 1e-6
			if form.BFloat16 { // the rows are the file's own numbers
				within = 0x1p-7
			}
			if math.Abs(float64(v)-want) > within*math.Abs(want) {
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
