package kvcache

import (
	"slices"

	"github.com/pelton-run/pelton/runtime/engine"
)

// leastShared is the fewest tokens that are worth a copy.
const leastShared = 16

// Share makes a sequence, which holds the beginning of prompt, known to others of its scope, and finds the
// one of them, open or kept, that holds more of prompt: the first `tokens` tokens at place from are those of prompt,
// its last one excepted. It returns how many the sequence holds when there is none. The caller copies, and
// says so with Append and Note; TakeOver does.
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
	for i, old := range k.kept {
		if old == k.owner[from.Slot] && tokens > s.length { // it is useful: the last to go
			k.kept = append(slices.Delete(k.kept, i, i+1), old)
			break
		}
	}
	return from, tokens
}

// TakeOver is Share with the books kept: the sequence holds the tokens of prompt from `held` to n, at most `most` more,
// once the caller has made them its own from what lies at place from. n is a multiple of unit, or nothing is taken over
// and n is held.
func (k *Cache) TakeOver(id engine.Seq, scope string, prompt []int32, unit, most int) (from Place, held, n int) {
	s, ok := k.open[id]
	if !ok {
		return Place{}, 0, 0
	}
	held = s.length
	if held%unit != 0 {
		return Place{}, held, held
	}
	from, n = k.Share(id, scope, prompt)
	n = min(n, held+most)
	if n -= n % unit; n <= held || k.Append(id, n-held) != nil {
		return Place{}, held, held
	}
	k.Note(id, prompt[held:n])
	return from, held, n
}

// Keep lets closed sequences that have a scope stay in memory, up to so many bytes, until the memory is wanted;
// 0 is the default. Freed says which had to go.
func (k *Cache) Keep(bytes int64) {
	k.keep = bytes
	k.shrink(min(k.keep, k.budget-k.reserved))
}

// Freed returns the places of kept sequences that were given up since the last call. The caller gives their
// memory back, before it uses a slot again.
func (k *Cache) Freed() []Place {
	out := k.freed
	k.freed = nil
	return out
}

// retain keeps a closed sequence in its slot, unless it is of no use to others or too large. Those of its
// scope that it continues go.
func (k *Cache) retain(s *sequence) bool {
	size, most := k.bytes(s.touched), min(k.keep, k.budget-k.reserved)
	if s.scope == "" || len(s.tokens) != s.length || s.length < leastShared || size > most {
		return false
	}
	for i := len(k.kept) - 1; i >= 0; i-- {
		if old := k.kept[i]; old.scope == s.scope && common(old.tokens, s.tokens) == old.length {
			k.giveUp(i)
		}
	}
	k.shrink(most - size)
	k.kept, k.keeping = append(k.kept, s), k.keeping+size
	return true
}

// shrink gives kept sequences up until they take at most so many bytes.
func (k *Cache) shrink(most int64) {
	for k.keeping > max(most, 0) {
		k.giveUp(0)
	}
}

func (k *Cache) giveUp(i int) {
	s := k.kept[i]
	k.kept = slices.Delete(k.kept, i, i+1)
	k.keeping -= k.bytes(s.touched)
	k.owner[s.slot] = nil
	k.freed = append(k.freed, Place{Slot: s.slot, Length: s.touched})
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
