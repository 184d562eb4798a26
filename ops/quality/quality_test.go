package quality_test

import (
	"bytes"
	"context"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/ops/quality"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

func transcripts(t *testing.T) []quality.Transcript {
	t.Helper()
	tok, err := tokenizer.Parse(sim.TokenizerJSON(), sim.ChatTemplate())
	if err != nil {
		t.Fatal(err)
	}
	prompts, err := quality.Prompts()
	if err != nil {
		t.Fatal(err)
	}
	if len(prompts) != 200 {
		t.Fatalf("%d prompts, wanted 200", len(prompts))
	}
	in, err := quality.Tokenize(tok, prompts[:20])
	if err != nil {
		t.Fatal(err)
	}
	e := sim.New(sim.Config{Sleep: nil})
	t.Cleanup(func() { _ = e.Shutdown() })
	out, err := quality.Generate(context.Background(), e, in, 6, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSameEngineAgrees(t *testing.T) {
	t.Parallel()
	a := transcripts(t)
	r, err := quality.Compare(a, transcripts(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Same != len(a) || !r.Pass(quality.Limits{Decided: 1, Same: 1}) {
		t.Errorf("got %+v, wanted all of %d the same", r, len(a))
	}
	var b bytes.Buffer
	if err := quality.Write(&b, a); err != nil {
		t.Fatal(err)
	}
	back, err := quality.Read(&b)
	if err != nil || !reflect.DeepEqual(back, a) {
		t.Errorf("written and read transcripts differ (%v)", err)
	}
}

func TestCompareFindsDifferences(t *testing.T) {
	t.Parallel()
	ref := quality.Transcript{ID: "a", Kind: "k", Prompt: []int32{1}, Tokens: []int32{5, 6, 7, 8}, Margins: []float32{2, 2, 0.1, 2}}
	for _, tt := range []struct {
		name          string
		tokens        []int32
		eos           []int32
		decided, same int
	}{
		{"equal", []int32{5, 6, 7, 8}, nil, 1, 1},
		{"differs at the near tie", []int32{5, 6, 9, 8}, nil, 1, 0},
		{"differs after it", []int32{5, 6, 7, 9}, nil, 1, 0},
		{"differs before it", []int32{5, 9, 7, 8}, nil, 0, 0},
		{"differs after the end token", []int32{5, 6, 9, 8}, []int32{6}, 1, 1},
	} {
		got := ref
		got.Tokens = tt.tokens
		r, err := quality.Compare([]quality.Transcript{ref}, []quality.Transcript{got}, tt.eos)
		if err != nil || r.Decided != tt.decided || r.Same != tt.same {
			t.Errorf("%s: got %d decided, %d same, %v; wanted %d, %d", tt.name, r.Decided, r.Same, err, tt.decided, tt.same)
		}
	}
	other := ref
	other.Prompt = []int32{2}
	if _, err := quality.Compare([]quality.Transcript{ref}, []quality.Transcript{other}, nil); err == nil {
		t.Error("another prompt under the same id: no error")
	}
}

// A reference that holds nothing to compare with, such as one with other names of its fields, must not pass.
func TestCompareRefusesReferences(t *testing.T) {
	t.Parallel()
	got := quality.Transcript{ID: "a", Prompt: []int32{1}, Tokens: []int32{5}, Margins: []float32{2}}
	for says, change := range map[string]func(ref *quality.Transcript){
		"the reference has no tokens": func(ref *quality.Transcript) { ref.Tokens, ref.Margins = nil, nil },
		"1 tokens were generated":     func(ref *quality.Transcript) { ref.Tokens, ref.Margins = []int32{5, 6}, []float32{2, 2} },
	} {
		ref := got
		change(&ref)
		if r, err := quality.Compare([]quality.Transcript{ref}, []quality.Transcript{got}, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v, %v, want an error that says %q", r, err, says)
		}
	}
}

// numberless is an engine whose logits are no numbers.
type numberless struct{ engine.Engine }

func (b numberless) Step(ctx context.Context, rows []*engine.Row) error {
	err := b.Engine.Step(ctx, rows)
	for _, r := range rows {
		for i := range r.Logits {
			r.Logits[i] = float32(math.NaN())
		}
	}
	return err
}

// Two variants that are broken alike must not agree.
func TestLogitsThatAreNoNumbers(t *testing.T) {
	t.Parallel()
	e := sim.New(sim.Config{Sleep: nil})
	t.Cleanup(func() { _ = e.Shutdown() })
	if out, err := quality.Generate(t.Context(), numberless{e}, []quality.Transcript{{ID: "a", Prompt: []int32{1, 2}}}, 3, nil); err == nil || !strings.Contains(err.Error(), "no numbers") {
		t.Errorf("Generate = %v, %v, want an error", out, err)
	}
}
