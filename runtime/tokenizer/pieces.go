package tokenizer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Vocabularies in the style of SentencePiece hold text, not bytes in disguise: a space is written as
// "▁", and a byte that is part of no piece as "<0xE3>" (byte fallback).

// blankMark stands for a space in such a vocabulary.
const blankMark = "\u2581"

// lead is what a decoder does about the space that the normalizer put before a text.
type lead int

const (
	leadKept  lead = iota
	leadStrip      // one space is taken off the text's start
	leadFirst      // the first token loses all its spaces
)

// pieceText is what a token of such a vocabulary stands for.
func pieceText(token string) string {
	if b, ok := byteOf(token); ok {
		return string([]byte{b})
	}
	return strings.ReplaceAll(token, blankMark, " ")
}

// byteOf reads "<0xE3>".
func byteOf(token string) (byte, bool) {
	if len(token) != 6 || !strings.HasPrefix(token, "<0x") || token[5] != '>' {
		return 0, false
	}
	n, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(n), err == nil
}

// byteName is the inverse of byteOf.
func byteName(b byte) string { return fmt.Sprintf("<0x%02X>", b) }

// appendRune appends the token of one character, or those of its bytes, or the unknown one, to a word
// whose first token is at start in dst.
func (b *bpe) appendRune(dst []int32, r rune, start int) []int32 {
	if id, ok := b.runes[r]; ok {
		return append(dst, id)
	}
	var buf [utf8.UTFMax]byte
	raw := buf[:utf8.EncodeRune(buf[:], r)]
	if b.fallback {
		at := len(dst)
		for _, c := range raw {
			if b.byteToken[c] < 0 {
				dst = dst[:at]
				break
			}
			dst = append(dst, b.byteToken[c])
		}
		if len(dst) > at {
			return dst
		}
	}
	return b.appendUnknown(dst, start)
}

// parseDecoder finds out which of the two styles the vocabulary has, and what decoding takes off.
func (t *Tokenizer) parseDecoder(f *fileJSON) error {
	p, err := part(f.Decoder)
	if err != nil {
		return fmt.Errorf("decoder: %w", err)
	}
	list := []json.RawMessage{f.Decoder}
	if p.Type == "Sequence" {
		list = p.Decoders
	}
	if len(list) > maxStages {
		return fmt.Errorf("decoder: %d steps, at most %d are read", len(list), maxStages)
	}
	var kinds []string
	for i, raw := range list {
		p, err := part(raw)
		if err != nil {
			return fmt.Errorf("decoder %d: %w", i, err)
		}
		if err := t.decoderPart(&p); err != nil {
			return fmt.Errorf("decoder %d: %w", i, err)
		}
		kinds = append(kinds, p.Type)
	}
	switch all := strings.Join(kinds, " "); all {
	case "ByteLevel":
	case "Replace ByteFallback Fuse", "Replace ByteFallback Fuse Strip", "Replace Fuse", "Replace Fuse Strip",
		"ByteFallback Metaspace", "ByteFallback Fuse Metaspace", "Metaspace":
		t.pieces = true
	default:
		return fmt.Errorf("decoder of the steps %.*q: %w", maxPartErrors, all, ErrUnsupported)
	}
	return nil
}

// decoderPart notes what one step does.
func (t *Tokenizer) decoderPart(p *partJSON) error {
	switch p.Type {
	case "ByteLevel", "ByteFallback", "Fuse":
		return nil
	case "Replace":
		if p.Pattern.String != nil && *p.Pattern.String == blankMark && p.Content == " " {
			return nil
		}
	case "Strip":
		if stripped, ok := p.Content, p.Start <= 1 && p.Stop == 0; ok && stripped == " " {
			if p.Start == 1 {
				t.lead = leadStrip
			}
			return nil
		}
	case "Metaspace":
		if err := checkMark(p); err != nil {
			return err
		}
		if scheme(p) != "never" {
			t.lead = leadFirst
		}
		return nil
	}
	return fmt.Errorf("decoder %.*q or its settings: %w", maxPartErrors, p.Type, ErrUnsupported)
}

func checkMark(p *partJSON) error {
	if p.Replacement != "" && p.Replacement != blankMark {
		return fmt.Errorf("Metaspace with %.*q for a space: %w", maxPartErrors, p.Replacement, ErrUnsupported)
	}
	return nil
}

// scheme is when a Metaspace step puts a mark before a text; old files say it by add_prefix_space.
func scheme(p *partJSON) string {
	switch {
	case p.PrependScheme != "":
		return p.PrependScheme
	case p.AddPrefixSpace != nil && !*p.AddPrefixSpace:
		return "never"
	}
	return "always"
}

// metaspace is the pre-tokenizer of that name.
func metaspace(p *partJSON) (stage, error) {
	if err := checkMark(p); err != nil {
		return stage{}, err
	}
	when := scheme(p)
	if when != "never" && when != "always" && when != "first" {
		return stage{}, fmt.Errorf("Metaspace with prepend_scheme %.*q: %w", maxPartErrors, when, ErrUnsupported)
	}
	s := stage{prepare: func(s string, first bool) string {
		s = strings.ReplaceAll(s, " ", blankMark)
		if (when == "always" || when == "first" && first) && !strings.HasPrefix(s, blankMark) {
			s = blankMark + s
		}
		return s
	}}
	if p.Split == nil || *p.Split {
		s.next = nextMarked
	}
	return s, nil
}

// nextMarked ends a piece before the next mark.
func nextMarked(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	if at := strings.Index(s[n:], blankMark); at >= 0 {
		return n + at
	}
	return len(s)
}
