// Package vocabulary turns the tokens that a GGUF file lists into the files of a model folder: tokenizer.json as Hugging
// Face's tokenizers library reads it, the names of the tokens at the edges of a text, and the chat template.
//
// Previous step: runtime/gguf opens the file. Next step: runtime/convert writes the folder, runtime/tokenizer reads it.
// It is pure.
package vocabulary

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelton-run/pelton/runtime/gguf"
)

// Vocabulary is what a GGUF file says of its tokens, in the form of a model folder.
type Vocabulary struct {
	Tokenizer []byte // tokenizer.json, as Hugging Face's tokenizers library reads it
	Config    []byte // tokenizer_config.json: the names of the tokens at the edges of a text
	Template  []byte // Jinja chat template; empty when the file has none
	EOS       []int32
}

// Kinds of tokens in GGUF that are never made from parts of words.
const (
	tokenControl = 3 // special: never made from text
	tokenUser    = 4 // a word of its own, made from text
)

const (
	splitGPT2 = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}`
	// Each digit is a word, then as GPT-2.
	splitDigits = `{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},` + splitGPT2 + `]}`
	splitBytes  = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}`
	// Llama 3 cuts numbers into groups of three digits, Qwen 2 into single ones.
	splitLlama3 = `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},` + splitBytes + `]}`
	splitQwen2  = `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},` + splitBytes + `]}`
)

// splitTekken is that of Mistral's newer models.
var splitTekken = `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"` + strings.ReplaceAll(patternTekken, `\`, `\\`) + `"},"behavior":"Isolated","invert":false},` + splitBytes + `]}`

const patternTekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// preTokenizers maps GGUF's names for the ways of cutting text into words to tokenizer.json's
// pre_tokenizer. A file that does not name its way is old and is taken for GPT-2's.
var preTokenizers = map[string]string{
	"": splitGPT2, "default": splitGPT2, "gpt-2": splitGPT2, "gpt2": splitGPT2,
	"smollm": splitDigits, "starcoder": splitDigits, "refact": splitDigits, "command-r": splitDigits, "codeshell": splitDigits,
	"llama-bpe": splitLlama3, "llama3": splitLlama3, "llama-v3": splitLlama3,
	"qwen2": splitQwen2, "deepseek-r1-qwen": splitQwen2,
	"tekken": splitTekken,
}

// endTexts are tokens that end a turn wherever they exist, though files often name only one of them as their end, and
// those of fine-tuned models take some for words.
var endTexts = []string{"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>"}

// addedToken is an entry of tokenizer.json's added_tokens.
type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// tokenizerJSON is tokenizer.json, version 1.0.
type tokenizerJSON struct {
	Version       string          `json:"version"`
	Truncation    any             `json:"truncation"`
	Padding       any             `json:"padding"`
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    any             `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor any             `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         bpeJSON         `json:"model"`
}

type bpeJSON struct {
	Type         string  `json:"type"`
	Dropout      any     `json:"dropout"`
	UnkToken     any     `json:"unk_token"`
	Prefix       any     `json:"continuing_subword_prefix"`
	Suffix       any     `json:"end_of_word_suffix"`
	FuseUnk      bool    `json:"fuse_unk"`
	ByteFallback bool    `json:"byte_fallback"`
	IgnoreMerges bool    `json:"ignore_merges"`
	Vocab        idsByID `json:"vocab"`
	Merges       any     `json:"merges"` // "left right" or ["left","right"] each
}

// idsByID writes a list of tokens as an object from text to id, in the order of the ids.
type idsByID []string

// MarshalJSON implements [json.Marshaler].
func (v idsByID) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, text := range v {
		name, err := marshal(text)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%c%s:%d", "{,"[min(i, 1)], name, i)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is json.Marshal without the escapes for HTML, which would spell "<" as "\u003c".
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Read reads the file's tokens, of which there must be size.
func Read(f *gguf.File, size int) (Vocabulary, error) {
	var v Vocabulary
	tokens, ok := f.Texts("tokenizer.ggml.tokens")
	if !ok || len(tokens) != size {
		return v, fmt.Errorf("metadata tokenizer.ggml.tokens has %d tokens, the embedding has %d", len(tokens), size)
	}
	ids, err := checkTokens(tokens)
	if err != nil {
		return v, err
	}
	kinds, _ := f.Ints("tokenizer.ggml.token_type")
	if len(kinds) != size {
		return v, fmt.Errorf("metadata tokenizer.ggml.token_type has %d entries for %d tokens", len(kinds), size)
	}
	for _, text := range endTexts {
		if id, ok := ids[text]; ok {
			kinds[id] = tokenControl
		}
	}
	words, err := readWords(f, tokens, kinds, ids)
	if err != nil {
		return v, err
	}
	if v.EOS, err = endTokens(f, ids); err != nil {
		return v, err
	}
	if template, ok := f.Text("tokenizer.chat_template"); ok {
		if !utf8.ValidString(template) {
			return v, fmt.Errorf("metadata tokenizer.chat_template is no UTF-8 text")
		}
		v.Template = []byte(template)
	}
	if v.Config, err = edgeNames(f, tokens); err != nil {
		return v, err
	}
	v.Tokenizer, err = marshal(words)
	return v, err
}

// readWords makes the tokenizer.json of either kind of vocabulary.
func readWords(f *gguf.File, tokens []string, kinds []int64, ids map[string]int) (tokenizerJSON, error) {
	switch kind, _ := f.Text("tokenizer.ggml.model"); kind {
	case "gpt2":
		return byteLevel(f, tokens, kinds)
	case "llama":
		return pieces(f, tokens, kinds, ids)
	default:
		return tokenizerJSON{}, fmt.Errorf("tokenizer %q is not supported, only \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece's BPE) are", kind)
	}
}

func byteLevel(f *gguf.File, tokens []string, kinds []int64) (tokenizerJSON, error) {
	pre, _ := f.Text("tokenizer.ggml.pre")
	split, ok := preTokenizers[pre]
	if !ok {
		return tokenizerJSON{}, fmt.Errorf("tokenizer.ggml.pre %q is not supported", pre)
	}
	merges, ok := f.Texts("tokenizer.ggml.merges")
	if !ok {
		return tokenizerJSON{}, fmt.Errorf("metadata tokenizer.ggml.merges is missing")
	}
	var normalizer any
	if pre == "qwen2" { // which the file does not say; it is part of Qwen's own tokenizer
		normalizer = json.RawMessage(`{"type":"NFC"}`)
	}
	return tokenizerJSON{
		Version: "1.0", AddedTokens: addedTokens(tokens, kinds), Normalizer: normalizer, PreTokenizer: json.RawMessage(split),
		Decoder: json.RawMessage(`{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}`),
		Model:   bpeJSON{Type: "BPE", IgnoreMerges: split == splitLlama3, Vocab: tokens, Merges: merges},
	}, nil
}

// edgeNames makes tokenizer_config.json, which tells templates what begins and ends a text.
func edgeNames(f *gguf.File, tokens []string) ([]byte, error) {
	names := map[string]any{"bos_token": nil, "eos_token": nil}
	for key, id := range map[string]string{"bos_token": "tokenizer.ggml.bos_token_id", "eos_token": "tokenizer.ggml.eos_token_id"} {
		if at, ok := f.Int(id); ok && at >= 0 && at < len(tokens) {
			names[key] = tokens[at]
		}
	}
	return marshal(names)
}

// checkTokens makes sure that each token is text and exists once, and returns their ids.
func checkTokens(tokens []string) (map[string]int, error) {
	ids := make(map[string]int, len(tokens))
	for i, t := range tokens {
		if t == "" || !utf8.ValidString(t) {
			return nil, fmt.Errorf("token %d is %q: empty or no UTF-8 text", i, t)
		}
		if first, twice := ids[t]; twice {
			return nil, fmt.Errorf("tokens %d and %d are both %q", first, i, t)
		}
		ids[t] = i
	}
	return ids, nil
}

func addedTokens(tokens []string, kinds []int64) []addedToken {
	added := []addedToken{}
	for i, kind := range kinds {
		if kind == tokenControl || kind == tokenUser {
			added = append(added, addedToken{ID: i, Content: tokens[i], Special: kind == tokenControl})
		}
	}
	return added
}

// endTokens are the ids that end generation: those that the file names, then the well-known ones.
func endTokens(f *gguf.File, ids map[string]int) ([]int32, error) {
	var out []int32
	for _, key := range []string{"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"} {
		if !f.Has(key) {
			continue
		}
		id, ok := f.Int(key)
		if !ok || id < 0 || id >= len(ids) {
			return nil, fmt.Errorf("metadata %s is %d, not a token of the %d", key, id, len(ids))
		}
		out = append(out, int32(id))
	}
	for _, text := range endTexts {
		if id, ok := ids[text]; ok {
			out = append(out, int32(id))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("metadata tokenizer.ggml.eos_token_id is missing: nothing would end an answer")
	}
	seen := map[int32]bool{}
	return slices.DeleteFunc(out, func(id int32) bool {
		twice := seen[id]
		seen[id] = true
		return twice
	}), nil
}
