package tokenizer_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// A Decoder continues a text: it keeps the space that Decode takes off the start of one.
func TestDecoderContinues(t *testing.T) {
	t.Parallel()
	tok := load(t, "family-llama2", "")
	ids := tok.Encode("the sky é日\U0001F642 x")
	d, text := tok.NewDecoder(), ""
	for _, id := range ids {
		text += d.Push(id)
	}
	if text += d.Flush(); text != " the sky é日\U0001F642 x" || tok.Decode(ids) != text[1:] {
		t.Errorf("tokens %v: Push gave %q, Decode %q", ids, text, tok.Decode(ids))
	}
}

func TestConfigFile(t *testing.T) {
	t.Parallel()
	folder := func(config, template string) string {
		dir := t.TempDir()
		write := func(name string, b []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(tokenizer.TokenizerFile, unzip(t, "family-llama2"))
		if config != "" {
			write(tokenizer.ConfigFile, []byte(config))
		}
		if template != "" {
			write(tokenizer.ChatTemplateFile, []byte(template))
		}
		return dir
	}
	for _, c := range []struct{ name, config, template, want string }{
		{"in the config", `{"bos_token":"<s>","chat_template":"{{ bos_token }}[{{ messages[0].content }}]"}`, "", "<s> [hi]"},
		{"token as an object", `{"bos_token":{"content":"<s>"},"eos_token":null}`, "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s> hi"},
		{"the file wins", `{"chat_template":"never"}`, "{{ messages[0].content }}!", " hi!"},
		{"named templates", `{"chat_template":[{"name":"tool_use","template":"never"},{"name":"default","template":"{{ messages[0].content }}?"}]}`, "", " hi?"},
		{"no tokens named", `{}`, "{{ bos_token }}{{ messages[0].content }}", " hi"},
	} {
		tok, err := tokenizer.Load(folder(c.config, c.template))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		ids, err := tok.Chat([]tokenizer.Message{{Role: "user", Content: "hi"}}, true)
		if got := spell(tok, ids); err != nil || got != c.want {
			t.Errorf("%s: chat is %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	for _, config := range []string{`{"chat_template":7}`, `{"chat_template":[{"name":"x","template":"y"}]}`} {
		tok, err := tokenizer.Load(folder(config, ""))
		if err != nil {
			t.Errorf("config %s: %v", config, err)
			continue
		}
		if err = tok.ChatError(); !errors.Is(err, tokenizer.ErrTemplate) || !strings.Contains(err.Error(), "tokenizer_config.json") || !strings.Contains(err.Error(), "plain prompt") {
			t.Errorf("config %s: chat error %v", config, err)
		}
	}
	if tok, err := tokenizer.Load(folder("{}", strings.Repeat("x", 1<<17))); err != nil || !errors.Is(tok.ChatError(), tokenizer.ErrTemplate) {
		t.Errorf("a template of 128 KiB: %v", err)
	}
	for _, config := range []string{"{", `{"bos_token":7}`} {
		if _, err := tokenizer.Load(folder(config, "")); err == nil || !strings.Contains(err.Error(), "tokenizer_config.json") {
			t.Errorf("config %s: error %v, want one that names tokenizer_config.json", config, err)
		}
	}
}

// A template that cannot be compiled is told to those who chat; the rest of the model can be used.
func TestTemplateThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	words, err := tokenizer.Parse(unzip(t, "family-llama2"), []byte("{% include 'x' %}"))
	if err != nil {
		t.Fatal(err)
	}
	if len(words.Encode("hi")) == 0 || !errors.Is(words.ChatError(), tokenizer.ErrTemplate) {
		t.Errorf("chat error %v", words.ChatError())
	}
	_, err = words.Chat([]tokenizer.Message{{Role: "user", Content: "hi"}}, true)
	if !errors.Is(err, tokenizer.ErrTemplate) || !strings.Contains(err.Error(), "include") || !strings.Contains(err.Error(), "plain prompt") {
		t.Errorf("chat: %v", err)
	}
}

// What is not implemented is named, never taken for something else.
func TestUnsupportedIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ part, value, want string }{
		{"normalizer", `{"type":"NFD"}`, `"NFD"`},
		{"normalizer", `{"type":"Sequence","normalizers":[{"type":"Lowercase"}]}`, `"Lowercase"`},
		{"normalizer", `{"type":"Replace","pattern":{"Regex":"\\d+"},"content":"0"}`, `the escape \d`},
		{"normalizer", `{"type":"Sequence","normalizers":[{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaa"},{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaa"}]}`, "normalizer 1: it may make a text more than 64 times"},
		{"normalizer", `{"type":"Replace","pattern":{"Regex":"(b{2}|c*)+"},"content":"` + strings.Repeat("a", 64) + `"}`, "more than 64 times"},
		{"normalizer", `{"type":"Sequence","normalizers":[` + strings.Repeat(`{"type":"Prepend","prepend":"aaaaa"},`, 12) + `{"type":"Prepend","prepend":"aaaaa"}]}`, "prepend more than 64"},
		{"pre_tokenizer", `{"type":"Punctuation"}`, `"Punctuation"`},
		{"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"a++"},"behavior":"Isolated","invert":false}`, "possessive"},
		{"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"(?<=a)b"},"behavior":"Isolated","invert":false}`, "(?<=a)b"},
		{"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"a|b"},"behavior":"Contiguous","invert":false}`, `"Contiguous"`},
		{"pre_tokenizer", `{"type":"Metaspace","replacement":"_"}`, `"_"`},
		{"decoder", `{"type":"CTC"}`, `"CTC"`},
		{"decoder", `null`, "decoder"},
		{"model", `{"type":"Unigram","vocab":[["a",-1]]}`, `"Unigram"`},
		{"model", `{"type":"Unigram","vocab":{"a":0},"merges":[]}`, `"Unigram"`},
	} {
		var f map[string]json.RawMessage
		if err := json.Unmarshal(unzip(t, "family-llama2"), &f); err != nil {
			t.Fatal(err)
		}
		f[c.part] = json.RawMessage(c.value)
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tokenizer.Parse(b, nil); !errors.Is(err, tokenizer.ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: error %v, want ErrUnsupported with %s", c.part, c.value, err, c.want)
		}
	}
}

// TestGrowthAllowed: what models do to texts is far from the bounds.
func TestGrowthAllowed(t *testing.T) {
	t.Parallel()
	for _, steps := range []string{
		`{"type":"NFKC"},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}`,
		`{"type":"Replace","pattern":{"Regex":"[a-c]{2,}y*"},"content":"` + strings.Repeat("a", 64) + `"}`,
		`{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "},{"type":"NFC"}`,
	} {
		file := `{"normalizer":{"type":"Sequence","normalizers":[` + steps + `]},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},
			"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}`
		if _, err := tokenizer.Parse([]byte(file), nil); err != nil {
			t.Errorf("%s: %v", steps, err)
		}
	}
}
