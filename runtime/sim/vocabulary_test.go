package sim_test

import (
	"encoding/json"
	"testing"

	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

func TestTokenizer(t *testing.T) {
	t.Parallel()
	tok, err := tokenizer.Parse(sim.TokenizerJSON(), sim.ChatTemplate())
	if err != nil {
		t.Fatal(err)
	}
	info := sim.New(sim.Config{}).Info()
	if got := tok.Vocab(); got != info.Vocab {
		t.Errorf("the tokenizer has %d tokens, the engine %d", got, info.Vocab)
	}
	const text = "Grüße, 世界! <|im_end|>\x00\n"
	ids := tok.Encode(text)
	if len(ids) != len(text) {
		t.Errorf("Encode(%q) has %d tokens, want one for each of %d bytes", text, len(ids), len(text))
	}
	for i, id := range ids {
		if id != int32(text[i]) {
			t.Errorf("token %d of %q is %d, want the byte %d", i, text, id, text[i])
		}
	}
	if got := tok.Decode(ids); got != text {
		t.Errorf("Decode(Encode(%q)) = %q", text, got)
	}
	chat, err := tok.Chat([]tokenizer.Message{{Role: "user", Content: "hi"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if want := int32(257); len(chat) == 0 || chat[0] != want {
		t.Errorf("Chat = %v, want it to start with %d", chat, want)
	}
	for _, id := range sim.EOS() {
		if int(id) >= info.Vocab || tok.Decode([]int32{id}) != "" {
			t.Errorf("end token %d renders as %q, want nothing", id, tok.Decode([]int32{id}))
		}
	}
	if !json.Valid(sim.TokenizerJSON()) {
		t.Error("TokenizerJSON is no JSON")
	}
}
