package priority

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Key names a job.
type Key struct{ Tenant, Job string }

// Item is a job as a [Queue] sees it.
type Item struct {
	Key
	Class   contracts.Class
	Prompt  int    // tokens
	Output  int    // tokens that its answer is expected to have, over all choices
	Seq     uint64 // of its message in SCHED while it is held; 0 while it is on its way there
	Adopted bool   // found in SCHED or JOBS, not put there by this dispatcher

	By time.Time // after which its first token is of no use any more; zero is whenever
}

// Tokens is what the job costs its tenant.
func (i Item) Tokens() float64 { return float64(i.Prompt + i.Output) }

// place is where a job is.
type place int

const (
	held    place = iota // waits in SCHED for its turn
	inside               // in JOBS or at a worker, without a first token
	running              // its first token is there
)

type entry struct {
	Item
	place place
}

// Work is an amount of waiting work.
type Work struct {
	Jobs   int
	Prompt int // tokens
}

func (w *Work) add(i Item, sign int) {
	w.Jobs += sign
	w.Prompt += sign * i.Prompt
}

// share is one tenant in one class.
type share struct {
	had    float64 // tokens divided by weight
	held   []*entry
	work   Work    // of held
	tokens float64 // of held
	inside int     // jobs
}

// line is one class.
type line struct {
	shares map[string]*share
	full   int     // shares from which on those of idle tenants are forgotten
	floor  float64 // what the tenant that went last had before
	held   Work
	inside Work
}

// Queue is the jobs of one model that have not ended.
type Queue struct {
	weight  func(tenant string) float64
	lines   [4]line
	entries map[Key]*entry
}

// New returns an empty queue. weight is a tenant's share, above 0; nil is 1 for everybody.
func New(weight func(tenant string) float64) *Queue {
	if weight == nil {
		weight = func(string) float64 { return 1 }
	}
	q := &Queue{weight: weight, entries: map[Key]*entry{}}
	for i := range q.lines {
		q.lines[i].shares, q.lines[i].full = map[string]*share{}, idleTenants
	}
	return q
}

func rank(c contracts.Class) int { return max(0, slices.Index(contracts.Classes, c)) }

// Knows tells whether the job has not ended.
func (q *Queue) Knows(k Key) bool { return q.entries[k] != nil }

// Runs tells whether the job's first token is there and it has not ended.
func (q *Queue) Runs(k Key) bool { e := q.entries[k]; return e != nil && e.place == running }

// Held and Inside are what waits in a class for its turn, and what was let in and has no first token.
func (q *Queue) Held(c contracts.Class) Work { return q.lines[rank(c)].held }

// Inside is what of a class was let in and has no first token yet.
func (q *Queue) Inside(c contracts.Class) Work { return q.lines[rank(c)].inside }

// Waits tells whether a job of the tenant is held, so that a new one must not pass it.
func (q *Queue) Waits(c contracts.Class, tenant string) bool {
	s := q.lines[rank(c)].shares[tenant]
	return s != nil && len(s.held) > 0
}

// share is the tenant's, which is lifted to the one that has had the least of those that have jobs.
func (l *line) share(tenant string) *share {
	s := l.shares[tenant]
	if s == nil {
		if len(l.shares) >= l.full {
			l.forget()
		}
		s = &share{}
		l.shares[tenant] = s
	}
	if len(s.held) == 0 && s.inside == 0 {
		s.had = max(s.had, l.least())
	}
	return s
}

// idleTenants is how many tenants without jobs a line remembers at the most, about.
const idleTenants = 4096

// forget drops the tenants without jobs, all of them, so that it is seldom called.
func (l *line) forget() {
	for tenant, s := range l.shares {
		if len(s.held) == 0 && s.inside == 0 {
			delete(l.shares, tenant)
		}
	}
	l.full = len(l.shares) + idleTenants
}

// least is what the tenant has had that has had the least of those whose jobs are held.
func (l *line) least() float64 {
	least := math.Inf(1)
	for _, s := range l.shares {
		if len(s.held) > 0 {
			least = min(least, s.had)
		}
	}
	if math.IsInf(least, 1) {
		return l.floor
	}
	return least
}

// Hold puts a job at the end of its tenant's. A job that is known stays where it is.
func (q *Queue) Hold(i Item) {
	if q.Knows(i.Key) {
		return
	}
	l := &q.lines[rank(i.Class)]
	s := l.share(i.Tenant)
	e := &entry{Item: i, place: held}
	q.entries[i.Key] = e
	s.held = append(s.held, e)
	s.work.add(i, 1)
	s.tokens += i.Tokens()
	l.held.add(i, 1)
}

// Stored says that a held job's message is in SCHED: from now on it can be let in.
func (q *Queue) Stored(k Key, seq uint64) {
	if e := q.entries[k]; e != nil {
		e.Seq = seq
	}
}

// Enter says that a job went into JOBS without being held. Its tenant pays for it.
func (q *Queue) Enter(i Item) {
	if q.Knows(i.Key) {
		return
	}
	l := &q.lines[rank(i.Class)]
	s := l.share(i.Tenant)
	q.entries[i.Key] = &entry{Item: i, place: inside}
	q.enter(l, s, i)
}

func (q *Queue) enter(l *line, s *share, i Item) {
	l.floor = s.had
	s.had += i.Tokens() / q.weight(i.Tenant)
	s.inside++
	l.inside.add(i, 1)
}

// Next lets the next job in: the first of a class that room says has some, of the tenant whose turn it is.
func (q *Queue) Next(room func(c contracts.Class, inside Work) bool) (Item, bool) {
	for rank := range q.lines {
		l := &q.lines[rank]
		if l.held.Jobs == 0 || !room(contracts.Classes[rank], l.inside) {
			continue
		}
		if s := l.turn(); s != nil {
			e := s.held[0]
			s.drop(l, 0)
			e.place = inside
			q.enter(l, s, e.Item)
			return e.Item, true
		}
	}
	return Item{}, false
}

// Late takes a held job out that goes next among its tenant's and that lost says comes too late.
func (q *Queue) Late(lost func(Item) bool) (Item, bool) {
	for rank := range q.lines {
		for _, s := range q.lines[rank].shares {
			if len(s.held) > 0 && s.held[0].Seq != 0 && !s.held[0].By.IsZero() && lost(s.held[0].Item) {
				e := s.held[0]
				q.leave(e)
				e.place = running
				return e.Item, true
			}
		}
	}
	return Item{}, false
}

// Patient says that no job that waits comes too late any more.
func (q *Queue) Patient() {
	for _, e := range q.entries {
		e.By = time.Time{}
	}
}

// turn is the tenant that goes next, nil when no first job of a tenant is stored.
func (l *line) turn() (next *share) {
	name := ""
	for tenant, s := range l.shares {
		if len(s.held) > 0 && s.held[0].Seq != 0 && (next == nil || cmp.Or(cmp.Compare(s.had, next.had), s.inside-next.inside, cmp.Compare(tenant, name)) < 0) {
			next, name = s, tenant
		}
	}
	return next
}

// drop takes the job at an index out of those that are held.
func (s *share) drop(l *line, at int) {
	e := s.held[at]
	s.held = slices.Delete(s.held, at, at+1)
	s.work.add(e.Item, -1)
	s.tokens -= e.Tokens()
	l.held.add(e.Item, -1)
}

// Back says that a job that Next let in could not be put into JOBS: it is the first of its tenant's again.
func (q *Queue) Back(k Key) {
	e := q.entries[k]
	if e == nil || e.place != inside {
		return
	}
	l := &q.lines[rank(e.Class)]
	s := l.shares[k.Tenant]
	s.inside--
	s.had -= e.Tokens() / q.weight(k.Tenant)
	l.inside.add(e.Item, -1)
	e.place = held
	s.held = slices.Insert(s.held, 0, e)
	s.work.add(e.Item, 1)
	s.tokens += e.Tokens()
	l.held.add(e.Item, 1)
}

// Start says that the job's first token is there; it tells whether that was news.
func (q *Queue) Start(k Key) bool {
	e := q.entries[k]
	if e == nil || e.place == running {
		return false
	}
	q.leave(e)
	e.place = running
	return true
}

// End forgets a job that ended; it tells whether it was known.
func (q *Queue) End(k Key) bool {
	e := q.entries[k]
	if e == nil {
		return false
	}
	q.leave(e)
	delete(q.entries, k)
	return true
}

// leave takes a job out of what waits.
func (q *Queue) leave(e *entry) {
	l := &q.lines[rank(e.Class)]
	s := l.shares[e.Tenant]
	switch e.place {
	case running:
		return
	case held:
		s.drop(l, slices.Index(s.held, e))
	case inside:
		s.inside--
		l.inside.add(e.Item, -1)
	}
	if len(s.held) == 0 && s.inside == 0 && s.had <= l.floor {
		delete(l.shares, e.Tenant)
	}
}

// Ahead is what goes before a new job of a tenant, as far as it is known now: everything inside of its own
// and more urgent classes, what is held of more urgent ones, the tenant's own jobs, and of the other
// tenants' what their share lets go before that.
func (q *Queue) Ahead(c contracts.Class, tenant string) Work {
	var w Work
	r := rank(c)
	for i := range r + 1 {
		l := &q.lines[i]
		w.Jobs, w.Prompt = w.Jobs+l.inside.Jobs, w.Prompt+l.inside.Prompt
		if i < r {
			w.Jobs, w.Prompt = w.Jobs+l.held.Jobs, w.Prompt+l.held.Prompt
		}
	}
	l := &q.lines[r]
	if l.held.Jobs == 0 {
		return w
	}
	own, had := l.shares[tenant], l.least()
	if own != nil {
		w.Jobs, w.Prompt = w.Jobs+own.work.Jobs, w.Prompt+own.work.Prompt
		if len(own.held) > 0 || own.inside > 0 || own.had > had {
			had = own.had
		}
		had += own.tokens / q.weight(tenant)
	}
	for name, s := range l.shares {
		if s == own || len(s.held) == 0 || s.tokens <= 0 {
			continue
		}
		part := min(1, max(0, (had-s.had)*q.weight(name)/s.tokens))
		w.Jobs += int(math.Ceil(part * float64(s.work.Jobs)))
		w.Prompt += int(part * float64(s.work.Prompt))
	}
	return w
}

// Each visits the jobs that are inside and have no first token.
func (q *Queue) Each(visit func(Item)) {
	for _, e := range q.entries {
		if e.place == inside {
			visit(e.Item)
		}
	}
}
