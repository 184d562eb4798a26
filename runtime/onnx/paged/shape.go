package paged

import (
	"math/bits"
	"slices"
)

// form is what shapes a call: a graph is captured for each. Calls are filled up to one of few forms, with
// sequences that nobody wants, so that graphs are seldom captured and often used.
type form struct {
	decoding int // sequences that bring one token, filled up, at least one
	others   int // sequences beside them, filled up
	extra    int // tokens of those, filled up
	results  int // rows of logits
	width    int // pages of a sequence
}

func (f form) tokens() int { return f.decoding + f.extra }

// Steps to which calls are filled up. Between 2 and 64 sequences a call takes hardly longer for more of them; beyond,
// steps are smaller, for the logits of those that nobody wants are computed too.
var (
	decodingSteps = []int{1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024}
	othersSteps   = []int{4, 16, 64, 256, 1024}
	extraSteps    = []int{0, 16, 32, 64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 2048, 3072, 4096}
)

// need is what a call has before it is filled up.
type need struct{ decoding, others, extra, width int }

// fit is the smallest form for a call, when a page holds page tokens. Tokens that fill it up need a sequence of
// their own, which holds at most context tokens. It has room for at least so many results.
func fit(n need, results, page, context int) form {
	f := form{decoding: step(decodingSteps, max(1, n.decoding)), extra: step(extraSteps, n.extra)}
	if f.extra-n.extra >= context {
		f.extra = n.extra
	}
	filling := f.extra - n.extra
	f.others = n.others
	if filling > 0 {
		f.others++
	}
	f.others = step(othersSteps, f.others)
	f.results = step(decodingSteps, max(1, n.decoding+n.others, results))
	f.width = power(max(n.width, (filling+page-1)/page))
	if bits.Len(uint(f.width))%2 == 0 { // few widths make few forms: it only bounds how many blocks share a sequence
		f.width = min(2*f.width, power((context+page-1)/page))
	}
	return f
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
