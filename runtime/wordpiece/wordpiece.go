// Package wordpiece turns text into the token ids of BERT and its kin.
//
// It stands beside runtime/tokenizer, which does the same for models that write text. Previous step of
// the walk: dispatcher/admission has a text to embed. Next step: worker/gather, which puts the ids of many
// texts into one call. It reads tokenizer.json files with a WordPiece model, BERT's normalizer and
// pre-tokenizer, and does what the reference implementation (PyPI tokenizers) does, token for token, but
// for one thing: special tokens are never read out of text. A part of the file that it does not implement
// is an error that names it. No I/O but [Load]; a [Tokenizer] is immutable and safe for concurrent use.
package wordpiece

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// ErrUnsupported: the file asks for something that this package does not implement.
var ErrUnsupported = errors.New("not supported by this tokenizer")

// maxFile is the most bytes of a tokenizer.json, maxTokens the most entries of its vocabulary.
const (
	maxFile   = 64 << 20
	maxTokens = 1 << 21
)

// Tokenizer maps text to token ids.
type Tokenizer struct {
	vocab   map[string]int32
	prefix  string // of pieces inside a word
	longest int    // bytes of the longest piece
	unknown int32
	letters int // a word of more characters is unknown
	most    int // tokens that are wanted; 0 is all
	before  []int32
	after   []int32

	clean, chinese, strip, lower bool
}

// Load reads the tokenizer.json of a model folder.
func Load(dir string) (*Tokenizer, error) {
	path := filepath.Join(dir, "tokenizer.json")
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

type fileJSON struct {
	Normalizer struct {
		Type    string `json:"type"`
		Clean   bool   `json:"clean_text"`
		Chinese bool   `json:"handle_chinese_chars"`
		Strip   *bool  `json:"strip_accents"` // null: as lowercase
		Lower   bool   `json:"lowercase"`
	} `json:"normalizer"`
	PreTokenizer struct {
		Type string `json:"type"`
	} `json:"pre_tokenizer"`
	PostProcessor struct {
		Type   string `json:"type"`
		Single []struct {
			SpecialToken *struct {
				ID string `json:"id"`
			} `json:"SpecialToken"`
			Sequence *struct {
				ID string `json:"id"`
			} `json:"Sequence"`
		} `json:"single"`
	} `json:"post_processor"`
	Model struct {
		Type    string           `json:"type"`
		Unknown string           `json:"unk_token"`
		Prefix  string           `json:"continuing_subword_prefix"`
		Letters int              `json:"max_input_chars_per_word"`
		Vocab   map[string]int32 `json:"vocab"`
	} `json:"model"`
}

// Parse builds a tokenizer from the content of a tokenizer.json. Its truncation and padding are left out
// on purpose: callers cut, and batches are packed.
func Parse(raw []byte) (*Tokenizer, error) {
	var f fileJSON
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	for part, is := range map[string][2]string{
		"model": {f.Model.Type, "WordPiece"}, "normalizer": {f.Normalizer.Type, "BertNormalizer"},
		"pre_tokenizer": {f.PreTokenizer.Type, "BertPreTokenizer"}, "post_processor": {f.PostProcessor.Type, "TemplateProcessing"},
	} {
		if is[0] != is[1] {
			return nil, fmt.Errorf("%w: %s %.50q, want %s", ErrUnsupported, part, is[0], is[1])
		}
	}
	t := &Tokenizer{vocab: f.Model.Vocab, prefix: f.Model.Prefix, letters: f.Model.Letters,
		clean: f.Normalizer.Clean, chinese: f.Normalizer.Chinese, strip: f.Normalizer.Lower, lower: f.Normalizer.Lower}
	if f.Normalizer.Strip != nil {
		t.strip = *f.Normalizer.Strip
	}
	if len(t.vocab) == 0 || len(t.vocab) > maxTokens {
		return nil, fmt.Errorf("a vocabulary of %d tokens, must be 1 to %d", len(t.vocab), maxTokens)
	}
	for piece, id := range t.vocab {
		if id < 0 || id >= maxTokens {
			return nil, fmt.Errorf("token %.50q has the id %d", piece, id)
		}
		t.longest = max(t.longest, len(piece))
	}
	var err error
	if t.unknown, err = t.id(f.Model.Unknown); err != nil {
		return nil, err
	}
	return t, t.template(f)
}

// template reads which special tokens stand before and after a text.
func (t *Tokenizer) template(f fileJSON) error {
	side := &t.before
	for _, part := range f.PostProcessor.Single {
		switch {
		case part.Sequence != nil && side == &t.before:
			side = &t.after
		case part.SpecialToken != nil:
			id, err := t.id(part.SpecialToken.ID)
			if err != nil {
				return err
			}
			*side = append(*side, id)
		default:
			return fmt.Errorf("%w: a post_processor that is no text between special tokens", ErrUnsupported)
		}
	}
	return nil
}

func (t *Tokenizer) id(piece string) (int32, error) {
	id, ok := t.vocab[piece]
	if !ok {
		return 0, fmt.Errorf("the vocabulary has no %.50q", piece)
	}
	return id, nil
}

// Vocab is one more than the largest token id.
func (t *Tokenizer) Vocab() int {
	most := int32(0)
	for _, id := range t.vocab {
		most = max(most, id)
	}
	return int(most) + 1
}

// Within is t for texts of at most so many tokens. Of a text of more, Encode returns more than those and not all,
// and takes little longer than for as many.
func (t *Tokenizer) Within(most int) *Tokenizer {
	bounded := *t
	bounded.most = most
	return &bounded
}

// Encode returns the ids of text, between the special tokens that the model wants around it. Special
// tokens in text stay text. A text without a word yields the special tokens alone.
func (t *Tokenizer) Encode(text string) []int32 {
	room := len(text)/4 + 4
	if t.most > 0 {
		room = min(room, t.most)
	}
	ids := append(make([]int32, 0, room), t.before...)
	word := make([]byte, 0, 64)
	end := func() {
		if len(word) > 0 {
			ids = t.word(ids, word)
			word = word[:0]
		}
	}
	for r := range t.runes(text) {
		if t.most > 0 && len(ids) > t.most {
			break
		}
		switch {
		case unicode.IsSpace(r):
			end()
		case punctuation(r):
			end()
			word = utf8.AppendRune(word, r)
			end()
		default:
			word = utf8.AppendRune(word, r)
		}
	}
	end()
	return append(ids, t.after...)
}

// Cut shortens what Encode returned to most tokens, the special ones included.
func (t *Tokenizer) Cut(ids []int32, most int) []int32 {
	if len(ids) <= most || most < len(t.after) {
		return ids
	}
	return append(ids[:most-len(t.after):most-len(t.after)], t.after...)
}

// runes yields the text's characters, normalized.
func (t *Tokenizer) runes(text string) func(yield func(rune) bool) {
	text = strings.ToValidUTF8(text, "\ufffd")
	if t.clean || t.chinese {
		text = t.spaced(text)
	}
	if t.strip && !ascii(text) {
		text = norm.NFD.String(text)
	}
	return func(yield func(rune) bool) {
		for _, r := range text {
			if t.strip && mark(r) {
				continue
			}
			if t.lower {
				r = unicode.ToLower(r)
			}
			if !yield(r) {
				return
			}
		}
	}
}

// spaced drops control characters, makes every white space a space and puts spaces around ideographs.
func (t *Tokenizer) spaced(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	for _, r := range text {
		switch {
		case t.clean && (r == 0 || r == utf8.RuneError || control(r)):
		case t.clean && unicode.IsSpace(r):
			b.WriteByte(' ')
		case t.chinese && ideograph(r):
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// word appends the ids of the longest pieces of a word, from its start on; of a word that has a part
// without a piece, the unknown token.
func (t *Tokenizer) word(ids []int32, word []byte) []int32 {
	if utf8.RuneCount(word) > t.letters {
		return append(ids, t.unknown)
	}
	start := len(ids)
	piece := make([]byte, 0, len(word)+len(t.prefix))
	for at := 0; at < len(word); {
		piece = piece[:0]
		if at > 0 {
			piece = append(piece, t.prefix...)
		}
		lead := len(piece)
		piece = append(piece, word[at:]...)
		piece = piece[:max(lead, min(len(piece), t.longest))]
		id, ok := int32(0), false
		for len(piece) > lead {
			if id, ok = t.vocab[string(piece)]; ok {
				break
			}
			piece = piece[:len(piece)-1] // half a character is in no vocabulary
		}
		if !ok {
			return append(ids[:start], t.unknown)
		}
		ids = append(ids, id)
		at += len(piece) - lead
	}
	return ids
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// later are characters that Unicode made punctuation, marks or formats after version 8, whose tables the reference
// uses, and places around them.
var later = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x61d, 0x61d, 1}, {0x7fd, 0x7fd, 1}, {0x890, 0x8e2, 1}, {0x9fd, 0x9fe, 1}, {0xa76, 0xa76, 1}, {0xafa, 0xaff, 1},
		{0xb55, 0xb55, 1}, {0xc04, 0xc3c, 1}, {0xc77, 0xc77, 1}, {0xc84, 0xc84, 1}, {0xd00, 0xd00, 1}, {0xd3b, 0xd3c, 1},
		{0xd81, 0xd81, 1}, {0xeba, 0xeba, 1}, {0xece, 0xece, 1}, {0x180f, 0x1886, 1}, {0x1abf, 0x1ace, 1},
		{0x1b7d, 0x1b7e, 1}, {0x1df6, 0x1dfb, 1}, {0x2e43, 0x2e5d, 1}, {0xa82c, 0xa82c, 1}, {0xa8c5, 0xa8c5, 1},
		{0xa8ff, 0xa8ff, 1}, {0xa9bd, 0xa9bd, 1},
	},
	R32: []unicode.Range32{
		{0x10d24, 0x10f89, 1}, {0x11070, 0x11074, 1}, {0x110c2, 0x110cd, 1}, {0x111c9, 0x111c9, 1}, {0x111cf, 0x111cf, 1},
		{0x1123e, 0x11241, 1}, {0x1133b, 0x1133b, 1}, {0x11438, 0x1145e, 1}, {0x11660, 0x1166c, 1}, {0x116b9, 0x116b9, 1},
		{0x1182f, 0x11fff, 1}, {0x12ff1, 0x13455, 1}, {0x16e97, 0x16f4f, 1}, {0x16fe2, 0x16fe4, 1}, {0x1cf00, 0x1cf46, 1},
		{0x1e000, 0x1e4ef, 1}, {0x1e944, 0x1e95f, 1},
	},
}

func control(r rune) bool {
	return r != '\t' && r != '\n' && r != '\r' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co) && !unicode.Is(later, r)
}

// mark tells a character that stands on another one; U+1734 was one in version 8.
func mark(r rune) bool {
	return r >= utf8.RuneSelf && (unicode.Is(unicode.Mn, r) && !unicode.Is(later, r) || r == 0x1734)
}

// punctuation tells it as version 8 of Unicode does, in which U+166D and U+111C9 were some.
func punctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= '!' && r <= '/' || r >= ':' && r <= '@' || r >= '[' && r <= '`' || r >= '{' && r <= '~'
	}
	return unicode.Is(unicode.P, r) && !unicode.Is(later, r) || r == 0x166d || r == 0x111c9
}

// ideograph tells the blocks that BERT's own tokenizer takes for Chinese, its gap included.
func ideograph(r rune) bool {
	return r >= 0x4E00 && r <= 0x9FFF || r >= 0x3400 && r <= 0x4DBF || r >= 0x20000 && r <= 0x2A6DF || r >= 0x2A700 && r <= 0x2B73F ||
		r >= 0x2B740 && r <= 0x2B81F || r >= 0x2B920 && r <= 0x2CEAF || r >= 0xF900 && r <= 0xFAFF || r >= 0x2F800 && r <= 0x2FA1F
}
