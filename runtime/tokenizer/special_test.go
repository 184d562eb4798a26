package tokenizer_test

import (
	"slices"
	"testing"

	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// A special token that is a word by itself stays text too, also where words that are tokens are not merged.
func TestSpecialWordStaysText(t *testing.T) {
	t.Parallel()
	words, err := tokenizer.Parse([]byte(`{"added_tokens":[{"id":3,"content":"SEP","special":true},{"id":4,"content":"SS","special":false}],
		"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},
		"model":{"type":"BPE","ignore_merges":true,"vocab":{"S":0,"E":1,"P":2,"SEP":3,"SS":4},"merges":[]}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := words.Encode("SEP PE SS"); !slices.Equal(got, []int32{0, 1, 2, 2, 1, 4}) {
		t.Errorf("tokens %v, want those of S, E, P, P, E and SS", got)
	}
}
