package tokenizer

import (
	"math"
	"sync"
)

const (
	shortWord = 48 // symbols up to which merging scans all pairs instead of keeping a heap
	noMerge   = math.MaxUint64
)

// bpe merges the bytes or characters of a word, pair by pair in the order of the merge list, until no pair is in it.
type bpe struct {
	byteToken [256]int32     // -1: the vocabulary lacks the byte
	runes     map[rune]int32 // nil: words begin as bytes; else as characters
	fallback  bool           // characters that are no tokens become bytes
	unknown   int32          // stands for such a byte or character; -1: it is dropped
	fuse      bool           // neighboring unknown tokens become one
	merges    mergeTable
	whole     map[string]int32 // words that are tokens as they stand; nil unless the file says ignore_merges
	cache     wordCache
	longest   int // most bytes of a token, and so most symbols that become one
}

// encode appends the tokens of one word. Linear in its length for short words, O(n log n) for long ones. A word
// that has more than most tokens in any case may be left as it began; most is 0 for no such bound.
func (b *bpe) encode(dst []int32, word string, s *scratch, most int) []int32 {
	if len(word) == 1 && b.runes == nil {
		return b.appendByte(dst, word[0], len(dst))
	}
	if b.whole != nil {
		if id, ok := b.whole[word]; ok {
			return append(dst, id)
		}
	}
	if len(word) > cacheWord {
		return b.merge(dst, word, s, most)
	}
	key := keyOf(word)
	if ids, ok := b.cache.get(dst, key, len(word)); ok {
		return ids
	}
	start := len(dst)
	dst = b.merge(dst, word, s, 0)
	b.cache.put(key, len(word), dst[start:])
	return dst
}

// appendByte appends the token of one byte to a word whose first token is at start in dst.
func (b *bpe) appendByte(dst []int32, c byte, start int) []int32 {
	if id := b.byteToken[c]; id >= 0 {
		return append(dst, id)
	}
	return b.appendUnknown(dst, start)
}

func (b *bpe) appendUnknown(dst []int32, start int) []int32 {
	if b.unknown < 0 || b.fuse && len(dst) > start && dst[len(dst)-1] == b.unknown {
		return dst
	}
	return append(dst, b.unknown)
}

func (b *bpe) merge(dst []int32, word string, s *scratch, most int) []int32 {
	start := len(dst)
	if b.runes != nil {
		for _, r := range word {
			dst = b.appendRune(dst, r, start)
		}
	} else {
		for i := range len(word) {
			dst = b.appendByte(dst, word[i], start)
		}
	}
	ids := dst[start:]
	if most > 0 && len(ids)/b.longest > most {
		return dst
	}
	if len(ids) <= shortWord {
		return dst[:start+b.mergeShort(ids)]
	}
	return dst[:start+b.mergeLong(ids, s)]
}

// mergeShort merges ids in place, looking for the best pair in all of them each time, and returns how
// many are left.
func (b *bpe) mergeShort(ids []int32) int {
	var pair [shortWord]uint64 // pair[i]: rank and result of merging ids[i] and ids[i+1]
	n := len(ids)
	for i := 0; i+1 < n; i++ {
		pair[i] = b.merges.get(ids[i], ids[i+1])
	}
	for n > 1 {
		best, at := uint64(noMerge), 0
		for i, p := range pair[:n-1] {
			if p < best {
				best, at = p, i
			}
		}
		if best == noMerge {
			break
		}
		ids[at] = int32(uint32(best))
		copy(ids[at+1:n-1], ids[at+2:n])
		copy(pair[at:n-2], pair[at+1:n-1])
		n--
		if at > 0 {
			pair[at-1] = b.merges.get(ids[at-1], ids[at])
		}
		if at+1 < n {
			pair[at] = b.merges.get(ids[at], ids[at+1])
		}
	}
	return n
}

// mergeLong does the same with a linked list of symbols and a heap of pairs, ordered by rank, then by
// position. Entries of the heap go stale when a neighbor merges; they are recognized when they come up.
func (b *bpe) mergeLong(ids []int32, s *scratch) int {
	n := len(ids)
	s.prev, s.next = resize(s.prev, n), resize(s.next, n)
	prev, next, heap := s.prev, s.next, s.heap[:0]
	for i := range n {
		prev[i], next[i] = int32(i-1), int32(i+1)
		if i+1 < n {
			if p := b.merges.get(ids[i], ids[i+1]); p != noMerge {
				heap = append(heap, p>>32<<32|uint64(i))
			}
		}
	}
	heapify(heap)
	push := func(at, right int32) {
		if p := b.merges.get(ids[at], ids[right]); p != noMerge {
			heap = append(heap, p>>32<<32|uint64(at))
			siftUp(heap)
		}
	}
	for len(heap) > 0 {
		top := heap[0]
		heap = popTop(heap)
		at := int32(uint32(top))
		if ids[at] < 0 {
			continue // merged into its left neighbor
		}
		right := next[at]
		if int(right) >= n {
			continue
		}
		p := b.merges.get(ids[at], ids[right])
		if p == noMerge || p>>32 != top>>32 {
			continue
		}
		ids[at], ids[right] = int32(uint32(p)), -1
		next[at] = next[right]
		if int(next[at]) < n {
			prev[next[at]] = at
			push(at, next[at])
		}
		if prev[at] >= 0 {
			push(prev[at], at)
		}
	}
	s.heap = heap
	left := 0
	for at := 0; at < n; at = int(next[at]) {
		ids[left], left = ids[at], left+1
	}
	return left
}

func resize(s []int32, n int) []int32 {
	if cap(s) < n {
		return make([]int32, n)
	}
	return s[:n]
}

// A binary min-heap of plain numbers; container/heap would box each of them.
func heapify(h []uint64) {
	for i := len(h)/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
}

func siftDown(h []uint64, i int) {
	v := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if v <= h[c] {
			break
		}
		h[i], i = h[c], c
	}
	h[i] = v
}

func siftUp(h []uint64) {
	i := len(h) - 1
	v := h[i]
	for i > 0 && v < h[(i-1)/2] {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = v
}

func popTop(h []uint64) []uint64 {
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	if last > 0 {
		siftDown(h, 0)
	}
	return h
}

// mergeTable is an open-addressed hash table from a pair of tokens to rank<<32 | merged token.
type mergeTable struct {
	slots []mergeSlot // a power of two, at most half full
	shift uint        // 64 - log2(len(slots))
}

type mergeSlot struct{ pair, merge uint64 }

func newMergeTable(n int) mergeTable {
	bits := uint(4)
	for 1<<bits < 2*n {
		bits++
	}
	t := mergeTable{slots: make([]mergeSlot, 1<<bits), shift: 64 - bits}
	for i := range t.slots {
		t.slots[i].merge = noMerge
	}
	return t
}

// slot finds the pair's place: the one that holds it or the free one where it belongs.
func (t *mergeTable) slot(pair uint64) *mergeSlot {
	i := pair * 0x9e3779b97f4a7c15 >> t.shift // Fibonacci hashing, Knuth volume 3, section 6.4
	for {
		s := &t.slots[i&uint64(len(t.slots)-1)]
		if s.merge == noMerge || s.pair == pair {
			return s
		}
		i++
	}
}

func (t *mergeTable) get(left, right int32) uint64 {
	return t.slot(uint64(uint32(left))<<32 | uint64(uint32(right))).merge
}

func (t *mergeTable) put(left, right int32, rank int, merged int32) {
	pair := uint64(uint32(left))<<32 | uint64(uint32(right))
	*t.slot(pair) = mergeSlot{pair: pair, merge: uint64(rank)<<32 | uint64(uint32(merged))}
}

// scratch is the working memory of one Encode.
type scratch struct {
	prev, next []int32
	heap       []uint64
}

// Scratch that grew beyond this many symbols is left to the garbage collector.
const maxKeptScratch = 1 << 16

type scratchPool struct{ pool sync.Pool }

func (p *scratchPool) take() *scratch {
	if s, ok := p.pool.Get().(*scratch); ok {
		return s
	}
	return new(scratch)
}

func (p *scratchPool) give(s *scratch) {
	if cap(s.prev) <= maxKeptScratch && cap(s.heap) <= 2*maxKeptScratch {
		p.pool.Put(s)
	}
}
