package tokenizer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelton-run/pelton/runtime/tokenizer/template"
)

// Names of the files that Load reads in a model folder.
const (
	TokenizerFile    = "tokenizer.json"
	ChatTemplateFile = "chat_template.jinja"
	ConfigFile       = "tokenizer_config.json"
)

// Most bytes of these files; larger ones are refused.
const (
	maxTokenizerFile = 64 << 20
	maxConfigFile    = 4 << 20
	maxTemplateFile  = 16 * template.MaxSource // beyond MaxSource it is not used
)

// Tokenizer maps text to token ids and back. It is immutable and safe for concurrent use.
type Tokenizer struct {
	vocab   vocabulary
	added   addedTokens
	pieces  bool // the vocabulary is in SentencePiece's style, not byte-level
	lead    lead
	normal  []normalizer
	stages  []stage
	bpe     *bpe
	chat    *chatTemplate
	noChat  error // why there is no chat
	scratch scratchPool
}

// Load reads a model folder: tokenizer.json and, where they are there, chat_template.jinja and
// tokenizer_config.json, which tells the names of the tokens at the edges of a text and, without the
// former, the template. Without a template, a vocabulary that has ChatML's tokens gets ChatML.
func Load(dir string) (*Tokenizer, error) {
	tok, err := readLimited(filepath.Join(dir, TokenizerFile), maxTokenizerFile)
	if err != nil {
		return nil, err
	}
	optional := func(name string, limit int64) []byte {
		b, e := readLimited(filepath.Join(dir, name), limit)
		if !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return b
	}
	chat, config := optional(ChatTemplateFile, maxTemplateFile), optional(ConfigFile, maxConfigFile)
	if err != nil {
		return nil, err
	}
	t, err := parse(tok, chat, config)
	if err != nil {
		return nil, fmt.Errorf("model folder %s: %w", dir, err)
	}
	return t, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: larger than the %d bytes that are read of such a file", path, limit)
	}
	return b, nil
}

// Encode returns the token ids of text. Special tokens are never parsed out of it and no
// beginning-of-text token is added. Bytes that the vocabulary lacks are dropped. Text that is not
// UTF-8 is first made so: each maximal invalid piece becomes one U+FFFD, as Python's
// bytes.decode("utf-8", "replace") does.
func (t *Tokenizer) Encode(text string) []int32 {
	if text == "" {
		return nil
	}
	return t.encode(make([]int32, 0, len(text)/3+4), text, 0)
}

// Bounded is a Tokenizer for those who want no more than so many tokens. What has more costs hardly more than what
// has as many. Safe for concurrent use.
type Bounded struct {
	t    *Tokenizer
	most int
}

// Within is t for texts of at most so many tokens.
func (t *Tokenizer) Within(most int) Bounded { return Bounded{t, most} }

// Encode is the Tokenizer's for a text of at most so many tokens; of another one it returns more than those, and
// not all.
func (b Bounded) Encode(text string) []int32 { return b.t.encode(nil, text, b.most) }

// Chat is the Tokenizer's, with the bound of Encode.
func (b Bounded) Chat(messages []Message, addGenerationPrompt bool) ([]int32, error) {
	return b.t.chatOf(messages, addGenerationPrompt, b.most)
}

// encode appends the ids of text to dst; it may stop behind most of them, 0 is never.
func (t *Tokenizer) encode(dst []int32, text string, most int) []int32 {
	s := t.scratch.take()
	defer t.scratch.give(s)
	e := encoder{t: t, scratch: s, ids: dst, most: most}
	t.added.split(validUTF8(text), false, e.text, e.added)
	return e.ids
}

// encoder carries one Encode through the stages.
type encoder struct {
	t       *Tokenizer
	scratch *scratch
	ids     []int32
	most    int // as in encode
}

// enough tells whether there are more ids than are wanted.
func (e *encoder) enough() bool { return e.most > 0 && len(e.ids) > e.most }

func (e *encoder) added(id int32) { e.ids = append(e.ids, id) }

// text takes a piece between added tokens.
func (e *encoder) text(s string) {
	if s == "" || e.enough() {
		return
	}
	for _, n := range e.t.normal {
		if s = n(s); s == "" {
			return
		}
	}
	e.stage(0, s)
}

// stage runs s through the pre-tokenizer's stages from the i-th on and merges what comes out.
func (e *encoder) stage(i int, s string) {
	if i == len(e.t.stages) {
		e.ids = e.t.bpe.encode(e.ids, s, e.scratch, e.most)
		return
	}
	st := e.t.stages[i]
	if st.prepare != nil {
		s = st.prepare(s, len(e.ids) == 0)
	}
	if st.next == nil {
		e.stage(i+1, s)
		return
	}
	for len(s) > 0 && !e.enough() {
		n := st.next(s)
		e.stage(i+1, s[:n])
		s = s[n:]
	}
}

// Decode returns the text of ids, a whole text: where the vocabulary puts a space before every text, it
// is taken off again. Special tokens and ids outside the vocabulary render as nothing;
// bytes that are not UTF-8 become U+FFFD, one for each maximal invalid piece. But for that space it
// equals what a Decoder yields for the same ids.
func (t *Tokenizer) Decode(ids []int32) string {
	var b strings.Builder
	first := true
	for _, id := range ids {
		if t.vocab.special(id) {
			continue
		}
		text := t.vocab.text(id)
		if first && t.lead == leadFirst {
			text = strings.ReplaceAll(text, " ", "")
		}
		b.WriteString(text)
		first = false
	}
	text := b.String()
	if t.lead == leadStrip {
		text = strings.TrimPrefix(text, " ")
	}
	return validUTF8(text)
}

// TokenBytes returns a copy of the bytes that a token stands for: often a part of a character. A
// special token's are its name. It is nil for an id outside the vocabulary.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	if s := t.vocab.text(id); s != "" {
		return []byte(s)
	}
	return nil
}

// Text returns what a token adds to a text: often a part of a character, nothing if it is special.
func (t *Tokenizer) Text(id int32) string {
	if t.vocab.special(id) {
		return ""
	}
	return t.vocab.text(id)
}

// Special returns the id of the special token with this name, for example "<|im_end|>".
func (t *Tokenizer) Special(text string) (int32, bool) {
	id, ok := t.added.ids[text]
	return id, ok && t.vocab.special(id)
}

// Vocab is one more than the largest token id.
func (t *Tokenizer) Vocab() int { return len(t.vocab.start) - 1 }

// vocabulary holds the bytes of every token in one string.
type vocabulary struct {
	bytes     string
	start     []uint32 // of token i; one more entry than tokens
	isSpecial []bool
}

func (v *vocabulary) text(id int32) string {
	if id < 0 || int(id) >= len(v.start)-1 {
		return ""
	}
	return v.bytes[v.start[id]:v.start[id+1]]
}

func (v *vocabulary) special(id int32) bool {
	return id >= 0 && int(id) < len(v.isSpecial) && v.isSpecial[id]
}
