package sim_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"testing"

	"github.com/pelton-run/pelton/runtime/engine"
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

// A prompt has as many tokens as the other model's tokenizer gives it, and the engine takes them all.
func TestTokenizerLike(t *testing.T) {
	t.Parallel()
	file, err := os.Open("../tokenizer/testdata/smollm2.tokenizer.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	in, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	real, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	like, size, err := sim.TokenizerLike(real)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := tokenizer.Parse(like, sim.ChatTemplate())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := tokenizer.Parse(real, nil)
	if err != nil {
		t.Fatal(err)
	}
	const text = "The river turned 1234 wheels, naïvely: 世界!\n\n\tdef f(x): return x+1"
	a, b := ours.Encode(text), theirs.Encode(text)
	if len(a) != len(b) || len(a) >= len(text) {
		t.Errorf("%d tokens, want the %d of the other tokenizer", len(a), len(b))
	}
	if got := ours.Decode(a); got != text || ours.Vocab() != size {
		t.Errorf("Decode(Encode(%q)) = %q, with %d tokens of %d", text, got, ours.Vocab(), size)
	}
	e := sim.New(sim.Config{Vocab: size, Sleep: instant})
	seq, err := e.Open(len(a) + 1)
	if err != nil {
		t.Fatal(err)
	}
	row := engine.Row{Seq: seq, Tokens: a, Sample: true}
	if err := e.Step(t.Context(), []*engine.Row{&row}); err != nil || row.Err != nil || len(row.Logits) == 0 {
		t.Errorf("a prompt of these tokens: %v, %v, %d logits", err, row.Err, len(row.Logits))
	}
	for _, bad := range []string{"", "{}", `{"model":{"type":"Unigram"}}`, `{"model":{"type":"BPE","merges":[3]}}`} {
		if _, _, err := sim.TokenizerLike([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a tokenizer", bad)
		}
	}
}
