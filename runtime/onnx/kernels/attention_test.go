//go:build cgo && (linux || darwin)

package kernels_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/onnx/kernels"
)

// attention is a sequence of random tokens and the operator that sees them.
type attention struct {
	heads, kvHeads, dim, width int
	bfloat16                   bool // the numbers of the cache, with width 2
	tokens, slots, capacity    int
	qkv, cos, sin              []float32
	session                    *ort.DynamicAdvancedSession
}

// numbers are those of a cache.
type numbers struct {
	width    int
	bfloat16 bool
	within   float64 // what comes out is right, for inputs of about 1
}

var caches = []numbers{{4, false, 1e-5}, {2, false, 5e-3}, {2, true, 4e-2}}

func (a attention) row() int { return (a.heads + 2*a.kvHeads) * a.dim }

func newAttention(t testing.TB, r *rand.Rand, heads, kvHeads, dim int, of numbers, tokens int) *attention {
	t.Helper()
	a := &attention{heads: heads, kvHeads: kvHeads, dim: dim, width: of.width, bfloat16: of.bfloat16, tokens: tokens, slots: 3, capacity: (tokens + 15) / 16 * 16}
	for p := range tokens {
		for i := range dim / 2 {
			angle := float64(p) * math.Pow(10000, -2*float64(i)/float64(dim))
			a.cos, a.sin = append(a.cos, float32(math.Cos(angle))), append(a.sin, float32(math.Sin(angle)))
		}
	}
	for range tokens * a.row() {
		a.qkv = append(a.qkv, float32(r.NormFloat64()))
	}
	var err error
	a.session, err = open(t, "Attention", []value{{"qkv", 1, 2}, {"keys", 2, 3}, {"values", 2, 3}, {"places", 6, 2}, {"cos", 1, 2}, {"sin", 1, 2}}, []value{{"out", 1, 2}},
		attribute{"heads", heads}, attribute{"kv_heads", kvHeads}, attribute{"width", of.width}, attribute{"bfloat16", flag(of.bfloat16)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// cache is one for the operator, full of numbers that are none.
func (a *attention) cache() (keys, values []byte) {
	size := a.slots * a.kvHeads * a.capacity * a.dim * a.width
	return slices.Repeat([]byte{0xff}, size), slices.Repeat([]byte{0xff}, size)
}

// run feeds tokens from to to-1 of the sequence in slot, and the same sequence's token `beside` in another
// slot unless it is negative; it returns the rows of the first.
func (a *attention) run(keys, values []byte, slot, from, to int) ([]float32, error) {
	var places []int32
	for p := from; p < to; p++ {
		places = append(places, int32(slot), int32(p))
	}
	return a.call(keys, values, places, a.qkv[from*a.row():to*a.row()])
}

func (a *attention) call(keys, values []byte, places []int32, qkv []float32) ([]float32, error) {
	n := int64(len(places) / 2)
	cache := ort.NewShape(int64(a.slots), int64(a.kvHeads), int64(a.capacity*a.dim*a.width))
	table := ort.NewShape(int64(len(a.cos)/(a.dim/2)), int64(a.dim/2))
	var inputs []ort.Value
	defer func() {
		for _, v := range inputs {
			_ = v.Destroy()
		}
	}()
	var err error
	add := func(v ort.Value, e error) {
		if e != nil {
			err = e
			return
		}
		inputs = append(inputs, v)
	}
	add(ort.NewTensor(ort.NewShape(n, int64(len(qkv))/n), qkv))
	add(ort.NewTensor(cache, keys))
	add(ort.NewTensor(cache, values))
	add(ort.NewTensor(ort.NewShape(n, 2), places))
	add(ort.NewTensor(table, a.cos))
	add(ort.NewTensor(table, a.sin))
	if err != nil {
		return nil, err
	}
	out := []ort.Value{nil}
	if err := a.session.Run(inputs, out); err != nil {
		return nil, err
	}
	defer func() { _ = out[0].Destroy() }()
	return slices.Clone(out[0].(*ort.Tensor[float32]).GetData()), nil
}

// reference is the definition, in double precision.
func (a *attention) reference() []float64 {
	turned := func(x []float32, p int) []float64 {
		y, half := make([]float64, a.dim), a.dim/2
		for i := range half {
			c, s := float64(a.cos[p*half+i]), float64(a.sin[p*half+i])
			y[i], y[half+i] = float64(x[i])*c-float64(x[half+i])*s, float64(x[half+i])*c+float64(x[i])*s
		}
		return y
	}
	var keys [][]float64 // of each token and head
	for p := range a.tokens {
		for h := range a.kvHeads {
			keys = append(keys, turned(a.qkv[p*a.row()+(a.heads+h)*a.dim:][:a.dim], p))
		}
	}
	var out []float64
	for p := range a.tokens {
		for h := range a.heads {
			q, g := turned(a.qkv[p*a.row()+h*a.dim:][:a.dim], p), h/(a.heads/a.kvHeads)
			weights, total, sums := make([]float64, p+1), 0.0, make([]float64, a.dim)
			for o := range weights {
				for i, x := range q {
					weights[o] += x * keys[o*a.kvHeads+g][i] / math.Sqrt(float64(a.dim))
				}
			}
			most := slices.Max(weights)
			for o, w := range weights {
				w = math.Exp(w - most)
				total += w
				for i, v := range a.qkv[o*a.row()+(a.heads+a.kvHeads+g)*a.dim:][:a.dim] {
					sums[i] += w * float64(v)
				}
			}
			for _, s := range sums {
				out = append(out, s/total)
			}
		}
	}
	return out
}

// TestAttention compares with the definition, and looks whether a row's bits depend on the cut of its
// sequence, on the sequences beside it, or on the level. It selects levels, so nothing else of this package
// may run beside it.
func TestAttention(t *testing.T) {
	defer func() { _ = kernels.Select(kernels.Level()) }()
	const seed = uint64(1)
	for _, c := range [][4]int{{9, 3, 64, 300}, {14, 2, 64, 70}, {4, 4, 16, 140}, {16, 8, 128, 40}, {8, 2, 80, 40}, {25, 1, 48, 40}} {
		for _, of := range caches {
			if of.bfloat16 && c[2]%32 != 0 {
				continue
			}
			t.Run(fmt.Sprintf("%v of %+v", c, of), func(t *testing.T) {
				a := newAttention(t, rand.New(rand.NewPCG(seed, 1)), c[0], c[1], c[2], of, c[3])
				want := a.reference()
				var first []float32
				for _, level := range kernels.Levels() {
					if err := kernels.Select(level); err != nil {
						t.Fatal(err)
					}
					keys, values := a.cache()
					got, err := a.run(keys, values, 1, 0, a.tokens)
					if err != nil {
						t.Fatal(err)
					}
					for i, v := range want {
						if !(math.Abs(float64(got[i])-v) <= of.within) {
							t.Fatalf("level %s: number %d of token %d is %g, want %g (seed %d)", level, i%(c[0]*c[2]), i/(c[0]*c[2]), got[i], v, seed)
						}
					}
					if first == nil {
						first = got
					}
					if !slices.Equal(got, first) {
						t.Errorf("level %s differs from %s (seed %d)", level, kernels.Levels()[0], seed)
					}
					a.cuts(t, got, rand.New(rand.NewPCG(seed, 2)))
				}
			})
		}
	}
}

// cuts feeds the sequence in random pieces, many of one token, beside the same one in another slot that is
// at another place.
func (a *attention) cuts(t *testing.T, want []float32, r *rand.Rand) {
	t.Helper()
	keys, values := a.cache()
	var at [2]int
	for at[0] < a.tokens || at[1] < a.tokens {
		var places []int32
		var qkv, expected []float32
		for slot := range at {
			n := min(a.tokens-at[slot], []int{0, 1, 1, 2, r.IntN(40)}[r.IntN(5)])
			for p := at[slot]; p < at[slot]+n; p++ {
				places = append(places, int32(2*slot), int32(p))
			}
			qkv = append(qkv, a.qkv[at[slot]*a.row():][:n*a.row()]...)
			expected = append(expected, want[at[slot]*a.heads*a.dim:][:n*a.heads*a.dim]...)
			at[slot] += n
		}
		if len(places) == 0 {
			continue
		}
		got, err := a.call(keys, values, places, qkv)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, expected) {
			t.Fatalf("tokens at %v differ from those of the whole sequence", places)
		}
	}
}

func TestAttentionRefuses(t *testing.T) {
	a := newAttention(t, rand.New(rand.NewPCG(1, 1)), 4, 2, 16, caches[0], 20)
	keys, values := a.cache()
	for _, places := range [][]int32{{3, 0}, {-1, 0}, {0, -1}, {0, 20}, {0, 1 << 30}, {0, 3, 0, 3}, {0, 3, 0, 5}, {0, 3, 0, 2}} {
		if _, err := a.call(keys, values, places, a.qkv[:len(places)/2*a.row()]); err == nil {
			t.Errorf("places %v were taken", places)
		}
	}
	if _, err := a.call(keys, values, []int32{0, 0}, a.qkv[:a.row()-8]); err == nil {
		t.Error("a row that is too short was taken")
	}
	for _, bad := range []attribute{{"heads", 5}, {"kv_heads", 0}, {"width", 3}, {"bfloat16", 1}} {
		list := []attribute{{"heads", 4}, {"kv_heads", 2}, {"width", 4}, {"bfloat16", 0}}
		for i := range list {
			if list[i].name == bad.name {
				list[i] = bad
			}
		}
		if _, err := open(t, "Attention", []value{{"qkv", 1, 2}, {"keys", 2, 3}, {"values", 2, 3}, {"places", 6, 2}, {"cos", 1, 2}, {"sin", 1, 2}}, []value{{"out", 1, 2}}, list...); err == nil {
			t.Errorf("%s of %d was taken", bad.name, bad.value)
		}
	}
}

// BenchmarkAttention is one layer of the default model: rows that decode behind so many tokens, and a
// prompt's chunk.
func BenchmarkAttention(b *testing.B) {
	for _, of := range caches {
		for _, c := range []struct{ rows, past, tokens int }{{1, 100, 1}, {32, 100, 1}, {32, 1000, 1}, {1, 0, 64}, {1, 1000, 64}} {
			b.Run(fmt.Sprintf("width%d,bfloat16=%v/rows%d/past%d/tokens%d", of.width, of.bfloat16, c.rows, c.past, c.tokens), func(b *testing.B) {
				a := newAttention(b, rand.New(rand.NewPCG(1, 1)), 9, 3, 64, of, c.past+c.tokens)
				a.slots = c.rows
				keys, values := a.cache()
				clear(keys)
				clear(values)
				var places []int32
				var qkv []float32
				for slot := range c.rows {
					for p := c.past; p < c.past+c.tokens; p++ {
						places = append(places, int32(slot), int32(p))
						qkv = append(qkv, a.qkv[p*a.row():][:a.row()]...)
					}
				}
				for b.Loop() {
					if _, err := a.call(keys, values, places, qkv); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
