package sampler

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestReference compares with the definitions of OpenAI's and vLLM's documentation, written down plainly in float64.
// Logits and what is added to them are multiples of 1/64, so that float32 holds them exactly and many are equal.
func TestReference(t *testing.T) {
	t.Parallel()
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 1))
		pick := func(values ...float32) float32 { return values[r.IntN(len(values))] }
		vocab := 1 + r.IntN(600)
		p := Params{
			Temperature: pick(0, 0, 1e-9, 1e-5, 0.25, 0.5, 1, 1, 2), TopP: pick(0, 1, 1, 0.001, 0.3, 0.75, 0.9375), MinP: pick(0, 0, 0.03, 0.5, 1),
			TopK: []int{0, 0, 1, 2, 40, vocab, vocab + 1}[r.IntN(7)], RepetitionPenalty: pick(0, 1, 1, 2, 0.5, 4),
			PresencePenalty: pick(0, 0, 0.5, -2), FrequencyPenalty: pick(0, 0, 0.25, -1.5), Seed: seed, TopLogprobs: r.IntN(8), Logprobs: r.IntN(2) == 0,
		}
		if r.IntN(2) == 0 {
			p.LogitBias = map[int32]float32{}
			for range r.IntN(5) {
				p.LogitBias[int32(r.IntN(vocab+3))] = pick(-100, -1.5, 0.25, 3, 100)
			}
		}
		tokens := func(n int) (out []int32) {
			for range n {
				out = append(out, int32(r.IntN(vocab)))
			}
			return out
		}
		prompt, said := tokens(r.IntN(30)), tokens(r.IntN(30))
		spread := 64 * math.Pow(4, float64(r.IntN(4)-1))
		logits := make([]float32, vocab)
		for i := range logits {
			logits[i] = float32(math.Round(r.NormFloat64()*spread) / 64)
		}
		s := New(p, prompt)
		for _, id := range said {
			s.Accept(id)
		}
		got := s.Sample(slices.Clone(logits), len(said))
		if err := plain(logits, p, prompt, said, uniform(p.Seed, len(said)), got); err != nil {
			t.Fatalf("case %d, %+v, %d logits: %v", seed, p, vocab, err)
		}
	}
}

// plain says how got is not what the definitions give for the random number u.
func plain(logits []float32, p Params, prompt, said []int32, u float64, got Choice) error {
	z, own := make([]float64, len(logits)), make([]float64, len(logits))
	for i, l := range logits {
		z[i], own[i] = float64(l), float64(l)
	}
	for id, b := range p.LogitBias {
		if int(id) < len(z) {
			z[id] += float64(b)
		}
	}
	count := map[int32]int{}
	for _, id := range said {
		count[id]++
	}
	for i := range z {
		c := count[int32(i)]
		if rp := float64(p.RepetitionPenalty); rp > 0 && (c > 0 || slices.Contains(prompt, int32(i))) {
			if z[i] > 0 {
				z[i] /= rp
			} else {
				z[i] *= rp
			}
		}
		if c > 0 {
			z[i] -= float64(p.PresencePenalty) + float64(c)*float64(p.FrequencyPenalty)
		}
	}
	order := byValue(z)
	if p.Temperature < 1e-6 {
		if got.Token != order[0] {
			return fmt.Errorf("token %d, the largest is %d", got.Token, order[0])
		}
	} else if err := drawn(z, order, p, u, got.Token); err != nil {
		return err
	}
	// Log probabilities are the model's own.
	sum := 0.0
	best := byValue(own)
	for _, v := range own {
		sum += math.Exp(v - own[best[0]])
	}
	of := func(id int32) float64 { return own[id] - own[best[0]] - math.Log(sum) }
	wrong := func(got float32, want float64) bool { return math.Abs(float64(got)-want) > 1e-6*(1+math.Abs(want)) }
	if p.Logprobs || p.TopLogprobs > 0 {
		if wrong(got.Logprob, of(got.Token)) {
			return fmt.Errorf("log probability %g, want %g", got.Logprob, of(got.Token))
		}
	}
	if len(got.Top) != min(p.TopLogprobs, len(logits)) {
		return fmt.Errorf("%d candidates of %d", len(got.Top), p.TopLogprobs)
	}
	for i, c := range got.Top {
		if c.Token != best[i] || wrong(c.Logprob, of(best[i])) {
			return fmt.Errorf("candidate %d is %+v, want token %d with %g", i, c, best[i], of(best[i]))
		}
	}
	return nil
}

// drawn says how token is not drawn by u from what temperature, top-k, top-p and min-p leave, in the order of ids.
func drawn(z []float64, order []int32, p Params, u float64, token int32) error {
	weight := func(id int32) float64 { return math.Exp((z[id] - z[order[0]]) / float64(p.Temperature)) }
	kept := order
	if p.TopK > 0 {
		kept = kept[:min(p.TopK, len(kept))]
	}
	total := 0.0
	for _, id := range kept {
		total += weight(id)
	}
	if p.TopP > 0 && p.TopP < 1 {
		sum := 0.0
		for i, id := range kept {
			if sum += weight(id); sum >= float64(p.TopP)*total*(1-1e-12) {
				kept = kept[:i+1]
				break
			}
		}
	}
	kept = slices.DeleteFunc(slices.Clone(kept), func(id int32) bool { return weight(id) < float64(p.MinP)*(1-1e-12) })
	slices.Sort(kept)
	total = 0
	for _, id := range kept {
		total += weight(id)
	}
	below := 0.0
	for _, id := range kept {
		if id == token {
			if u*total < below-1e-9*total || u*total > below+weight(id)+1e-9*total {
				return fmt.Errorf("token %d holds [%g, %g) of %g, u is %g", id, below, below+weight(id), total, u)
			}
			return nil
		}
		below += weight(id)
	}
	return fmt.Errorf("token %d is cut", token)
}

// byValue are the indices by value, the largest first, of equal ones the lowest.
func byValue(z []float64) []int32 {
	ids := make([]int32, len(z))
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortStableFunc(ids, func(a, b int32) int {
		switch {
		case z[a] > z[b]:
			return -1
		case z[a] < z[b]:
			return 1
		}
		return 0
	})
	return ids
}
