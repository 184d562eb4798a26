package convert_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/pelton-run/pelton/runtime/gguf"
)

// reference computes a model straight from the tensors of a GGUF file, the way the format means them:
// for llama rotary over neighboring pairs, for others over halves, no fusion, no cache, float64 sums.
type reference struct {
	t *testing.T
	f *gguf.File
	c tiny
}

func (r reference) weights(name string) []float32 {
	t, ok := r.f.Tensor(name + ".weight")
	if !ok {
		if t, ok = r.f.Tensor(name); !ok {
			r.t.Fatalf("no tensor %s", name)
		}
	}
	v, err := r.f.Floats(t, 0, t.Rows())
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// times multiplies each row of x, width values, with the matrix.
func (r reference) times(x []float64, width int, name string) []float64 {
	w := r.weights(name)
	rows := len(w) / width
	out := make([]float64, 0, len(x)/width*rows)
	for at := 0; at < len(x); at += width {
		for n := range rows {
			sum := 0.0
			for k := range width {
				sum += x[at+k] * float64(w[n*width+k])
			}
			out = append(out, sum)
		}
	}
	return out
}

func (r reference) norm(x []float64, name string) []float64 {
	w := r.weights(name)
	out := make([]float64, len(x))
	for at := 0; at < len(x); at += len(w) {
		sum := 0.0
		for i := range w {
			sum += x[at+i] * x[at+i]
		}
		scale := 1 / math.Sqrt(sum/float64(len(w))+1e-5)
		for i := range w {
			out[at+i] = x[at+i] * scale * float64(w[i])
		}
	}
	return out
}

// rope turns pairs (2i, 2i+1) of each head, or (i, i+dim/2).
func (r reference) rope(x []float64, heads int) {
	dim := r.c.headDim
	var factors []float32
	if r.c.ropeFreqs {
		factors = r.weights("rope_freqs")
	}
	for at := 0; at < len(x); at += dim {
		position := float64(at / dim / heads)
		for i := range dim / 2 {
			angle := position * math.Pow(100, -2*float64(i)/float64(dim))
			if factors != nil {
				angle /= float64(factors[i])
			}
			if r.c.ropeScale != 0 {
				angle /= float64(r.c.ropeScale)
			}
			p, q := at+2*i, at+2*i+1
			if r.c.arch != "" {
				p, q = at+i, at+i+dim/2
			}
			a, b := x[p], x[q]
			x[p], x[q] = a*math.Cos(angle)-b*math.Sin(angle), a*math.Sin(angle)+b*math.Cos(angle)
		}
	}
}

func (r reference) attend(q, k, v []float64) []float64 {
	c := r.c
	s := len(q) / (c.heads * c.headDim)
	out := make([]float64, len(q))
	for p := range s {
		for h := range c.heads {
			group := h / (c.heads / c.kvHeads)
			query := q[(p*c.heads+h)*c.headDim:][:c.headDim]
			score, total := make([]float64, p+1), 0.0
			for o := range score {
				dot := 0.0
				for i, x := range query {
					dot += x * k[(o*c.kvHeads+group)*c.headDim+i]
				}
				score[o] = math.Exp(dot / math.Sqrt(float64(c.headDim)))
				total += score[o]
			}
			for o := range score {
				for i := range c.headDim {
					out[(p*c.heads+h)*c.headDim+i] += score[o] / total * v[(o*c.kvHeads+group)*c.headDim+i]
				}
			}
		}
	}
	return out
}

func plus(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] + b[i]
	}
	return out
}

func (r reference) biased(x []float64, name string) []float64 {
	w := r.weights(name)
	out := make([]float64, len(x))
	for i := range x {
		out[i] = x[i] + float64(w[i%len(w)])
	}
	return out
}

// logits of every position.
func (r reference) logits(ids []int64) []float64 {
	c := r.c
	table := r.weights("token_embd")
	var x []float64
	for _, id := range ids {
		for _, v := range table[int(id)*c.hidden:][:c.hidden] {
			x = append(x, float64(v))
		}
	}
	for i := range c.layers {
		p := "blk." + strconv.Itoa(i) + "."
		n := r.norm(x, p+"attn_norm")
		q, k, v := r.times(n, c.hidden, p+"attn_q"), r.times(n, c.hidden, p+"attn_k"), r.times(n, c.hidden, p+"attn_v")
		switch c.arch {
		case "qwen2":
			q, k, v = r.biased(q, p+"attn_q.bias"), r.biased(k, p+"attn_k.bias"), r.biased(v, p+"attn_v.bias")
		case "qwen3":
			q, k = r.norm(q, p+"attn_q_norm"), r.norm(k, p+"attn_k_norm")
		}
		r.rope(q, c.heads)
		r.rope(k, c.kvHeads)
		x = plus(x, r.times(r.attend(q, k, v), c.heads*c.headDim, p+"attn_output"))
		n = r.norm(x, p+"ffn_norm")
		gate, up := r.times(n, c.hidden, p+"ffn_gate"), r.times(n, c.hidden, p+"ffn_up")
		for j, g := range gate {
			gate[j] = g / (1 + math.Exp(-g)) * up[j]
		}
		x = plus(x, r.times(gate, c.ffn, p+"ffn_down"))
	}
	head := "output"
	if c.tied {
		head = "token_embd"
	}
	return r.times(r.norm(x, "output_norm"), c.hidden, head)
}
