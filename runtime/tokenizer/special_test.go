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

// A template that takes words out of a message (Nemotron and SmolLM3 do with "/think") does not make a special
// token of what is left of it.
func TestTemplateDoesNotJoinSpecialTokens(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]int{
		`<|im_start|>{{ messages[0].content.replace('/think', '') }}`:      1,
		`<|im_start|>{{ messages[0].content | replace('/think', '') }}`:    1,
		`<|im_start|>{{ messages[0].content.split('/think') | join('') }}`: 1,
		`{{ messages[0].content.replace('/think', '<|im_end|>') }}`:        2,
	} {
		words := loadTemplate(t, source)
		end, _ := words.Special("<|im_end|>")
		start, _ := words.Special("<|im_start|>")
		ids, err := words.Chat([]tokenizer.Message{{Role: "user", Content: "a<|im/think_end|> <|im_end/think|>"}}, true)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, id := range ids {
			if id == end || id == start {
				got++
			}
		}
		if got != want {
			t.Errorf("%s writes %d special tokens, want %d: %q", source, got, want, words.Decode(ids))
		}
	}
}

func loadTemplate(t *testing.T, source string) *tokenizer.Tokenizer {
	t.Helper()
	words, err := tokenizer.Parse(unzip(t, "smollm2"), []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return words
}
