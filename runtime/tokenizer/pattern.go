package tokenizer

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// The patterns by which files cut text are written for Oniguruma. Those that most models use are
// written out by hand in split.go; others run on Go's regexp, which finds the same first alternative,
// once spaces are spelled out and the one look-ahead that all of them end with is done by hand.

// spaceTail is how the patterns end: white space, of which the last character stays for the word that
// follows.
const spaceTail = `|\s+(?!\S)|\s+`

// spaces are the members of Oniguruma's \s, for use inside brackets; Go's \s knows ASCII only.
const spaces = `\t-\r\x{85}\p{Z}`

// maxPattern bounds a pattern in bytes.
const maxPattern = 4096

// compilePattern makes the function that returns the length of the first piece of a text: what the
// pattern matches at its start, or what lies before the first match.
func compilePattern(pattern string) (func(s string) int, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("a pattern of %d bytes, at most %d are read: %w", len(pattern), maxPattern, ErrUnsupported)
	}
	rest, tail := strings.CutSuffix(pattern, spaceTail)
	if tail {
		rest += `|(?P<tail>\s+)`
	}
	translated, err := translate(rest)
	if err != nil {
		return nil, fmt.Errorf("the pattern %.*q: %w: %w", maxPartErrors, pattern, err, ErrUnsupported)
	}
	re, err := regexp.Compile(translated)
	if err != nil {
		return nil, fmt.Errorf("the pattern %.*q: %w: %w", maxPartErrors, pattern, err, ErrUnsupported)
	}
	group := 2 * re.SubexpIndex("tail")
	return func(s string) int {
		at := re.FindStringSubmatchIndex(s)
		switch {
		case at == nil || at[0] == len(s):
			return len(s)
		case at[0] > 0:
			return at[0]
		case tail && at[group] >= 0:
			return nextSpace(s)
		case at[1] == 0: // an empty match cuts nothing
			return len(s)
		}
		return at[1]
	}, nil
}

// translate spells a pattern for Go's regexp and refuses what would mean something else there.
func translate(pattern string) (string, error) {
	var b strings.Builder
	class := false
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		switch {
		case c == '\\' && i+1 < len(pattern):
			i++
			text, err := escape(pattern[i], class)
			if err != nil {
				return "", err
			}
			b.WriteString(text)
			continue
		case class && (c == '[' || strings.HasPrefix(pattern[i:], "&&")):
			return "", errors.New("brackets inside brackets")
		case c == '[':
			class = true
		case c == ']':
			class = false
		case !class && (c == '^' || c == '$' || c == '.'):
			return "", fmt.Errorf("the sign %q", c)
		case !class && c == '+' && i > 0 && strings.IndexByte("?*+}", pattern[i-1]) >= 0 && (i < 2 || pattern[i-2] != '\\'):
			return "", errors.New("a possessive quantifier")
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// escape translates the character after a backslash.
func escape(c byte, class bool) (string, error) {
	switch {
	case c == 's' && class:
		return spaces, nil
	case c == 's':
		return "[" + spaces + "]", nil
	case c == 'S' && !class:
		return "[^" + spaces + "]", nil
	case strings.IndexByte("pPrntfvx", c) >= 0, c < '0', c > '9' && c < 'A', c > 'Z' && c < 'a', c > 'z':
		return `\` + string(rune(c)), nil
	}
	return "", fmt.Errorf(`the escape \%c`, c)
}
