package tokenizer

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// idsOf are the tokens that a made-up word has in these tests.
func idsOf(word string) []int32 {
	ids := make([]int32, len(word)%(cacheIDs+2))
	for i := range ids {
		ids[i] = int32(word[i])*1000 + int32(i)
	}
	return ids
}

func TestKeyOf(t *testing.T) {
	for n := range cacheWord + 1 {
		word := strings.Repeat("ab\x00\xffcdefgh", 3)[:n]
		var got []byte
		for _, k := range keyOf(word) {
			got = binary.LittleEndian.AppendUint64(got, k)
		}
		if want := word + strings.Repeat("\x00", cacheWord-n); string(got) != want {
			t.Errorf("keyOf(%q) = %q, want %q", word, got, want)
		}
	}
}

// Many at once put words into the same slots and look for them: what is found is always the word's own.
func TestCacheKeepsWordsApart(t *testing.T) {
	const seed = uint64(1)
	r := rand.New(rand.NewPCG(seed, 0))
	words := make([]string, 3<<cacheBits)
	for i := range words {
		b := make([]byte, 1+r.IntN(cacheWord))
		for j := range b {
			b[j] = byte(r.IntN(4)) // zeros too, and many words that are the beginning of others
		}
		words[i] = string(b)
	}
	c := newWordCache()
	var wg sync.WaitGroup
	var found [4]int
	for g := range found {
		r := rand.New(rand.NewPCG(seed, uint64(g+1)))
		wg.Go(func() {
			for range 1 << 17 {
				word := words[r.IntN(len(words))]
				k, before := keyOf(word), []int32{7}
				ids, ok := c.get(before, k, len(word))
				if !ok {
					c.put(k, len(word), idsOf(word))
					continue
				}
				found[g]++
				if ids[0] != 7 || !slices.Equal(ids[1:], idsOf(word)) {
					t.Errorf("get(%q) = %v, want %v", word, ids[1:], idsOf(word))
				}
			}
		})
	}
	wg.Wait()
	if slices.Min(found[:]) == 0 {
		t.Errorf("words found: %v, want some in each goroutine", found)
	}
}
