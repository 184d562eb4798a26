// Package kvcache keeps the books of an engine's KV cache: who holds how much of it, and in which slot
// each sequence lies.
//
// Previous step of the walk: runtime/onnx and runtime/sim ask it before every pass; next step: the
// memory itself, which only they touch.
//
// It is pure bookkeeping: it never allocates, copies or frees KV memory, knows no clock and starts no
// goroutine. A [Cache] belongs to one goroutine at a time; its owner locks.
package kvcache

import (
	"fmt"
	"slices"

	"github.com/pelton-run/pelton/runtime/engine"
)

// Config says what is given out. All fields but Budget must be positive.
type Config struct {
	BlockTokens   int   // reservations and uses are rounded up to this many tokens
	BytesPerToken int64 // bytes of one token's keys and values over all layers
	ContextLength int   // most tokens of one sequence, and the length of a slot
	MaxSequences  int   // most sequences open at once
	Budget        int64 // bytes that open sequences may reserve together; 0 means all slots in full
}

// Cache is the account of one engine's KV memory, laid out in MaxSequences slots of ContextLength tokens.
//
// Invariants:
//  1. No two open sequences share a slot.
//  2. The bytes reserved never exceed the budget that held when the last of them was reserved.
//  3. A sequence never holds more tokens than it reserved.
//  4. What is kept of closed sequences is never more than Keep allows nor than the budget has left.
type Cache struct {
	cfg      Config
	budget   int64
	reserved int64 // bytes
	used     int64 // bytes
	next     engine.Seq
	open     map[engine.Seq]*sequence
	owner    []*sequence // by slot; nil when free
	kept     []*sequence // closed, but still in their slots; the least useful first
	keeping  int64       // bytes of kept
	keep     int64       // most of them
	freed    []Place     // of kept ones that were given up
	admitted []*engine.Row
}

type sequence struct {
	id       engine.Seq
	slot     int
	length   int  // tokens held
	touched  int  // tokens held at most so far, of which the memory is used
	capacity int  // tokens reserved, not rounded
	stepping bool // in the call of Admit

	scope  string  // who may share what it holds; "" nobody
	tokens []int32 // that it holds, when it has a scope
}

// Place is where a sequence lies.
type Place struct {
	Slot   int
	Length int // tokens held
}

// New makes an empty cache. It panics when a field of c that must be positive is not.
func New(c Config) *Cache {
	if c.BlockTokens <= 0 || c.BytesPerToken <= 0 || c.ContextLength <= 0 || c.MaxSequences <= 0 {
		panic(fmt.Sprintf("kvcache: sizes must be positive: %+v", c))
	}
	k := &Cache{cfg: c, open: make(map[engine.Seq]*sequence, c.MaxSequences), owner: make([]*sequence, c.MaxSequences)}
	k.SetBudget(c.Budget)
	return k
}

// SetBudget changes the budget; 0 means all slots in full. Sequences that are open keep what they have.
func (k *Cache) SetBudget(bytes int64) {
	if bytes <= 0 {
		bytes = k.bytes(k.cfg.ContextLength) * int64(k.cfg.MaxSequences)
	}
	k.budget = bytes
	k.shrink(min(k.keep, k.budget-k.reserved))
}

// bytes is what n tokens take, rounded up to blocks.
func (k *Cache) bytes(n int) int64 {
	b := k.cfg.BlockTokens
	return int64((n+b-1)/b*b) * k.cfg.BytesPerToken
}

// Open reserves memory for a sequence of at most tokens tokens and gives it a slot. The errors are
// engine.ErrTooLong and engine.ErrNoMemory, wrapped with the figures.
func (k *Cache) Open(tokens int) (engine.Seq, error) {
	if tokens <= 0 {
		return 0, fmt.Errorf("open a sequence of %d tokens: it needs at least 1", tokens)
	}
	if tokens > k.cfg.ContextLength {
		return 0, fmt.Errorf("%w: %d tokens, the context holds %d", engine.ErrTooLong, tokens, k.cfg.ContextLength)
	}
	need := k.bytes(tokens)
	if need > k.budget {
		return 0, fmt.Errorf("%w: %d tokens take %d bytes, the kv budget is %d", engine.ErrTooLong, tokens, need, k.budget)
	}
	if need > k.budget-k.reserved {
		return 0, fmt.Errorf("%w: %d tokens take %d bytes, %d of %d are free", engine.ErrNoMemory, tokens, need, max(0, k.budget-k.reserved), k.budget)
	}
	if len(k.open) == k.cfg.MaxSequences {
		return 0, fmt.Errorf("%w: %d sequences are open, the most at once", engine.ErrNoMemory, len(k.open))
	}
	k.shrink(min(k.keep, k.budget-k.reserved-need))
	k.next++
	s := &sequence{id: k.next, slot: k.freeSlot(), capacity: tokens}
	k.owner[s.slot] = s
	k.open[s.id] = s
	k.reserved += need
	return s.id, nil
}

func (k *Cache) freeSlot() int {
	i := slices.Index(k.owner, nil)
	if i < 0 && len(k.kept) > 0 {
		i = k.kept[0].slot
		k.giveUp(0)
	}
	if i < 0 {
		panic("kvcache: no free slot although fewer sequences are open than there are slots")
	}
	return i
}

// Close ends a sequence and says where the memory lies that it gives back. It returns false for a handle that
// is not open, and when the memory is kept for others of its scope (see Keep).
func (k *Cache) Close(id engine.Seq) (Place, bool) {
	s, ok := k.open[id]
	if !ok {
		return Place{}, false
	}
	delete(k.open, id)
	k.reserved -= k.bytes(s.capacity)
	k.used -= k.bytes(s.touched)
	if k.retain(s) {
		return Place{}, false
	}
	k.owner[s.slot] = nil
	return Place{Slot: s.slot, Length: s.touched}, true
}

// Find says where a sequence lies and how many tokens it holds.
func (k *Cache) Find(id engine.Seq) (Place, bool) {
	s, ok := k.open[id]
	if !ok {
		return Place{}, false
	}
	return Place{Slot: s.slot, Length: s.length}, true
}

// Fits tells whether n more tokens may be appended to a sequence: nil, engine.ErrUnknownSequence or
// engine.ErrTooLong with the figures.
func (k *Cache) Fits(id engine.Seq, n int) error {
	s, ok := k.open[id]
	if !ok {
		return fmt.Errorf("%w: %d", engine.ErrUnknownSequence, id)
	}
	if n < 0 || n > s.capacity-s.length {
		return fmt.Errorf("%w: it holds %d tokens and reserved %d, %d more do not fit", engine.ErrTooLong, s.length, s.capacity, n)
	}
	return nil
}

// Append records n more tokens; its errors are those of Fits.
func (k *Cache) Append(id engine.Seq, n int) error {
	if err := k.Fits(id, n); err != nil {
		return err
	}
	s := k.open[id]
	s.length += n
	if s.length > s.touched {
		k.used += k.bytes(s.length) - k.bytes(s.touched)
		s.touched = s.length
	}
	return nil
}

// Forget takes the last n tokens of a sequence back. Their memory stays its own until it ends.
func (k *Cache) Forget(id engine.Seq, n int) {
	s, ok := k.open[id]
	if !ok || n <= 0 {
		return
	}
	s.length = max(0, s.length-n)
	s.tokens = s.tokens[:min(len(s.tokens), s.length)]
}

// Memory is the account now.
func (k *Cache) Memory() engine.Memory {
	return engine.Memory{Budget: k.budget, Reserved: k.reserved, Used: k.used, Kept: k.keeping}
}
