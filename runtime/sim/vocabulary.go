package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Ids of the special tokens; 0 to 255 are the bytes themselves.
const (
	endOfText   = 256
	startOfTurn = 257
	endOfTurn   = 258
	vocab       = 259
)

// EOS lists the token ids that end a sequence.
func EOS() []int32 { return []int32{endOfTurn, endOfText} }

// TokenizerJSON is the simulated model's tokenizer in Hugging Face's format: one token for each byte,
// and the special tokens of ChatML.
func TokenizerJSON() []byte {
	ids := map[string]int{}
	for b, r := range byteRunes() {
		ids[string(r)] = b
	}
	type added struct {
		ID         int    `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	}
	var specials []added
	for i, s := range []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"} {
		ids[s] = endOfText + i
		specials = append(specials, added{ID: endOfText + i, Content: s, Special: true})
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	out, err := json.Marshal(map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": specials, "normalizer": nil,
		"pre_tokenizer": byteLevel, "post_processor": nil, "decoder": byteLevel,
		"model": map[string]any{
			"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids, "merges": []string{},
		},
	})
	if err != nil {
		panic(fmt.Sprintf("sim: tokenizer: %v", err)) // only plain data above
	}
	return out
}

// TokenizerLike is the simulated model's tokenizer with the merges of another byte-level one, a
// tokenizer.json: prompts have as many tokens as that model's, answers stay bytes. size is the
// vocabulary's, for [Config]. The file may come from anywhere; tokenizer.Parse judges the rest of it.
func TokenizerLike(file []byte) (out []byte, size int, err error) {
	var mine, other map[string]json.RawMessage
	if err := json.Unmarshal(file, &other); err != nil {
		return nil, 0, fmt.Errorf("tokenizer to simulate: %w", err)
	}
	var from struct {
		Type   string            `json:"type"`
		Merges []json.RawMessage `json:"merges"`
	}
	if err := json.Unmarshal(other["model"], &from); err != nil || from.Type != "BPE" {
		return nil, 0, fmt.Errorf("tokenizer to simulate: its model is %q, only byte-level BPE can be: %w", from.Type, errors.Join(err, errors.ErrUnsupported))
	}
	if err := json.Unmarshal(TokenizerJSON(), &mine); err != nil {
		return nil, 0, err
	}
	var model map[string]any
	if err := json.Unmarshal(mine["model"], &model); err != nil {
		return nil, 0, err
	}
	ids, size := model["vocab"].(map[string]any), vocab
	var merges []json.RawMessage
	for _, raw := range from.Merges {
		left, right, ok := mergeOf(raw)
		if !ok {
			return nil, 0, fmt.Errorf("tokenizer to simulate: merge %.40q is not a pair", raw)
		}
		if ids[left] == nil || ids[right] == nil {
			continue // of tokens that are not made of bytes
		}
		merges = append(merges, raw)
		if ids[left+right] == nil {
			ids[left+right] = size
			size++
		}
	}
	model["merges"] = merges
	if mine["model"], err = json.Marshal(model); err != nil {
		return nil, 0, err
	}
	mine["pre_tokenizer"] = other["pre_tokenizer"]
	out, err = json.Marshal(mine)
	return out, size, err
}

// mergeOf reads a merge of either form: "a b" or ["a", "b"].
func mergeOf(raw json.RawMessage) (left, right string, ok bool) {
	var pair []string
	if json.Unmarshal(raw, &pair) == nil && len(pair) == 2 {
		return pair[0], pair[1], true
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return "", "", false
	}
	return strings.Cut(text, " ")
}

// byteRunes is the printable stand-in of each byte in byte-level vocabularies (GPT-2's table): bytes
// that print stand for themselves, the others are numbered from U+0100 on.
func byteRunes() [256]rune {
	var out [256]rune
	next := rune(0x100)
	for b := range out {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			out[b] = rune(b)
			continue
		}
		out[b] = next
		next++
	}
	return out
}

// ChatTemplate is ChatML as a Jinja template.
func ChatTemplate() []byte {
	return []byte(`{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`)
}
