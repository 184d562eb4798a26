package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// The byte-level alphabet of GPT-2: each byte is written as one printable character, so that token
// strings in tokenizer.json are valid text. Printable Latin-1 stands for itself, the other 68 bytes
// for U+0100 on, in order.
var byteRune, runeByte = alphabet()

func alphabet() (to [256]rune, from map[rune]byte) {
	from = make(map[rune]byte, 256)
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xa1 || b == 0xad {
			r, next = next, next+1
		}
		to[b], from[r] = r, byte(b)
	}
	return to, from
}

// tokenBytes turns a token string of the file into the bytes it stands for. A string with a character
// outside the alphabet stands for itself and is never the result of a merge (coded is false); the
// reference's decoder has the same rule.
func tokenBytes(token string) (text string, coded bool) {
	b := make([]byte, 0, len(token))
	for _, r := range token {
		c, ok := runeByte[r]
		if !ok {
			return token, false
		}
		b = append(b, c)
	}
	return string(b), true
}

// sequence looks at the start of s (not empty). It returns the length of the first UTF-8 sequence and
// true, or the length of the maximal invalid piece and false: the longest start of a valid sequence
// that s does not continue, at least one byte (Unicode 16, section 3.9, "U+FFFD Substitution of
// Maximal Subparts"). cut says that an invalid piece runs to the end of s, so more bytes might
// complete it.
func sequence(s string) (n int, valid, cut bool) {
	if s[0] < utf8.RuneSelf {
		return 1, true, false
	}
	if _, n := utf8.DecodeRuneInString(s); n > 1 {
		return n, true, false
	}
	want, low, high := 0, byte(0x80), byte(0xbf) // bytes after the first; bounds of the second
	switch c := s[0]; {
	case c >= 0xc2 && c <= 0xdf:
		want = 1
	case c >= 0xe0 && c <= 0xef:
		want = 2
		if c == 0xe0 {
			low = 0xa0
		} else if c == 0xed {
			high = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		want = 3
		if c == 0xf0 {
			low = 0x90
		} else if c == 0xf4 {
			high = 0x8f
		}
	default:
		return 1, false, false
	}
	n = 1
	for n <= want && n < len(s) && s[n] >= low && s[n] <= high {
		n, low, high = n+1, 0x80, 0xbf
	}
	return n, false, n == len(s)
}

// validUTF8 replaces each maximal invalid piece of s by U+FFFD.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for len(s) > 0 {
		n, valid, _ := sequence(s)
		if valid {
			b.WriteString(s[:n])
		} else {
			b.WriteRune(utf8.RuneError)
		}
		s = s[n:]
	}
	return b.String()
}
