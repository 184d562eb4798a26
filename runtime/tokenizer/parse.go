package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// Bounds on what a file may hold; the largest vocabularies known have about 260,000 tokens.
const (
	maxTokens     = 1 << 21
	maxMerges     = 1 << 22
	maxTokenText  = 1 << 16 // bytes of one token
	maxStages     = 16
	maxPartErrors = 200 // characters of the file quoted in an error
)

// ErrUnsupported is returned, wrapped, when tokenizer.json holds a part that this package does not
// implement; the text names it. Such a model needs another tokenizer.
var ErrUnsupported = errors.New("not supported by this tokenizer")

// The parts of tokenizer.json that matter. Truncation, padding and the post-processor are left out on
// purpose: they add tokens or cut, which Encode never does.
type fileJSON struct {
	AddedTokens   []addedJSON     `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         modelJSON       `json:"model"`
}

type addedJSON struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type modelJSON struct {
	Type                    string           `json:"type"`
	Dropout                 *float64         `json:"dropout"`
	UnkToken                *string          `json:"unk_token"`
	ContinuingSubwordPrefix *string          `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string          `json:"end_of_word_suffix"`
	FuseUnk                 bool             `json:"fuse_unk"`
	ByteFallback            bool             `json:"byte_fallback"`
	IgnoreMerges            bool             `json:"ignore_merges"`
	Vocab                   map[string]int64 `json:"vocab"`
	Merges                  []mergeJSON      `json:"merges"`
}

// mergeJSON is "left right" or ["left", "right"]; both forms are in use.
type mergeJSON struct{ left, right string }

func (m *mergeJSON) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var pair []string
		if err := json.Unmarshal(b, &pair); err != nil {
			return err
		}
		if len(pair) != 2 {
			return fmt.Errorf("merge %.*s has %d parts, want 2", maxPartErrors, b, len(pair))
		}
		m.left, m.right = pair[0], pair[1]
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	left, right, ok := strings.Cut(s, " ")
	if !ok || strings.Contains(right, " ") {
		return fmt.Errorf("merge %.*q is not two tokens with a space between", maxPartErrors, s)
	}
	m.left, m.right = left, right
	return nil
}

// partJSON is a normalizer, pre-tokenizer or decoder of any kind.
type partJSON struct {
	Type             string            `json:"type"`
	Pretokenizers    []json.RawMessage `json:"pretokenizers"`
	Normalizers      []json.RawMessage `json:"normalizers"`
	Decoders         []json.RawMessage `json:"decoders"`
	AddPrefixSpace   *bool             `json:"add_prefix_space"` // ByteLevel: true unless given
	UseRegex         *bool             `json:"use_regex"`        // ByteLevel: true unless given
	IndividualDigits bool              `json:"individual_digits"`
	Pattern          patternJSON       `json:"pattern"`
	Behavior         string            `json:"behavior"`
	Invert           bool              `json:"invert"`
	Content          string            `json:"content"` // Replace, Strip
	Prepend          string            `json:"prepend"`
	Start            int               `json:"start"` // Strip
	Stop             int               `json:"stop"`
	Replacement      string            `json:"replacement"` // Metaspace
	PrependScheme    string            `json:"prepend_scheme"`
	Split            *bool             `json:"split"` // Metaspace: true unless given
}

type patternJSON struct {
	Regex  *string `json:"Regex"`
	String *string `json:"String"`
}

// Parse builds a Tokenizer from the contents of a tokenizer.json and of a chat_template.jinja, which
// may be empty. Errors name the part of the file that is at fault; a part that is not implemented is
// ErrUnsupported. A template that cannot be used is no error: ChatError tells.
func Parse(tokenizerJSON, chatTemplate []byte) (*Tokenizer, error) {
	return parse(tokenizerJSON, chatTemplate, nil)
}

func parse(tokenizerJSON, chatTemplate, config []byte) (*Tokenizer, error) {
	var f fileJSON
	if err := json.Unmarshal(tokenizerJSON, &f); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", errors.Join(checkKind(&f), err))
	}
	t := &Tokenizer{}
	for _, build := range []func(*fileJSON) error{checkKind, t.parseDecoder, t.parseTokens, t.parseModel, t.parseNormalizer, t.parsePreTokenizer} {
		if err := build(&f); err != nil {
			return nil, fmt.Errorf("tokenizer.json: %w", err)
		}
	}
	names, templates, err := readConfig(config)
	if err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	for name, token := range edgeTokens(&f) {
		if names[name] == "" {
			names[name] = token
		}
	}
	template := string(bytes.TrimPrefix(chatTemplate, []byte("\ufeff")))
	if len(bytes.TrimSpace(chatTemplate)) == 0 {
		template, err = chooseTemplate(templates)
	}
	if err == nil {
		t.chat, err = newChatTemplate(template, t, names)
	}
	if t.noChat = err; err != nil && err != ErrNoTemplate {
		t.noChat = fmt.Errorf("%w, send a plain prompt instead: %w", ErrTemplate, err)
	}
	return t, nil
}

// checkKind refuses models whose parts mean something else, before they are looked at.
func checkKind(f *fileJSON) error {
	if kind := f.Model.Type; kind != "" && kind != "BPE" {
		return fmt.Errorf("model %.*q: %w (only BPE is)", maxPartErrors, kind, ErrUnsupported)
	}
	return nil
}

// parseTokens checks ids and fills vocabulary and added tokens.
func (t *Tokenizer) parseTokens(f *fileJSON) error {
	texts, size, err := tokenTexts(f)
	if err != nil {
		return err
	}
	special := make([]bool, size)
	var added []addedToken
	for _, a := range f.AddedTokens {
		special[a.ID] = a.Special
		added = append(added, addedToken{id: int32(a.ID), text: a.Content, special: a.Special, lstrip: a.LStrip, rstrip: a.RStrip})
	}
	v := vocabulary{start: make([]uint32, 1, size+1), isSpecial: special}
	var b strings.Builder
	for id := range size {
		b.WriteString(t.rawText(texts[id]))
		if b.Len() > math.MaxUint32 {
			return errors.New("vocabulary: more than 4 GiB of text")
		}
		v.start = append(v.start, uint32(b.Len()))
	}
	v.bytes = b.String()
	t.vocab, t.added = v, newAddedTokens(added)
	return nil
}

// rawText is what a token of the file stands for.
func (t *Tokenizer) rawText(token string) string {
	if t.pieces {
		return pieceText(token)
	}
	raw, _ := tokenBytes(token)
	return raw
}

// tokenTexts returns the text of each id, as the file spells it, and one more than the largest id.
func tokenTexts(f *fileJSON) (texts []string, size int, err error) {
	texts = make([]string, min(len(f.Model.Vocab)+len(f.AddedTokens), maxTokens))
	used := make(map[int64]bool, len(texts))
	put := func(text string, id int64) error {
		switch {
		case id < 0 || id >= maxTokens:
			return fmt.Errorf("token %.*q: id %d is not in 0 to %d", maxPartErrors, text, id, maxTokens-1)
		case text == "":
			return fmt.Errorf("token %d has no text", id)
		case len(text) > maxTokenText:
			return fmt.Errorf("token %d has %d bytes, at most %d are read", id, len(text), maxTokenText)
		case used[id]:
			return fmt.Errorf("token id %d is given twice, once to %.*q", id, maxPartErrors, text)
		}
		used[id] = true
		for int64(len(texts)) <= id {
			texts = append(texts, "")
		}
		texts[id] = text
		size = max(size, int(id)+1)
		return nil
	}
	for text, id := range f.Model.Vocab {
		if err := put(text, id); err != nil {
			return nil, 0, err
		}
	}
	seen := make(map[string]bool, len(f.AddedTokens))
	for _, a := range f.AddedTokens {
		if a.SingleWord {
			return nil, 0, fmt.Errorf("added token %.*q: single_word: %w", maxPartErrors, a.Content, ErrUnsupported)
		}
		if seen[a.Content] {
			return nil, 0, fmt.Errorf("added token %.*q is given twice", maxPartErrors, a.Content)
		}
		seen[a.Content] = true
		if id, ok := f.Model.Vocab[a.Content]; ok {
			if id != a.ID {
				return nil, 0, fmt.Errorf("added token %.*q: id %d here, %d in the vocabulary", maxPartErrors, a.Content, a.ID, id)
			}
			continue
		}
		if err := put(a.Content, a.ID); err != nil {
			return nil, 0, err
		}
	}
	if size == 0 {
		return nil, 0, errors.New("model.vocab is empty")
	}
	return texts, size, nil
}

// parseModel builds the merge table.
func (t *Tokenizer) parseModel(f *fileJSON) error {
	m := &f.Model
	switch {
	case m.Dropout != nil && *m.Dropout != 0:
		return fmt.Errorf("model.dropout: %w", ErrUnsupported)
	case m.ContinuingSubwordPrefix != nil && *m.ContinuingSubwordPrefix != "":
		return fmt.Errorf("model.continuing_subword_prefix: %w", ErrUnsupported)
	case m.EndOfWordSuffix != nil && *m.EndOfWordSuffix != "":
		return fmt.Errorf("model.end_of_word_suffix: %w", ErrUnsupported)
	case m.ByteFallback && !t.pieces:
		return fmt.Errorf("model.byte_fallback with a ByteLevel decoder: %w", ErrUnsupported)
	case len(m.Merges) > maxMerges:
		return fmt.Errorf("model.merges: %d, at most %d are read", len(m.Merges), maxMerges)
	}
	b := &bpe{unknown: -1, fuse: m.FuseUnk, merges: newMergeTable(len(m.Merges)), cache: newWordCache()}
	if m.UnkToken != nil && *m.UnkToken != "" {
		id, ok := m.Vocab[*m.UnkToken]
		if !ok {
			return fmt.Errorf("model.unk_token %.*q is not in the vocabulary", maxPartErrors, *m.UnkToken)
		}
		b.unknown = int32(id)
	}
	for id := range t.Vocab() {
		b.longest = max(b.longest, len(t.vocab.text(int32(id))), 1)
	}
	b.singles(m, t.pieces)
	for rank, p := range m.Merges {
		left, okLeft := m.Vocab[p.left]
		right, okRight := m.Vocab[p.right]
		merged, ok := m.Vocab[p.left+p.right]
		if !ok || !okLeft || !okRight {
			return fmt.Errorf("model.merges: merge %d of %.*q and %.*q: a part or the result is not in the vocabulary",
				rank, maxPartErrors, p.left, maxPartErrors, p.right)
		}
		b.merges.put(int32(left), int32(right), rank, int32(merged))
	}
	if m.IgnoreMerges {
		b.whole = make(map[string]int32, len(m.Vocab))
		for text, id := range m.Vocab {
			if raw, coded := tokenBytes(text); t.vocab.special(int32(id)) {
				continue // never read out of text
			} else if t.pieces {
				b.whole[text] = int32(id)
			} else if coded {
				b.whole[raw] = int32(id)
			}
		}
	}
	t.bpe = b
	return nil
}

// singles fills the tables of the tokens that words begin as.
func (b *bpe) singles(m *modelJSON, pieces bool) {
	for c, r := range byteRune {
		name := string(r)
		if pieces {
			name = byteName(byte(c))
		}
		b.byteToken[c] = -1
		if id, ok := m.Vocab[name]; ok {
			b.byteToken[c] = int32(id)
		}
	}
	if !pieces {
		return
	}
	b.runes, b.fallback = map[rune]int32{}, m.ByteFallback
	for text, id := range m.Vocab {
		if r, n := utf8.DecodeRuneInString(text); n == len(text) && (r != utf8.RuneError || n > 1) {
			b.runes[r] = int32(id)
		}
	}
}

// part decodes one component of the file; a null or absent one has no type.
func part(raw json.RawMessage) (p partJSON, err error) {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return p, nil
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, err
	}
	if p.Type == "" {
		return p, fmt.Errorf("%.*s has no type", maxPartErrors, raw)
	}
	return p, nil
}

func (t *Tokenizer) parsePreTokenizer(f *fileJSON) error {
	p, err := part(f.PreTokenizer)
	if err != nil {
		return fmt.Errorf("pre_tokenizer: %w", err)
	}
	list := []json.RawMessage{f.PreTokenizer}
	if p.Type == "Sequence" {
		list = p.Pretokenizers
	}
	if len(list) > maxStages {
		return fmt.Errorf("pre_tokenizer: %d steps, at most %d are read", len(list), maxStages)
	}
	last := ""
	if p.Type == "" {
		list = nil
	}
	for i, raw := range list {
		p, err := part(raw)
		if err != nil {
			return fmt.Errorf("pre_tokenizer %d: %w", i, err)
		}
		if last == "ByteLevel" {
			return fmt.Errorf("pre_tokenizer %d, %.*q after ByteLevel: %w", i, maxPartErrors, p.Type, ErrUnsupported)
		}
		s, err := parseStage(&p)
		if err != nil {
			return fmt.Errorf("pre_tokenizer %d: %w", i, err)
		}
		t.stages, last = append(t.stages, s), p.Type
	}
	if last != "ByteLevel" && !t.pieces {
		return fmt.Errorf("pre_tokenizer does not end with ByteLevel: %w", ErrUnsupported)
	}
	if last == "ByteLevel" && t.pieces {
		return fmt.Errorf("pre_tokenizer ByteLevel without a ByteLevel decoder: %w", ErrUnsupported)
	}
	return nil
}

func parseStage(p *partJSON) (stage, error) {
	switch p.Type {
	case "ByteLevel":
		var s stage
		if p.AddPrefixSpace == nil || *p.AddPrefixSpace {
			s.prepare = prefixSpace
		}
		if p.UseRegex == nil || *p.UseRegex {
			s.next = nextGPT2
		}
		return s, nil
	case "Metaspace":
		return metaspace(p)
	case "Digits":
		if p.IndividualDigits {
			return stage{next: nextDigit}, nil
		}
		return stage{next: nextDigits}, nil
	case "Split":
		return parseSplit(p)
	default:
		return stage{}, fmt.Errorf("%.*q: %w", maxPartErrors, p.Type, ErrUnsupported)
	}
}

// parseSplit reads a Split step by a pattern or a plain text.
func parseSplit(p *partJSON) (stage, error) {
	if text := p.Pattern.String; text != nil && *text != "" && p.Behavior == "MergedWithPrevious" && !p.Invert {
		return stage{next: func(s string) int { // a piece ends behind the text
			if at := strings.Index(s, *text); at >= 0 {
				return at + len(*text)
			}
			return len(s)
		}}, nil
	}
	if p.Pattern.Regex == nil {
		return stage{}, fmt.Errorf("Split by other than a Regex: %w", ErrUnsupported)
	}
	pattern := *p.Pattern.Regex
	next, known := patterns[pattern]
	if !known {
		var err error
		if next, err = compilePattern(pattern); err != nil {
			return stage{}, fmt.Errorf("Split by %w", err)
		}
	}
	// The known patterns match everything or are wanted for what they match, so that cutting out the
	// matches and keeping them apart is the same.
	whole := known && pattern != `\p{N}` && pattern != `\p{N}{1,3}`
	if (p.Behavior == "Isolated" && !p.Invert) || (p.Behavior == "Removed" && p.Invert && whole) {
		return stage{next: next}, nil
	}
	return stage{}, fmt.Errorf("Split with behavior %.*q, invert %v: %w", maxPartErrors, p.Behavior, p.Invert, ErrUnsupported)
}
