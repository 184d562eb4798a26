package kvcache

import "github.com/pelton-run/pelton/runtime/engine"

// leastShared is the fewest tokens that are worth a copy.
const leastShared = 16

// Share makes a sequence, which holds the beginning of prompt, known to others of its scope, and finds the
// open one of them that holds more of prompt: the first `tokens` tokens at place from are those of prompt,
// its last one excepted. It returns how many the sequence holds when there is none. The caller copies, and
// says so with Append and Note.
func (k *Cache) Share(id engine.Seq, scope string, prompt []int32) (from Place, tokens int) {
	s, ok := k.open[id]
	if !ok || scope == "" {
		return Place{}, 0
	}
	if s.scope == "" {
		if s.length > 0 {
			return Place{}, s.length // what it holds is not known
		}
		s.scope, s.tokens = scope, make([]int32, 0, s.capacity)
	}
	tokens = s.length
	for _, other := range k.owner {
		if other == nil || other == s || other.scope != scope {
			continue
		}
		if n := min(common(other.tokens, prompt), len(prompt)-1, s.capacity); n >= s.length+leastShared && n > tokens {
			from, tokens = Place{Slot: other.slot, Length: other.length}, n
		}
	}
	return from, tokens
}

// Note records which tokens were appended to a sequence that others may share.
func (k *Cache) Note(id engine.Seq, tokens []int32) {
	if s, ok := k.open[id]; ok && s.scope != "" {
		s.tokens = append(s.tokens, tokens...)
	}
}

// common is the length of the common beginning.
func common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
