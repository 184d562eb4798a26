package paged

import (
	"testing"

	"pgregory.net/rapid"
)

// TestFit: a form holds the call that it was found for, and what fills it up has a sequence to be in.
func TestFit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		page := 1 << rapid.IntRange(4, 8).Draw(t, "page")
		context := rapid.IntRange(page, 1<<15).Draw(t, "context")
		n := need{decoding: rapid.IntRange(0, 1100).Draw(t, "decoding"), others: rapid.IntRange(0, 1100).Draw(t, "others")}
		if n.others > 0 {
			n.extra = 2*n.others + rapid.IntRange(0, 5000).Draw(t, "extra")
		}
		n.width = rapid.IntRange(1, (context+page-1)/page).Draw(t, "width")
		results := rapid.IntRange(0, 1100).Draw(t, "results")
		f := fit(n, results, page, context)
		filling := f.extra - n.extra
		switch {
		case f.decoding < max(1, n.decoding), f.others < max(1, n.others), filling < 0, f.results < max(1, results), f.width < n.width, f.width&(f.width-1) != 0:
			t.Fatalf("%+v does not hold %+v", f, n)
		case f.results < n.decoding+n.others:
			t.Fatalf("%+v has not a result for each of %+v", f, n)
		case filling > 0 && (f.others == n.others || filling > f.width*page || filling > context):
			t.Fatalf("%+v: %d tokens fill up %+v, in pages of %d, context %d", f, filling, n, page, context)
		case f.width/4 >= n.width && f.width/4*page >= filling:
			t.Fatalf("%+v is wider than %+v need be", f, n)
		}
	})
}
