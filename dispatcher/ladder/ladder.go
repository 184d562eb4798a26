package ladder

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

const (
	// Cohorts is how many rungs a class has.
	Cohorts = 128
	// Top is the rung above all: nothing is shed.
	Top = 4 * Cohorts

	fast, slow   = 5, 60 // seconds of the two windows
	enough       = 10    // first tokens in the fast window that a burn must stand on
	some         = 5     // jobs taken in the last second that a wait must stand on
	pressed      = 0.9   // of the objective, waited on average
	relaxed      = 0.8   // below it the top may rise
	cutStep      = 0.05  // of what was let through
	cutMost      = 0.2
	growStep     = 0.01 // a second
	growMost     = 0.05 // after a long time without trouble
	calmFor      = 10   // seconds until it grows from the one to the other, and 20 more until it has
	settles      = 2    // seconds after a cut before the next one: what was let through before still comes late
	retryStep    = 8    // rungs that a repeated job stands higher
	keepArrivals = 0.6  // what a second leaves of the weight of those before
	leastOpen    = 0.1  // of p0 is let through however it suffers
)

// Budgets are the shares of first tokens of the classes that may be late.
var Budgets = [4]float64{0.01, 0.05, 0.1, 0.2}

// Rung is where a job stands, from 0: the whole part is its class and its tenant's cohort, the rest is drawn by
// its id, so that a rung need not be shed as a whole. Each time that it was tried before it stands higher.
func Rung(class contracts.Class, tenant, job string, retries int, now time.Time) float64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s\x00%d", tenant, now.Unix()/3600)
	cohort := int(h.Sum64() % Cohorts)
	_, _ = h.Write([]byte(job))
	rung := rank(class)*Cohorts + cohort + retryStep*min(max(0, retries), 4)
	return float64(min(Top-1, rung)) + float64(h.Sum64()%1000)/1000
}

func rank(c contracts.Class) int { return max(0, slices.Index(contracts.Classes, c)) }

// Counts is what was seen of a class in a second.
type Counts struct {
	Good   int64 `json:"good,omitempty"` // first tokens in time
	Late   int64 `json:"late,omitempty"`
	Taken  int64 `json:"taken,omitempty"`  // jobs that a worker took
	Waited int64 `json:"waited,omitempty"` // thousandths of their objectives that they had waited, summed up
}

func (c *Counts) add(o Counts) {
	c.Good, c.Late, c.Taken, c.Waited = c.Good+o.Good, c.Late+o.Late, c.Taken+o.Taken, c.Waited+o.Waited
}

// Ladder of one model. Allow, First and Taken are safe from any goroutine; Hear and Tick belong to one.
type Ladder struct {
	top    atomic.Int64      // thousandths of a rung
	came   [Top]atomic.Int64 // tokens by rung since the last tick
	good   [4]atomic.Int64
	late   [4]atomic.Int64
	taken  [4]atomic.Int64
	waited [4]atomic.Int64

	own     float64 // what top would be without the others
	load    [Top]float64
	seconds [slow][4]Counts
	at      int
	heard   [4]Counts // of other dispatchers since the last tick
	others  float64   // the lowest of their tops
	rest    int       // seconds until the next cut
	calm    int       // seconds without trouble
	limit   float64   // tokens that were carried in time since the last cut
}

// New returns one that lets everything through.
func New() *Ladder {
	l := &Ladder{own: Top, others: Top}
	l.top.Store(1000 * Top)
	return l
}

// Allow tells whether a job on a rung is let through, and counts it with its cost.
func (l *Ladder) Allow(rung float64, tokens int) bool {
	l.came[int(rung)].Add(int64(max(1, tokens)))
	return int64(1000*rung) < l.top.Load()
}

// Open is the rung below which jobs are let through, from 0 to [Top].
func (l *Ladder) Open() float64 { return float64(l.top.Load()) / 1000 }

// First says whether the first token of a job came in time.
func (l *Ladder) First(class contracts.Class, met bool) {
	rank := rank(class)
	if met {
		l.good[rank].Add(1)
	} else {
		l.late[rank].Add(1)
	}
}

// Taken says that a worker took a job that had waited so long and wants its first token within want.
func (l *Ladder) Taken(class contracts.Class, waited, want time.Duration) {
	if want <= 0 {
		return
	}
	rank := rank(class)
	l.taken[rank].Add(1)
	l.waited[rank].Add(int64(1000 * min(10, waited.Seconds()/want.Seconds())))
}

// Hear takes what another dispatcher saw in a second, and the top that it has come to.
func (l *Ladder) Hear(seen [4]Counts, own float64) {
	for i := range l.heard {
		l.heard[i].add(seen[i])
	}
	l.others = min(l.others, max(0, own))
}

// Change is what a tick did.
type Change struct {
	From, To float64 // rungs
	Reason   string
}

// Tick is called once a second. seen and own are for the others; changed tells that c moved the top.
func (l *Ladder) Tick() (seen [4]Counts, own float64, c Change, changed bool) {
	l.at = (l.at + 1) % slow
	for i := range seen {
		seen[i] = Counts{l.good[i].Swap(0), l.late[i].Swap(0), l.taken[i].Swap(0), l.waited[i].Swap(0)}
		l.seconds[l.at][i] = seen[i]
		l.seconds[l.at][i].add(l.heard[i])
	}
	for i := range l.load {
		l.load[i] = keepArrivals*l.load[i] + float64(l.came[i].Swap(0))
	}
	reason := l.decide()
	l.own = math.Round(1000*l.own) / 1000
	c = Change{From: l.Open(), To: min(l.own, l.others), Reason: reason}
	if l.others < l.own && c.To != c.From {
		c.Reason = "another dispatcher sheds"
	}
	l.heard, l.others = [4]Counts{}, Top
	l.top.Store(int64(math.Round(1000 * c.To)))
	return seen, l.own, c, c.To != c.From
}

// decide moves own and says why.
func (l *Ladder) decide() string {
	calm := true
	l.rest--
	for rank := range contracts.Classes {
		last, now, past := l.seconds[l.at][rank], l.sum(rank, fast), l.sum(rank, slow)
		wait := 0.0
		if last.Taken >= some {
			wait = float64(last.Waited) / 1000 / float64(last.Taken)
		}
		quick, long := burn(now, rank), burn(past, rank)
		waits := wait > pressed
		if now.Good+now.Late < enough {
			quick = 0
		}
		burns := quick > 1 && long > 1 && last.Late > 0
		if (waits || burns) && l.rest >= 0 {
			return ""
		}
		if waits || burns {
			l.rest, l.calm = settles, 0
			l.cut(rank, min(cutMost, cutStep*max(1, quick)))
			if waits {
				return fmt.Sprintf("jobs of %s waited %.0f %% of their objective for a worker", contracts.Classes[rank], 100*wait)
			}
			return fmt.Sprintf("first tokens of %s are late %.1f times as often as they may, over 5 s, and %.1f times over 60 s", contracts.Classes[rank], quick, long)
		}
		calm = calm && quick < 0.5 && wait < relaxed
	}
	if !calm || l.own == Top {
		return ""
	}
	if l.carried(Top) <= l.limit {
		l.own = Top
		return "no more comes than was served in time"
	}
	l.calm++
	l.rise(min(growMost, growStep*(1+float64(max(0, l.calm-calmFor))/5)))
	l.limit = max(l.limit, l.carried(l.own))
	return "objectives are met"
}

func burn(c Counts, rank int) float64 {
	if c.Good+c.Late == 0 {
		return 0
	}
	return float64(c.Late) / float64(c.Good+c.Late) / Budgets[rank]
}

// sum is what was seen of a class in the last seconds.
func (l *Ladder) sum(rank, seconds int) (c Counts) {
	for i := range seconds {
		c.add(l.seconds[(l.at-i+slow)%slow][rank])
	}
	return c
}

// cut lowers own so that a share of what was let through lately is not, but no deeper than into the class
// that suffers. Of p0 a part is always let through.
func (l *Ladder) cut(rank int, share float64) {
	l.own = min(l.own, l.others)
	floor := float64(rank * Cohorts)
	left := min(share*l.carried(l.own), l.carried(l.own)-l.carried(floor))
	if rank == 0 {
		left = min(left, l.carried(l.own)-leastOpen*l.carried(Cohorts))
	}
	defer func() { l.limit = l.carried(l.own) }()
	for l.own > floor && left > 0 {
		below := math.Ceil(l.own) - 1 // the rung that own is in, or just above
		part := l.own - below
		has := part * l.load[int(below)]
		if has > left {
			l.own = max(floor, l.own-left/l.load[int(below)])
			return
		}
		left -= has
		l.own = max(floor, below)
	}
}

// rise lifts own so that a share more is let through.
func (l *Ladder) rise(share float64) {
	left := max(1, share*l.carried(l.own))
	for l.own < Top {
		at := math.Floor(l.own)
		part := at + 1 - l.own
		has := part * l.load[int(at)]
		if has > left {
			l.own += left / l.load[int(at)]
			return
		}
		left -= has
		l.own = at + 1
	}
}

// carried is what came lately below a rung.
func (l *Ladder) carried(top float64) float64 {
	sum := 0.0
	for i, n := range l.load {
		sum += n * min(1, max(0, top-float64(i)))
	}
	return sum
}
