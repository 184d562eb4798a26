package quality

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
)

// Scorer gives the logits behind each token of a text; engines that run a real model are one.
type Scorer interface {
	Logits(ctx context.Context, tokens []int32) ([][]float32, error)
}

// Distance says how far a variant's predictions are from a reference's, over every position of texts that
// both read: the prompts and the reference's own answers.
type Distance struct {
	Positions int     `json:"positions"`
	MeanKL    float64 `json:"mean_kl"`  // nats, of the variant's distribution from the reference's
	TailKL    float64 `json:"tail_kl"`  // that of the worst position in a thousand
	SameTop   float64 `json:"same_top"` // share of positions with the same likeliest token

	// Perplexity of the prompts, which people wrote, and that of the reference.
	Perplexity          float64 `json:"perplexity"`
	ReferencePerplexity float64 `json:"reference_perplexity"`

	KL map[string]float64 `json:"kl"` // mean by kind of prompt
}

// Gates are what a distance may be at most, from the field's practice (see runtime/PERFORMANCE.md).
type Gates struct {
	MeanKL     float64 // nats
	SameTop    float64 // at least
	Perplexity float64 // growth, 0.01 is 1 %
}

// Fails lists the gates that d misses; none when it passes.
func (d Distance) Fails(g Gates) (missed []string) {
	if !(d.MeanKL <= g.MeanKL) { // also what is not a number
		missed = append(missed, fmt.Sprintf("mean KL %.4f, at most %.4f", d.MeanKL, g.MeanKL))
	}
	if !(d.SameTop >= g.SameTop) {
		missed = append(missed, fmt.Sprintf("same likeliest token %.1f %%, at least %.1f %%", 100*d.SameTop, 100*g.SameTop))
	}
	if !(d.Growth() <= g.Perplexity) {
		missed = append(missed, fmt.Sprintf("perplexity %+.2f %%, at most %+.2f %%", 100*d.Growth(), 100*g.Perplexity))
	}
	return missed
}

// Growth is how much larger the variant's perplexity is, as a share.
func (d Distance) Growth() float64 { return d.Perplexity/d.ReferencePerplexity - 1 }

// Measure reads every transcript of the reference with both and compares their predictions, about
// 4 bytes x vocabulary x tokens of the longest transcript at a time. progress may be nil.
func Measure(ctx context.Context, reference, variant Scorer, texts []Transcript, progress func(done, total int)) (Distance, error) {
	d := Distance{KL: map[string]float64{}}
	var kl []float64
	counts := map[string]int{}
	var same, words int
	var loss, lossReference float64
	for i, t := range texts {
		tokens := slices.Concat(t.Prompt, t.Tokens)
		want, err := reference.Logits(ctx, tokens)
		if err != nil {
			return d, fmt.Errorf("prompt %s: reference: %w", t.ID, err)
		}
		got, err := variant.Logits(ctx, tokens)
		if err != nil {
			return d, fmt.Errorf("prompt %s: %w", t.ID, err)
		}
		for p := range tokens {
			a, b := logSoftmax(want[p]), logSoftmax(got[p])
			x := divergence(a, b)
			kl, d.KL[t.Kind] = append(kl, x), d.KL[t.Kind]+x
			counts[t.Kind]++
			if largest(a) == largest(b) {
				same++
			}
			if p+1 < len(t.Prompt) {
				words, loss, lossReference = words+1, loss-b[tokens[p+1]], lossReference-a[tokens[p+1]]
			}
		}
		if progress != nil {
			progress(i+1, len(texts))
		}
	}
	if len(kl) == 0 || words == 0 {
		return d, fmt.Errorf("%d texts have nothing to predict", len(texts))
	}
	for kind, n := range counts {
		d.KL[kind] /= float64(n)
	}
	d.Positions, d.SameTop = len(kl), float64(same)/float64(len(kl))
	for _, x := range kl {
		d.MeanKL += x / float64(len(kl))
	}
	slices.SortFunc(kl, cmp.Compare[float64])
	d.TailKL = kl[len(kl)-1-len(kl)/1000]
	d.Perplexity, d.ReferencePerplexity = math.Exp(loss/float64(words)), math.Exp(lossReference/float64(words))
	return d, nil
}

func logSoftmax(logits []float32) []float64 {
	top := float64(slices.Max(logits))
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) - top)
	}
	norm := top + math.Log(sum)
	out := make([]float64, len(logits))
	for i, l := range logits {
		out[i] = float64(l) - norm
	}
	return out
}

// divergence is the Kullback-Leibler divergence of b from a, both natural logarithms of probabilities.
func divergence(a, b []float64) float64 {
	sum := 0.0
	for i, p := range a {
		if p > -40 { // what is less likely adds nothing
			sum += math.Exp(p) * (p - b[i])
		}
	}
	return max(sum, 0)
}

func largest(x []float64) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}
