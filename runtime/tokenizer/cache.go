package tokenizer

import "sync/atomic"

const (
	cacheWord = 24 // longest word, in bytes, that is cached
	cacheIDs  = 8  // and the most tokens that it may have
	cacheBits = 14 // binary logarithm of how many words are cached at most
)

// wordCache keeps the tokens of short words: one entry a slot, the newest stays. Lookups take no lock and touch one
// line of the processor's cache, since between two texts the tables have left it.
type wordCache struct{ slots []cached }

// cached is a word and its tokens. Who reads takes the head before and after the rest: it changes with each word.
type cached struct {
	head atomic.Uint64                // version << 17 | being written << 16 | tokens << 8 | bytes of the word
	word [cacheWord / 8]atomic.Uint64 // a wordKey
	ids  [cacheIDs / 2]atomic.Uint64
}

const beingWritten = 1 << 16

// wordKey is a word's bytes, with zeros behind them.
type wordKey [cacheWord / 8]uint64

// keyOf reads eight bytes at a time: the last of a longer word overlap those before.
func keyOf(word string) (k wordKey) {
	i, n := 0, len(word)
	for ; n >= 8*i+8; i++ {
		k[i] = eight(word[8*i:])
	}
	if rest := n % 8; n > 8 && rest > 0 {
		k[i] = eight(word[n-8:]) >> (64 - 8*rest)
	} else if n < 8 {
		for j := range n {
			k[0] |= uint64(word[j]) << (8 * j)
		}
	}
	return k
}

// eight is one load for the compiler.
func eight(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func newWordCache() wordCache { return wordCache{slots: make([]cached, 1<<cacheBits)} }

func (c *wordCache) slot(k wordKey) *cached {
	const odd = 0x9e3779b97f4a7c15 // as for mergeTable
	h := ((k[0]*odd+k[1])*odd + k[2]) * odd
	return &c.slots[(h^h>>32)*odd>>(64-cacheBits)]
}

// get appends the tokens of a word of n bytes to dst, if it knows them.
func (c *wordCache) get(dst []int32, k wordKey, n int) ([]int32, bool) {
	e := c.slot(k)
	head := e.head.Load()
	if head&(beingWritten|0xff) != uint64(n) || e.word[0].Load() != k[0] || e.word[1].Load() != k[1] || e.word[2].Load() != k[2] {
		return dst, false
	}
	start, tokens := len(dst), int(head>>8&0xff)
	for i := 0; i < tokens; i += 2 {
		two := e.ids[i/2].Load()
		dst = append(dst, int32(uint32(two)), int32(uint32(two>>32)))
	}
	if e.head.Load() != head {
		return dst[:start], false
	}
	return dst[:start+tokens], true
}

// put keeps the tokens of a word of n bytes, unless there are too many or somebody else is writing in its place.
func (c *wordCache) put(k wordKey, n int, ids []int32) {
	if len(ids) > cacheIDs {
		return
	}
	e := c.slot(k)
	head := e.head.Load()
	if head&beingWritten != 0 || !e.head.CompareAndSwap(head, head|beingWritten) {
		return
	}
	for i := range k {
		e.word[i].Store(k[i])
	}
	for i := 0; i < len(ids); i += 2 {
		two := uint64(uint32(ids[i]))
		if i+1 < len(ids) {
			two |= uint64(uint32(ids[i+1])) << 32
		}
		e.ids[i/2].Store(two)
	}
	e.head.Store((head>>17+1)<<17 | uint64(len(ids))<<8 | uint64(n))
}
