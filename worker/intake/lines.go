package intake

import "github.com/pelton-run/pelton/contracts"

// Line is one consumer of the model: the jobs of a class and a size.
type Line struct {
	Class contracts.Class
	Size  contracts.Size
}

// Patience is how often a waiting line of a class is passed over before it is due.
var Patience = map[contracts.Class]int{contracts.P0: 8, contracts.P1: 16, contracts.P2: 32, contracts.P3: 64}

// overdue is the multiple of its patience after which a line goes before everything.
const overdue = 4

// Do is what a worker does next.
type Do int

// The actions.
const (
	Wait Do = iota // until room is freed, a bell rings, or it is time to sweep
	Pull           // reserve the line's cost and ask it for a job
	Look           // ask whether a job waits in the line, which does not fit now
)

// Action is a decision of [Lines.Next].
type Action struct {
	Do   Do
	Line Line
	Cost int64 // bytes to reserve for a Pull, or that a Wait is for
}

type line struct {
	Line
	cost    int64 // at the last decision
	rank    int
	patient int  // Patience of its class
	marked  bool // may hold a job
	waiting bool // does hold one, as of the last look
	passed  int
	knowledge
}

// Lines decides which line is asked next. See the rules in the package comment. Pure bookkeeping: no
// clock, no I/O; not safe for concurrent use.
type Lines struct {
	all  []line // in the order of rule 1
	cost func(contracts.Size) int64
}

// NewLines makes the lines of a model. cost is the memory in bytes that a job of a size may need now.
// All lines start marked.
func NewLines(cost func(contracts.Size) int64) *Lines {
	l := &Lines{cost: cost}
	for rank, class := range contracts.Classes {
		for _, size := range contracts.Sizes {
			l.all = append(l.all, line{Line: Line{class, size}, rank: rank, patient: Patience[class], marked: true})
		}
	}
	return l
}

// Smallest is the least memory with which a Pull is possible.
func (l *Lines) Smallest() int64 {
	least := l.cost(contracts.Sizes[0])
	for _, size := range contracts.Sizes[1:] {
		least = min(least, l.cost(size))
	}
	return least
}

// Next decides what to do with free bytes and slots.
func (l *Lines) Next(free int64, slots int) Action {
	if slots < 1 || free < max(1, l.Smallest()) { // 0 free: the model has no memory at all, and its lines cost none
		return Action{}
	}
	for i := range l.all {
		if n := &l.all[i]; n.marked {
			n.cost = l.cost(n.Size)
		}
	}
	for i := range l.all { // rule 3, overdue
		if n := &l.all[i]; n.marked && n.passed >= overdue*n.patient {
			return n.act(free)
		}
	}
	for i := range l.all { // rule 3, due and fits
		if n := &l.all[i]; n.due() && n.cost <= free {
			return n.act(free)
		}
	}
	for rank := range contracts.Classes {
		for i := range l.all { // rule 3, due and does not fit
			if n := &l.all[i]; n.rank == rank && n.due() {
				return n.act(free)
			}
		}
		for i := range l.all { // rules 1 and 2
			if n := &l.all[i]; n.rank == rank && n.marked {
				return n.act(free)
			}
		}
	}
	return Action{}
}

func (n *line) due() bool { return n.marked && n.passed >= n.patient }

// act is what to do about a line whose turn it is.
func (n *line) act(free int64) Action {
	switch {
	case n.cost <= free:
		return Action{Do: Pull, Line: n.Line, Cost: n.cost}
	case !n.waiting:
		return Action{Do: Look, Line: n.Line}
	}
	return Action{Cost: n.cost} // hold
}

func (l *Lines) find(of Line) *line {
	for i := range l.all {
		if l.all[i].Line == of {
			return &l.all[i]
		}
	}
	return nil
}

// MarkAll says that nothing is known any more: every line may hold a job.
func (l *Lines) MarkAll() {
	for i := range l.all {
		l.all[i].marked, l.all[i].waiting = true, false
	}
}

// Forget drops what looks told, since another worker may have taken the job by now.
func (l *Lines) Forget() {
	for i := range l.all {
		l.all[i].waiting = false
	}
}

// Empty says that a line had no job.
func (l *Lines) Empty(of Line) {
	if n := l.find(of); n != nil {
		n.marked, n.waiting, n.passed = false, false, 0
	}
}

// Waits says that a look found a job in a line.
func (l *Lines) Waits(of Line) {
	if n := l.find(of); n != nil {
		n.waiting = true
	}
}

// Took says that a job was taken from a line: all others that may hold one were passed over.
func (l *Lines) Took(of Line) {
	for i := range l.all {
		switch n := &l.all[i]; {
		case n.Line == of:
			n.passed, n.waiting = 0, false
		case n.marked:
			n.passed++
		}
	}
}
