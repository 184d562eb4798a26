package vocabulary

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pelton-run/pelton/runtime/gguf"
)

// Kinds of tokens that only SentencePiece's vocabularies have.
const (
	tokenUnknown = 2
	tokenByte    = 6
)

const (
	// A space is written as U+2581, and a text begins with one.
	piecesNormal = `{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}`
	piecesPlain  = `{"type":"Replace","pattern":{"String":" "},"content":"▁"}`
	piecesDecode = `{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}`
	piecesStrip  = `,{"type":"Strip","content":" ","start":1,"stop":0}`
)

// pieces makes the tokenizer.json of a vocabulary of SentencePiece's BPE. It lists no merges but a score
// for each piece: any two neighbors merge whose text together is a piece, the best score first. The
// list of merges in that order is how Hugging Face's converters write it.
func pieces(f *gguf.File, tokens []string, kinds []int64, ids map[string]int) (tokenizerJSON, error) {
	scores, ok := f.Numbers("tokenizer.ggml.scores")
	if !ok || len(scores) != len(tokens) {
		return tokenizerJSON{}, fmt.Errorf("metadata tokenizer.ggml.scores has %d entries for %d tokens", len(scores), len(tokens))
	}
	unknown := slices.Index(kinds, tokenUnknown)
	if unknown < 0 {
		return tokenizerJSON{}, fmt.Errorf("metadata tokenizer.ggml.token_type names no unknown token")
	}
	if squeeze, ok := f.Bool("tokenizer.ggml.remove_extra_whitespaces"); ok && squeeze {
		return tokenizerJSON{}, fmt.Errorf("tokenizer.ggml.remove_extra_whitespaces is not supported")
	}
	normal, decode := piecesNormal, piecesDecode+piecesStrip+"]}"
	if prefix, ok := f.Bool("tokenizer.ggml.add_space_prefix"); ok && !prefix {
		normal, decode = piecesPlain, piecesDecode+"]}"
	}
	added := addedTokens(tokens, kinds)
	if i := slices.IndexFunc(added, func(a addedToken) bool { return a.ID >= unknown }); i < 0 {
		added = append(added, addedToken{ID: unknown, Content: tokens[unknown], Special: true})
	} else if added[i].ID != unknown {
		added = slices.Insert(added, i, addedToken{ID: unknown, Content: tokens[unknown], Special: true})
	}
	return tokenizerJSON{
		Version: "1.0", AddedTokens: added, Normalizer: json.RawMessage(normal), PreTokenizer: json.RawMessage("null"), Decoder: json.RawMessage(decode),
		Model: bpeJSON{Type: "BPE", UnkToken: tokens[unknown], FuseUnk: true, ByteFallback: slices.Contains(kinds, tokenByte),
			Vocab: tokens, Merges: pieceMerges(tokens, kinds, scores, ids)},
	}, nil
}

// pieceMerges lists every way of cutting an ordinary piece into two pieces, the best score first.
func pieceMerges(tokens []string, kinds []int64, scores []float64, ids map[string]int) [][2]string {
	type merge struct {
		parts [2]string
		score float64
	}
	var all []merge
	for id, token := range tokens {
		if kinds[id] == tokenControl || kinds[id] == tokenUnknown || kinds[id] == tokenByte {
			continue
		}
		for at := range token {
			if at == 0 {
				continue
			}
			left, okLeft := ids[token[:at]]
			right, okRight := ids[token[at:]]
			if okLeft && okRight && kinds[left] != tokenByte && kinds[right] != tokenByte {
				all = append(all, merge{[2]string{token[:at], token[at:]}, scores[id]})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b merge) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(len(b.parts[0]), len(a.parts[0])))
	})
	out := make([][2]string, len(all))
	for i, m := range all {
		out[i] = m.parts
	}
	return out
}
