package batch

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// View is what [Schedule] needs to know of one running sequence.
type View struct {
	Rank  int    // class of the job, 0 most urgent
	Order uint64 // arrival, lower is older
	Rest  int    // prompt tokens not fed yet; 0 when the sequence decodes or replays
}

// Limits bound one step.
type Limits struct {
	Budget int // prompt tokens of all rows together
	Row    int // prompt tokens of one row
	Min    int // fewest prompt tokens of a row, unless the prompt is shorter

	// Together is how many tokens are computed at once: a step of a multiple of them takes hardly longer than one of
	// some fewer. 0 or 1 where any number is as good.
	Together int
}

// Piece is one row of a step: the sequence at Index of the views, and how many prompt tokens it is
// fed; 0 is one generated token.
type Piece struct {
	Index  int
	Prompt int
}

// agedEvery says how often prompts are served oldest first instead of most urgent and shortest first, so that
// a steady stream of urgent or short prompts cannot keep another one from its first token.
const agedEvery = 8

// Schedule decides what step number step contains and appends it to into: a row for each sequence
// without rest, then prompt chunks until the budget is used: most urgent first, then what is through soonest,
// which is how the fewest wait, then oldest first. Chunks have at least Min tokens and never leave a rest below Min. Limits must satisfy
// [Limits.valid]; then a step is empty only if there are no views. Pure, and free of allocations when
// into has room for every view.
func Schedule(into []Piece, step uint64, views []View, l Limits) []Piece {
	for i, v := range views {
		if v.Rest == 0 {
			into = append(into, Piece{Index: i})
		}
	}
	decoding := len(into)
	for i, v := range views {
		if v.Rest > 0 {
			into = append(into, Piece{Index: i})
		}
	}
	prompts := into[decoding:]
	slices.SortFunc(prompts, func(a, b Piece) int {
		va, vb := views[a.Index], views[b.Index]
		oldest := cmp.Compare(va.Order, vb.Order)
		if step%agedEvery == agedEvery-1 {
			return oldest
		}
		return cmp.Or(va.Rank-vb.Rank, va.Rest-vb.Rest, oldest)
	})
	into, room := into[:decoding], l.Budget
	for _, p := range prompts {
		n := chunk(views[p.Index].Rest, min(room, l.Row), l.Min)
		if n == 0 {
			continue
		}
		into = append(into, Piece{Index: p.Index, Prompt: n}) // never past the prompt that is looked at
		room -= n
	}
	return into
}

// chunk is how much of rest fits in room without leaving less than least behind; 0 if nothing does.
func chunk(rest, room, least int) int {
	if rest <= room {
		return rest
	}
	n := room
	if rest-n < least {
		n = rest - least
	}
	if n < least || n <= 0 {
		return 0
	}
	return n
}

// valid tells whether every prompt can be cut under l.
func (l Limits) valid() bool {
	return l.Min >= 1 && l.Row >= 2*l.Min-1 && l.Budget >= 2*l.Min-1
}

// even is the number of prompt tokens below n that makes, with the rows that decode, a multiple of Together, or the
// one above it where no more than a quarter is missing: what is left over would take as long as so many.
func (l Limits) even(rows, n int) int {
	if rows == 0 || l.Together <= 1 {
		return n
	}
	even := (rows+n+l.Together/4)/l.Together*l.Together - rows
	if even > l.Budget {
		even -= l.Together
	}
	if even < min(n, paceFloor) {
		even += l.Together
	}
	if even > l.Budget {
		return n
	}
	return even
}

// Planner decides what each step of a device contains: [Schedule] within what its [Pace] allows. Steps do not
// become longer for prompts that are less urgent than one of the streams. Pure; not safe for concurrent use.
type Planner struct {
	Limits Limits

	steps uint64
	pace  Pace
}

// Plan appends the next step to into.
func (p *Planner) Plan(into []Piece, views []View) []Piece {
	decoding, urgent, pressing := 0, math.MaxInt, false
	for i := range views {
		if views[i].Rest == 0 {
			decoding++
			urgent = min(urgent, views[i].Rank)
		}
	}
	for i := range views {
		pressing = pressing || views[i].Rest > 0 && views[i].Rank <= urgent
	}
	l := p.Limits
	l.Budget = l.even(decoding, max(p.pace.Budget(decoding, pressing, l.Budget), 2*l.Min-1))
	into = Schedule(into, p.steps, views, l)
	if len(into) > 0 {
		p.steps++
	}
	return into
}

// Took says how long a step took that fed so many prompt tokens and rows of one generated token.
func (p *Planner) Took(prompt, rows int, took time.Duration) { p.pace.Observe(prompt, rows, took) }
