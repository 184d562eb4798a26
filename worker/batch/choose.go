package batch

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pelton-run/pelton/runtime/engine"
)

// leastChosen is for how many rows one more processor is worth waking: choosing takes 20 to 300 µs.
const leastChosen = 4

// turn is the step under way. Between two steps the device waits, so the rows are sampled on as many processors as are
// worth it.
type turn struct {
	ready  []*Sequence
	views  []View
	pieces []Piece
	rows   []*engine.Row

	next atomic.Int64
	busy sync.WaitGroup
}

// choose calls choose of each sequence with a piece and returns when all are done.
func (t *turn) choose() {
	t.next.Store(0)
	for range min(runtime.GOMAXPROCS(0), len(t.rows)/leastChosen) - 1 {
		t.busy.Add(1)
		go t.help()
	}
	t.work()
	t.busy.Wait()
}

func (t *turn) help() {
	defer t.busy.Done()
	t.work()
}

func (t *turn) work() {
	for {
		i := int(t.next.Add(1)) - 1
		if i >= len(t.rows) {
			return
		}
		t.ready[t.pieces[i].Index].choose(t.pieces[i], t.rows[i])
	}
}
