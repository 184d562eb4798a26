package quality_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/pelton-run/pelton/ops/quality"
)

// coin predicts the next of two tokens with a fixed probability for token 0, whatever came before.
type coin float64

func (c coin) Logits(_ context.Context, tokens []int32) ([][]float32, error) {
	out := make([][]float32, len(tokens))
	for i := range out {
		out[i] = []float32{float32(math.Log(float64(c))) + 3, float32(math.Log(1-float64(c))) + 3}
	}
	return out, nil
}

type broken struct{ error }

func (b broken) Logits(context.Context, []int32) ([][]float32, error) { return nil, b.error }

func TestMeasure(t *testing.T) {
	t.Parallel()
	texts := []quality.Transcript{
		{ID: "a", Kind: "x", Prompt: []int32{0, 0, 1}, Tokens: []int32{0, 0}},
		{ID: "b", Kind: "y", Prompt: []int32{1, 0}, Tokens: []int32{1}},
	}
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-6 {
			t.Errorf("%s is %g, want %g", name, got, want)
		}
	}
	d, err := quality.Measure(t.Context(), coin(0.75), coin(0.4), texts, nil)
	if err != nil {
		t.Fatal(err)
	}
	kl := 0.75*math.Log(0.75/0.4) + 0.25*math.Log(0.25/0.6)
	near("mean KL", d.MeanKL, kl)
	near("tail KL", d.TailKL, kl)
	near("KL of kind y", d.KL["y"], kl)
	near("same top", d.SameTop, 0)
	near("positions", float64(d.Positions), 8)
	near("perplexity", d.Perplexity, math.Pow(0.4*0.6*0.4, -1.0/3)) // tokens 0, 1 and 0 of the prompts
	near("the reference's", d.ReferencePerplexity, math.Pow(0.75*0.25*0.75, -1.0/3))
	if missed := d.Fails(quality.Gates{MeanKL: 0.02, SameTop: 0.97, Perplexity: 0.01}); len(missed) != 3 {
		t.Errorf("gates missed: %v, want all three", missed)
	}
	if half, err := quality.Measure(t.Context(), coin(0.75), coin(math.NaN()), texts, nil); err != nil || len(half.Fails(quality.Gates{MeanKL: 1, Perplexity: 1})) != 2 {
		t.Errorf("a model whose logits are no numbers passes: %+v, %v", half, err)
	}
	if same, err := quality.Measure(t.Context(), coin(0.75), coin(0.75), texts, nil); err != nil || len(same.Fails(quality.Gates{SameTop: 1})) != 0 {
		t.Errorf("a model against itself: %+v, %v", same, err)
	}
	cause := errors.New("no memory")
	if _, err := quality.Measure(t.Context(), coin(0.5), broken{cause}, texts, nil); !errors.Is(err, cause) {
		t.Errorf("Measure = %v, want %v", err, cause)
	}
	if _, err := quality.Measure(t.Context(), coin(0.5), coin(0.5), nil, nil); err == nil {
		t.Error("Measure of no texts = nil, want an error")
	}
}
