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
