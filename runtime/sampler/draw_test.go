package sampler

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestExp(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		x := -tail * r.Float64()
		if i%1000 == 0 { // where it changes to another power
			x = -float64(i/1000) * math.Ln2 / 128 * 3
		}
		if x = max(x, -tail); math.Abs(exp(x)/math.Exp(x)-1) > 1e-14 {
			t.Fatalf("e^%g is %g, want %g", x, exp(x), math.Exp(x))
		}
	}
	if exp(0) != 1 {
		t.Errorf("e^0 is %g", exp(0))
	}
}

// TestDraws counts what is drawn and compares it with the distribution, computed by sorting: what top-k, top-p and
// min-p leave of it, in this order.
func TestDraws(t *testing.T) {
	t.Parallel()
	const vocab, draws = 300, 15_000
	r := rand.New(rand.NewPCG(3, 4))
	logits := make([]float32, vocab)
	for i := range logits {
		logits[i] = float32(r.NormFloat64() * 2)
	}
	for name, p := range map[string]Params{
		"all": {Temperature: 1}, "cold": {Temperature: 0.3}, "hot": {Temperature: 3}, "top-k": {Temperature: 1, TopK: 20},
		"top-p": {Temperature: 1, TopP: 0.7}, "min-p": {Temperature: 1, MinP: 0.2}, "each": {Temperature: 0.8, TopK: 100, TopP: 0.9, MinP: 0.05},
	} {
		want := distributionOf(logits, p)
		got := make([]int, vocab)
		p.Seed = 11
		s := New(p, nil)
		scratch := make([]float32, vocab)
		for i := range draws {
			copy(scratch, logits)
			got[s.Sample(scratch, i).Token]++
		}
		chi, classes := 0.0, 0
		for i, n := range got {
			switch e := want[i] * draws; {
			case want[i] == 0 && n > 0:
				t.Errorf("%s: token %d was drawn %d times, it is cut", name, i, n)
			case e >= 5:
				chi += (float64(n) - e) * (float64(n) - e) / e
				classes++
			}
		}
		if most := float64(classes) + 5*math.Sqrt(2*float64(classes)) + 5; chi > most {
			t.Errorf("%s: chi square %.0f over %d tokens, want at most %.0f", name, chi, classes, most)
		}
	}
}

// distributionOf is what a sampler should draw from, the plain way.
func distributionOf(logits []float32, p Params) []float64 {
	p = p.cleaned()
	ids := make([]int, len(logits))
	weight, total := make([]float64, len(logits)), 0.0
	for i, l := range logits {
		ids[i] = i
		weight[i] = math.Exp(float64(l) / float64(p.Temperature))
	}
	slices.SortStableFunc(ids, func(a, b int) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return a - b
	})
	if p.TopK > 0 {
		ids = ids[:min(p.TopK, len(ids))]
	}
	for _, id := range ids {
		total += weight[id]
	}
	sum := 0.0
	for i, id := range ids {
		if sum += weight[id]; sum >= float64(p.TopP)*total {
			ids = ids[:i+1]
			break
		}
	}
	out, kept := make([]float64, len(logits)), 0.0
	for _, id := range ids {
		if weight[id] >= float64(p.MinP)*weight[ids[0]] {
			out[id] = weight[id]
			kept += weight[id]
		}
	}
	for i := range out {
		out[i] /= kept
	}
	return out
}
