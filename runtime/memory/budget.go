package memory

import "sync"

// Budget counts bytes that are promised to somebody out of a fixed total. It is safe from any
// goroutine and never blocks.
//
// Invariants: 0 <= reserved <= total, and a refused call changes nothing.
type Budget struct {
	mu       sync.Mutex
	total    int64
	reserved int64
}

// NewBudget makes a budget of total bytes, all free. A negative total counts as 0.
func NewBudget(total int64) *Budget {
	return &Budget{total: max(total, 0)}
}

// Reserve takes n bytes, or returns false and takes nothing when they are not free or n is negative.
func (b *Budget) Reserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 || n > b.total-b.reserved {
		return false
	}
	b.reserved += n
	return true
}

// Release gives n reserved bytes back. It returns false when that is more than is reserved, or
// negative: a fault of the caller, after which nothing has changed.
func (b *Budget) Release(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 || n > b.reserved {
		return false
	}
	b.reserved -= n
	return true
}

// Resize turns a reservation of before bytes into one of after bytes in one move, so that nobody can
// take the difference in between. It returns false and changes nothing when the growth is not free,
// when before is more than is reserved, or when one of them is negative.
func (b *Budget) Resize(before, after int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before < 0 || after < 0 || before > b.reserved || after > b.total-(b.reserved-before) {
		return false
	}
	b.reserved += after - before
	return true
}

// Free is what Reserve could take now, in bytes.
func (b *Budget) Free() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total - b.reserved
}

// Reserved is what is taken now, in bytes.
func (b *Budget) Reserved() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reserved
}

// Total is the size of the budget in bytes; it never changes.
func (b *Budget) Total() int64 { return b.total }
