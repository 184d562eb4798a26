package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// stage is one step of the pre-tokenizer: it cuts a text into pieces that are never merged with each
// other. Go's regexp has no look-ahead and is slow, so the patterns of most models are written out by hand.
type stage struct {
	next    func(s string) int                // length of the first piece of s, which is not empty; nil: no cut
	prepare func(s string, first bool) string // changes what comes in, first at the start of a text; nil: nothing
}

// prefixSpace puts a space before what does not begin with one.
func prefixSpace(s string, _ bool) string {
	if strings.HasPrefix(s, " ") {
		return s
	}
	return " " + s
}

// The patterns of pre-tokenizers that are known, by their exact text.
var patterns = map[string]func(s string) int{
	gpt2Pattern:   nextGPT2,
	llama3Pattern: func(s string) int { return nextTiktoken(s, 3) },
	qwen2Pattern:  func(s string) int { return nextTiktoken(s, 1) },
	`\p{N}`:       nextDigit,
	`\p{N}{1,3}`:  nextThreeDigits,
}

const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// class is what the patterns tell apart.
type class uint8

const (
	other class = iota
	letter
	number
	space
	none // end of the text
)

var asciiClass = func() (t [utf8.RuneSelf]class) {
	for r := range rune(utf8.RuneSelf) {
		t[r] = slowClass(r)
	}
	return t
}()

func slowClass(r rune) class {
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	default:
		return other
	}
}

// classAt returns the class and the length of the character at byte i of s.
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return none, 0
	}
	if s[i] < utf8.RuneSelf {
		return asciiClass[s[i]], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return slowClass(r), n
}

// run returns the end of the run of characters of class c that starts at byte i.
func run(s string, i int, c class) int { return scan(s, i, c, true) }

// scan returns where, from byte i on, the first character is that is of class c if within is false, and not if it
// is true.
func scan(s string, i int, c class, within bool) int {
	for i < len(s) {
		if b := s[i]; b < utf8.RuneSelf {
			if asciiClass[b] == c != within {
				return i
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if slowClass(r) == c != within {
			return i
		}
		i += n
	}
	return i
}

// nextGPT2 is gpt2Pattern.
func nextGPT2(s string) int {
	if n := contraction(s, false); n > 0 {
		return n
	}
	i := 0
	if s[0] == ' ' {
		i = 1
	}
	if c, n := classAt(s, i); c == letter || c == number || c == other {
		return run(s, i+n, c)
	}
	return nextSpace(s)
}

// nextSpace is \s+(?!\S)|\s+ for s that begins with white space: all of it, but the last character stays
// for the word that follows.
func nextSpace(s string) int {
	end, last := 0, 0
	for {
		c, n := classAt(s, end)
		if c != space {
			if c == none || last == 0 {
				return end
			}
			return last
		}
		last = end
		end += n
	}
}

// nextTiktoken is llama3Pattern for digits 3 and qwen2Pattern for 1.
func nextTiktoken(s string, digits int) int {
	if n := contraction(s, true); n > 0 {
		return n
	}
	c, n := classAt(s, 0)
	if c == letter {
		return run(s, n, letter)
	}
	if c == number {
		end := n
		for k := 1; k < digits; k++ {
			c, n := classAt(s, end)
			if c != number {
				break
			}
			end += n
		}
		return end
	}
	if s[0] != '\r' && s[0] != '\n' {
		if c, m := classAt(s, n); c == letter {
			return run(s, n+m, letter)
		}
	}
	i := 0
	if s[0] == ' ' {
		i = 1
	}
	if c, n := classAt(s, i); c == other {
		end := run(s, i+n, other)
		for end < len(s) && (s[end] == '\r' || s[end] == '\n') {
			end++
		}
		return end
	}
	end := run(s, 0, space)
	if nl := strings.LastIndexAny(s[:end], "\r\n"); nl >= 0 {
		return nl + 1
	}
	return nextSpace(s)
}

// contraction returns the length of 's, 't, 're, 've, 'm, 'll or 'd at the start of s, or 0. With fold,
// letters compare under simple case folding, in which U+017F (long s) is an s.
func contraction(s string, fold bool) int {
	if s[0] != '\'' || len(s) < 2 {
		return 0
	}
	if fold && strings.HasPrefix(s[1:], "\u017f") {
		return 1 + len("\u017f")
	}
	a, b := s[1], byte(0)
	if len(s) > 2 {
		b = s[2]
	}
	if fold {
		a, b = lower(a), lower(b)
	}
	switch a {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if b == 'e' {
			return 3
		}
	case 'l':
		if b == 'l' {
			return 3
		}
	}
	return 0
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// nextDigit sets every numeric character apart.
func nextDigit(s string) int {
	if c, n := classAt(s, 0); c == number {
		return n
	}
	return notNumber(s)
}

// nextThreeDigits sets runs of up to three numeric characters apart.
func nextThreeDigits(s string) int {
	end := 0
	for range 3 {
		c, n := classAt(s, end)
		if c != number {
			break
		}
		end += n
	}
	if end > 0 {
		return end
	}
	return notNumber(s)
}

// nextDigits sets whole runs of numeric characters apart.
func nextDigits(s string) int {
	if end := run(s, 0, number); end > 0 {
		return end
	}
	return notNumber(s)
}

func notNumber(s string) int { return scan(s, 0, number, false) }
