package memory

import "sync"

// Budget counts bytes that are promised to somebody out of a total. It is safe from any goroutine and
// never blocks.
//
// Invariants: 0 <= reserved, a granted call never takes reserved beyond the total of that moment, and
// a refused call changes nothing. A total that shrinks below what is reserved takes nothing away:
// nothing more is granted until enough was given back.
type Budget struct {
	mu       sync.Mutex
	total    int64
	size     int64 // what total comes back to, as far as is known
	reserved int64
	promised int64 // of reserved: nobody uses it yet
	watchers []chan struct{}
	lent     []func(bytes int64)
}

// NewBudget makes a budget of total bytes, all free. A negative total counts as 0.
func NewBudget(total int64) *Budget {
	return &Budget{total: max(total, 0), size: max(total, 0)}
}

// Reserve takes n bytes, or returns false and takes nothing when they are not free or n is negative.
func (b *Budget) Reserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.take(n) {
		return false
	}
	b.lend()
	return true
}

// take counts n bytes as reserved if they are free. The caller holds b.mu.
func (b *Budget) take(n int64) bool {
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
	b.lend()
	b.notify()
	return true
}

// Resize turns a reservation of before bytes into one of after bytes in one move, so that nobody can
// take the difference in between. It returns false and changes nothing when the growth is not free,
// when before is more than is reserved, or when one of them is negative.
func (b *Budget) Resize(before, after int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.resize(before, after)
}

// resize is Resize for a caller that holds b.mu.
func (b *Budget) resize(before, after int64) bool {
	if before < 0 || after < 0 || before > b.reserved || after > before && after > b.total-(b.reserved-before) {
		return false
	}
	b.reserved += after - before
	b.lend()
	if after < before {
		b.notify()
	}
	return true
}

// Promise is Reserve for bytes that are perhaps not needed: until it is redeemed, what is lent stays.
func (b *Budget) Promise(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.take(n) {
		return false
	}
	b.promised += n
	return true
}

// Redeem is Resize of a promise, which is then a reservation as any other.
func (b *Budget) Redeem(before, after int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before < 0 || before > b.promised {
		return false
	}
	b.promised -= before
	if b.resize(before, after) {
		return true
	}
	b.promised += before
	return false
}

// Lend lets to hold what is free or only promised, without a reservation: it is told how much that is at each change, all
// borrowers alike, and must have given back what is more when it returns. It must not call the budget.
func (b *Budget) Lend(to func(bytes int64)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent = append(b.lent, to)
	b.lend()
}

func (b *Budget) lend() {
	for _, to := range b.lent {
		to(max(b.total-b.reserved+b.promised, 0) / int64(len(b.lent)))
	}
}

// Watch is a new channel that carries a value after bytes were given back or the total grew. One value
// may stand for several such events; nobody waits for the reader.
func (b *Budget) Watch() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := make(chan struct{}, 1)
	b.watchers = append(b.watchers, w)
	return w
}

// Notify tells the watchers to look again although nothing was given back, for those whose answer
// depends on more than the budget.
func (b *Budget) Notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notify()
}

func (b *Budget) notify() {
	for _, w := range b.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Free is what Reserve could take now, in bytes; never negative.
func (b *Budget) Free() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.total-b.reserved, 0)
}

// Reserved is what is taken now, in bytes.
func (b *Budget) Reserved() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reserved
}

// Total is how much may be reserved in all now, in bytes.
func (b *Budget) Total() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

// Size is what Total is but for a while: what needs more will never fit, what needs less may wait.
func (b *Budget) Size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// SetTotal changes what may be reserved in all, and what that will be again after a while; a negative number
// counts as 0. What is reserved stays so.
func (b *Budget) SetTotal(total, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	told := total > b.total || max(total, size, 0) < b.size // who waits for what never comes hears of it too
	b.total, b.size = max(total, 0), max(total, size, 0)
	b.lend()
	if told {
		b.notify()
	}
}
