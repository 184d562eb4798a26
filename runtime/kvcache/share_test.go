package kvcache_test

import (
	"testing"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
)

func numbers(from, to int) []int32 {
	var out []int32
	for i := from; i < to; i++ {
		out = append(out, int32(i))
	}
	return out
}

// Sequences of ann hold 0 to 99 and 0 to 49, one of bob 0 to 199.
func TestShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		scope  string
		held   int // tokens of the prompt
		prompt []int32
		tokens int // wanted
		slot   int // wanted, -1 if there is nothing to copy
	}{
		{"all of the longest", "ann", 0, numbers(0, 200), 100, 0},
		{"another scope's", "bob", 0, numbers(0, 150), 149, 2},
		{"a scope of its own", "eve", 0, numbers(0, 200), 0, -1},
		{"no scope", "", 0, numbers(0, 200), 0, -1},
		{"never the last token", "ann", 0, numbers(0, 40), 39, 0},
		{"up to the first other token", "ann", 0, append(numbers(0, 30), 7, 8, 9), 30, 0},
		{"too few", "ann", 0, append(numbers(0, 15), numbers(300, 400)...), 0, -1},
		{"nothing in common", "ann", 0, numbers(1, 100), 0, -1},
		{"more of it", "ann", 20, numbers(0, 200), 100, 0},
		{"hardly more of it", "ann", 90, numbers(0, 200), 90, -1},
		{"empty", "ann", 0, nil, 0, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := kvcache.New(kvcache.Config{BlockTokens: 16, BytesPerToken: 1, ContextLength: 256, MaxSequences: 8})
			add := func(scope string, tokens []int32) engine.Seq {
				s, err := k.Open(220)
				if err != nil {
					t.Fatal(err)
				}
				k.Share(s, scope, tokens)
				if err := k.Append(s, len(tokens)); err != nil {
					t.Fatal(err)
				}
				k.Note(s, tokens)
				return s
			}
			add("ann", numbers(0, 100))
			closed := add("ann", numbers(0, 50))
			add("bob", numbers(0, 200))
			k.Close(add("ann", numbers(0, 200)))
			k.Close(closed)
			s, err := k.Open(220)
			if err != nil {
				t.Fatal(err)
			}
			if c.held > 0 {
				k.Share(s, c.scope, numbers(500, 502))
				if err := k.Append(s, c.held); err != nil {
					t.Fatal(err)
				}
				k.Note(s, c.prompt[:c.held])
			}
			from, tokens := k.Share(s, c.scope, c.prompt)
			if tokens != c.tokens || c.slot >= 0 && from.Slot != c.slot {
				t.Errorf("Share = %+v, %d tokens; want slot %d, %d", from, tokens, c.slot, c.tokens)
			}
		})
	}
}

// Closed sequences are kept while there is room for them, and go when it is wanted: the least useful first.
func TestKeep(t *testing.T) {
	t.Parallel()
	k := kvcache.New(kvcache.Config{BlockTokens: 16, BytesPerToken: 1, ContextLength: 256, MaxSequences: 4, Budget: 512})
	run := func(scope string, tokens []int32) (kept bool) {
		t.Helper()
		s, err := k.Open(len(tokens))
		if err != nil {
			t.Fatal(err)
		}
		k.Share(s, scope, tokens)
		if err := k.Append(s, len(tokens)); err != nil {
			t.Fatal(err)
		}
		k.Note(s, tokens)
		_, gone := k.Close(s)
		return !gone
	}
	finds := func(scope string, prompt []int32) int {
		t.Helper()
		s, err := k.Open(256)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close(s)
		_, n := k.Share(s, scope, prompt)
		return n
	}
	check := func(what string, kept int64, freed int) {
		t.Helper()
		if m := k.Memory(); m.Kept != kept || m.Reserved+m.Kept > m.Budget {
			t.Errorf("%s: account %+v, want %d kept", what, m, kept)
		}
		if got := k.Freed(); len(got) != freed {
			t.Errorf("%s: %v were given up, want %d", what, got, freed)
		}
	}
	if run("ann", numbers(0, 64)) {
		t.Error("a sequence was kept although nothing may be")
	}
	k.Keep(128)
	if run("", numbers(0, 64)) || run("ann", numbers(0, 15)) || run("ann", numbers(0, 129)) {
		t.Error("a sequence without a scope, one that is too short or one that is too long was kept")
	}
	check("nothing of use", 0, 0)
	if !run("ann", numbers(0, 64)) || finds("ann", numbers(0, 100)) != 64 || finds("bob", numbers(0, 100)) != 0 {
		t.Error("ann's sequence was not kept for ann alone")
	}
	check("one", 64, 0)
	run("ann", numbers(0, 80)) // goes on from the first, which is of no more use
	check("one that goes on", 80, 1)
	run("ann", numbers(500, 532))
	check("two", 112, 0)
	finds("ann", numbers(0, 100)) // the first was of use last
	run("ann", numbers(700, 748))
	check("three do not fit", 128, 1)
	if finds("ann", numbers(500, 600)) != 0 || finds("ann", numbers(0, 100)) != 80 {
		t.Error("the wrong one was given up")
	}
	k.Keep(100)
	check("less room", 80, 1)
	var open []engine.Seq
	for range 2 { // all that the budget has
		s, err := k.Open(256)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	check("a reservation wants the memory", 0, 1)
	for _, s := range open {
		k.Close(s)
	}
	run("ann", numbers(0, 64))
	for range 4 {
		if _, err := k.Open(16); err != nil {
			t.Fatal(err)
		}
	}
	check("a sequence wants the slot", 0, 1)
}

// TestTakeOver: what is taken over is a multiple of the unit and not more than allowed, and is in the books at once, for
// others as well.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	k := kvcache.New(kvcache.Config{BlockTokens: 16, BytesPerToken: 1, ContextLength: 128, MaxSequences: 4})
	open := func() engine.Seq {
		s, err := k.Open(128)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second, third := open(), open(), open()
	if _, held, n := k.TakeOver(first, "ann", numbers(0, 100), 32, 128); held != 0 || n != 0 {
		t.Errorf("the first one takes over %d to %d, there is nothing", held, n)
	}
	if err := k.Append(first, 100); err != nil {
		t.Fatal(err)
	}
	k.Note(first, numbers(0, 100))
	for _, c := range []struct{ unit, most, held, n int }{{32, 40, 0, 32}, {32, 128, 32, 64}, {32, 128, 64, 64}, {1, 128, 64, 90}} {
		if _, held, n := k.TakeOver(second, "ann", numbers(0, 91), c.unit, c.most); held != c.held || n != c.n {
			t.Errorf("%+v: took over %d to %d", c, held, n)
		}
		if at, _ := k.Find(second); at.Length != c.n {
			t.Errorf("%+v: the sequence holds %d", c, at.Length)
		}
	}
	k.Close(first)
	if from, _, n := k.TakeOver(third, "ann", numbers(0, 85), 1, 128); n != 84 || from.Length != 90 {
		t.Errorf("from the second one %d tokens were taken over, of %d", n, from.Length)
	}
	if _, held, n := k.TakeOver(third, "ann", numbers(0, 91), 32, 128); held != 84 || n != 84 {
		t.Errorf("between units %d to %d were taken over", held, n)
	}
}
