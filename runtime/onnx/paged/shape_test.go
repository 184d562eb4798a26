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
		sequences := rapid.IntRange(1, 1100).Draw(t, "sequences")
		tokens := sequences + rapid.IntRange(0, 5000).Draw(t, "extra")
		width := rapid.IntRange(1, (context+page-1)/page).Draw(t, "width")
		f := fit(sequences, tokens, width, page, context)
		filling := f.tokens() - tokens - (f.sequences - sequences) // beside one of each further sequence
		switch {
		case f.sequences < sequences, f.tokens() < tokens, f.width < width, f.width&(f.width-1) != 0:
			t.Fatalf("%+v does not hold it", f)
		case f.sequences == sequences && f.tokens() != tokens:
			t.Fatalf("%+v has %d tokens too many and no sequence for them", f, f.tokens()-tokens)
		case f.sequences > sequences && (filling < 0 || filling+1 > f.width*page || filling+1 > context):
			t.Fatalf("%+v: %d tokens fill it up, in %d pages of %d, context %d", f, filling, f.width, page, context)
		case f.longest() < tokens-sequences+1, f.least(page) > f.width*page:
			t.Fatalf("%+v: bounds %d, %d", f, f.longest(), f.least(page))
		case f.width/4 >= width && f.width/4*page >= filling+1, !f.wide() && f.width/2 >= width && f.width/2*page >= filling+1:
			t.Fatalf("%+v is wider than it need be", f)
		}
	})
}
