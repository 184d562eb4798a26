package paged

// pool gives out the pages of a cache. A caller that keeps an account of what is reserved, as kvcache does,
// never asks for more than are free.
type pool struct {
	free  []int32
	of    [][]int32 // by slot
	users []int     // slots that have a page, by page
	spare int32     // behind the others: for what nobody reads
}

func newPool(pages, slots int) *pool {
	p := &pool{free: make([]int32, pages), of: make([][]int32, slots), users: make([]int, pages), spare: int32(pages)}
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
	for _, page := range p.of[slot] {
		p.users[page] = 1
	}
}

// trim takes a slot's pages back but for the first n.
func (p *pool) trim(slot, n int) {
	for _, page := range p.of[slot][n:] {
		if p.users[page]--; p.users[page] == 0 {
			p.free = append(p.free, page)
		}
	}
	p.of[slot] = p.of[slot][:n]
}

// share gives slot to the pages of slot from in place of its own, those before n that are not before at. Both only
// read them from now on.
func (p *pool) share(from, to, at, n int) {
	for i := at; i < n; i++ {
		own, page := p.of[to][i], p.of[from][i]
		p.users[page]++
		p.of[to][i] = page
		if p.users[own]--; p.users[own] == 0 {
			p.free = append(p.free, own)
		}
	}
}
