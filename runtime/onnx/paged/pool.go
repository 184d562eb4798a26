package paged

// pool gives out the pages of a cache. A caller that keeps an account of what is reserved, as kvcache does,
// never asks for more than are free.
type pool struct {
	free  []int32
	of    [][]int32 // by slot
	spare int32     // behind the others: for what nobody reads
}

func newPool(pages, slots int) *pool {
	p := &pool{free: make([]int32, pages), of: make([][]int32, slots), spare: int32(pages)}
	for i := range p.free {
		p.free[i] = int32(pages - 1 - i) // the first page goes first
	}
	return p
}

// take gives a slot that has none so many pages.
func (p *pool) take(slot, n int) {
	rest := len(p.free) - n
	p.of[slot] = append(p.of[slot][:0], p.free[rest:]...)
	p.free = p.free[:rest]
}

// give takes a slot's pages back.
func (p *pool) give(slot int) {
	p.free = append(p.free, p.of[slot]...)
	p.of[slot] = p.of[slot][:0]
}
