package batch

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pelton-run/pelton/runtime/engine"
)

// leastChosen is for how many rows one more processor is worth waking: choosing takes 20 to 300 µs.
const leastChosen = 4

// choosers sample the rows of a step, on as many processors as are worth it: between two steps the device waits for
// them.
type choosers struct {
	seqs   []*Sequence
	pieces []Piece
	rows   []*engine.Row
	next   atomic.Int64
	busy   sync.WaitGroup
}

// run calls choose of each sequence with a piece and returns when all are done.
func (c *choosers) run(seqs []*Sequence, pieces []Piece, rows []*engine.Row) {
	c.seqs, c.pieces, c.rows = seqs, pieces, rows
	c.next.Store(0)
	for range min(runtime.GOMAXPROCS(0), len(rows)/leastChosen) - 1 {
		c.busy.Add(1)
		go c.help()
	}
	c.work()
	c.busy.Wait()
}

func (c *choosers) help() {
	defer c.busy.Done()
	c.work()
}

func (c *choosers) work() {
	for {
		i := int(c.next.Add(1)) - 1
		if i >= len(c.rows) {
			return
		}
		c.seqs[c.pieces[i].Index].choose(c.pieces[i], c.rows[i])
	}
}
