package sim

import (
	"encoding/json"
	"fmt"
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
