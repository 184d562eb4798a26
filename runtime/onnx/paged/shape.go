package paged

import (
	"math/bits"
	"slices"
)

// form is what shapes a call: a graph is captured for each. Calls are filled up to one of few forms, with
// sequences that nobody wants, so that graphs are seldom captured and often used.
type form struct {
	sequences int // filled up
	extra     int // tokens beside one of each sequence, filled up
	width     int // pages of a sequence
}

func (f form) tokens() int { return f.sequences + f.extra }

// longest is the most tokens that one sequence can bring.
func (f form) longest() int { return 1 + f.extra }

// Steps to which calls are filled up. Between 2 and 64 sequences a call takes hardly longer for more of them; beyond,
// steps are smaller, for the logits of those that nobody wants are computed too.
var (
	sequenceSteps = []int{1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024}
	extraSteps    = []int{0, 16, 32, 64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 2048, 3072, 4096}
)

// fit is the smallest form for a call of so many tokens of sequences that use at most so many pages each, when a
// page holds page tokens. Tokens that fill it up need a sequence of their own, which holds at most context tokens.
func fit(sequences, tokens, width, page, context int) form {
	extra := tokens - sequences
	f := form{sequences: step(sequenceSteps, sequences), extra: step(extraSteps, extra)}
	if f.extra-extra >= context {
		f.extra = extra
	}
	if f.extra > extra && f.sequences == sequences {
		f.sequences = step(sequenceSteps, sequences+1)
	}
	filling := f.extra - extra + 1
	f.width = power(max(width, (filling+page-1)/page))
	if f.wide() && bits.Len(uint(f.width))%2 == 0 {
		f.width = min(2*f.width, power((context+page-1)/page))
	}
	return f
}

// wide tells whether a form has so many sequences that attention is not divided along them, so that it hardly matters
// how many pages they may use: widths are powers of four then, and there are fewer forms.
func (f form) wide() bool { return f.sequences >= 64 }

// least is how many tokens the longest sequence of the form has at the least, 1 when nobody needs to know.
func (f form) least(page int) int {
	if f.width == 1 || f.wide() {
		return 1
	}
	return f.width/2*page + 1
}

// step is the first of steps that is at least n, or n.
func step(steps []int, n int) int {
	if i, _ := slices.BinarySearch(steps, n); i < len(steps) {
		return steps[i]
	}
	return n
}

// power is the smallest power of two that is at least n.
func power(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }
