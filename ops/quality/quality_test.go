package quality_test

import (
	"bytes"
	"context"
	"reflect"
	"testing"

	"github.com/pelton-run/pelton/ops/quality"
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
