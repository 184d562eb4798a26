package tokenizer

import (
	"fmt"
	"regexp/syntax"
)

// How much a normalizer may add to a text, all its steps together. Those of known models stay below 34 times
// and a few bytes; a hostile file could make gigabytes of a short prompt.
const (
	maxGrowth  = 64 // times the bytes of the text
	maxPrepend = 64 // bytes
)

// growth is the most that steps make of a text: factor times its bytes, and prepended ones.
type growth struct {
	factor  float64
	prepend int
}

// add counts one more step.
func (g *growth) add(step growth) error {
	g.factor *= max(1, step.factor)
	g.prepend += step.prepend
	if g.factor > maxGrowth || g.prepend > maxPrepend {
		return fmt.Errorf("it may make a text more than %d times as long, or prepend more than %d bytes: %w", maxGrowth, maxPrepend, ErrUnsupported)
	}
	return nil
}

// replaced is the growth by content in the place of matches of at least shortest bytes. Empty matches are
// before every character and at the end.
func replaced(shortest int, content string) growth {
	if shortest == 0 {
		return growth{factor: float64(len(content) + 1)}
	}
	return growth{factor: float64(len(content)) / float64(shortest)}
}

// shortest is the fewest characters that a pattern matches, or less.
func shortest(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpCapture, syntax.OpPlus:
		return shortest(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min * shortest(re.Sub[0])
	case syntax.OpConcat:
		n := 0
		for _, s := range re.Sub {
			n += shortest(s)
		}
		return n
	case syntax.OpAlternate:
		n := shortest(re.Sub[0])
		for _, s := range re.Sub[1:] {
			n = min(n, shortest(s))
		}
		return n
	}
	return 0
}
