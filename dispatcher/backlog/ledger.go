package backlog

import (
	"maps"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// hasLasts is how long it counts what another dispatcher said that tenants have: it says so while they have anything.
// One that died is missed for so long that it may be back and have found its jobs again.
const hasLasts = 5 * time.Second

// ledger is what jobs are charged with, and what their tenants have and used, here and at the other dispatchers. The
// Backlog's lock guards it.
type ledger struct {
	quotas  *quota.Book
	charges map[priority.Key]charge
	jobs    map[priority.Key]bool // that wait or run, of tenants whose number is limited -> put into the queue here
	known   map[string]int        // jobs, by tenant
	has     map[string]Has        // here
	today   Today                 // here; jobs that ended
	others  map[string]*other     // by dispatcher
	spent   map[string]Spent      // since it was told to the others
	latest  time.Time             // that anything was charged at
}

// Has is what a tenant has in the fleet by one dispatcher.
type Has struct {
	Jobs   int     // that wait or run, if their number is limited
	Tokens float64 // of today that its jobs may use which have not ended, if there is a limit of a day
}

// Today is what jobs that ended used of a day, by tenants with a limit of a day.
type Today struct {
	Day  int64              `json:"day"` // see [quota.Day]
	Used map[string]float64 `json:"used"`
}

// Days is what a [Backlog] counts over all dispatchers and their restarts. Safe for concurrent use.
type Days struct{ b *Backlog }

// Use is what a tenant has and used, as far as this dispatcher knows.
func (d Days) Use(tenant string, now time.Time) quota.Use {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	return d.b.ledger.use(tenant, now)
}

// Limited tells whether some tenant has a limit of a day.
func (d Days) Limited() bool {
	for _, l := range d.b.cfg.Quotas {
		if l.Daily > 0 {
			return true
		}
	}
	return false
}

// Today is what jobs that ended used of today by this dispatcher: to be kept for [Days.Recall].
func (d Days) Today() Today {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	return Today{d.b.ledger.today.Day, maps.Clone(d.b.ledger.today.Used)}
}

// Recall takes what a dispatcher, perhaps one that is gone, once told by [Days.Today].
func (d Days) Recall(name string, t Today, now time.Time) {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	d.b.ledger.recall(name, t, now)
}

// other is what another dispatcher said.
type other struct {
	has   map[string]Has
	at    time.Time // of has
	today Today
}

func newLedger(limits map[string]quota.Limits) *ledger {
	return &ledger{
		quotas: quota.NewBook(limits), charges: map[priority.Key]charge{}, jobs: map[priority.Key]bool{}, known: map[string]int{},
		has: map[string]Has{}, today: Today{Used: map[string]float64{}}, others: map[string]*other{}, spent: map[string]Spent{},
	}
}

// charge is what a job was charged with. It stays until the job has ended and it is known whose it is.
type charge struct {
	prompt, most int   // tokens
	day          int64 // on which it was charged

	known, ended bool // whose the job is; its end
	used         int  // tokens, once it ended
}

func chargeOf(a *contracts.Admitted) charge {
	if a.Job.Kind == contracts.KindEmbed || a.Job.Kind == contracts.KindTensor {
		return charge{prompt: a.KVTokens, most: a.KVTokens}
	}
	prompt, most := len(a.Tokens), 0 // which several choices share, as in the usage
	if n := a.Job.Params.MaxTokens; n != nil {
		most = choices(a) * *n
	}
	return charge{prompt: prompt, most: prompt + most}
}

// check tells whether a job is allowed; running is as [quota.Book.Check] says it.
func (l *ledger) check(k priority.Key, c charge, running int, now time.Time) error {
	l.pass(now)
	return l.quotas.Check(k.Tenant, c.most, running, l.use(k.Tenant, now), now)
}

// use is what a tenant has and used. Jobs that this dispatcher knows, also those of one that is gone, and those that
// each says are its own are counted apart: either may be more than the other.
func (l *ledger) use(tenant string, now time.Time) quota.Use {
	has, used := l.has[tenant], l.today.Used[tenant]
	for _, o := range l.others {
		current := o.today.Day == l.today.Day
		if current {
			used += o.today.Used[tenant]
		}
		if now.Sub(o.at) <= hasLasts {
			has.Jobs += o.has[tenant].Jobs
			if current {
				has.Tokens += o.has[tenant].Tokens
			}
		}
	}
	return quota.Use{Jobs: max(has.Jobs, l.known[tenant]), Today: used + has.Tokens}
}

// pass notes the time, unless it is one at which a job came that others overtook; of a day that is over nothing counts
// any more.
func (l *ledger) pass(now time.Time) {
	if now.Before(l.latest) {
		return
	}
	l.latest = now
	day := quota.Day(now)
	if day == l.today.Day {
		return
	}
	l.today = Today{day, map[string]float64{}}
	for tenant, h := range l.has {
		l.add(tenant, 0, -h.Tokens)
	}
	for name, o := range l.others {
		if o.today.Day < day && now.Sub(o.at) > hasLasts {
			delete(l.others, name)
		}
	}
}

func (l *ledger) add(tenant string, jobs int, tokens float64) {
	h := l.has[tenant]
	if h.Jobs, h.Tokens = h.Jobs+jobs, h.Tokens+tokens; h == (Has{}) {
		delete(l.has, tenant)
	} else {
		l.has[tenant] = h
	}
}

// enter counts a job in that waits or runs, put into the queue here or by another dispatcher.
func (l *ledger) enter(k priority.Key, here bool) {
	limits, _ := l.quotas.Of(k.Tenant)
	if _, in := l.jobs[k]; in || limits.Concurrent == 0 {
		return
	}
	l.jobs[k] = here
	l.known[k.Tenant]++
	if here {
		l.add(k.Tenant, 1, 0)
	}
}

// leave forgets a job that ended, or never was.
func (l *ledger) leave(k priority.Key) {
	here, in := l.jobs[k]
	if !in {
		return
	}
	delete(l.jobs, k)
	if l.known[k.Tenant]--; l.known[k.Tenant] == 0 {
		delete(l.known, k.Tenant)
	}
	if here {
		l.add(k.Tenant, -1, 0)
	}
}

func (l *ledger) charge(k priority.Key, c charge, now time.Time) {
	limits, limited := l.quotas.Of(k.Tenant)
	if !limited {
		return
	}
	l.pass(now)
	c.day = l.today.Day
	l.charges[k] = c
	if limits.Daily > 0 {
		l.add(k.Tenant, 0, float64(c.most))
	}
	l.spend(k.Tenant, 1, float64(c.most))
}

// end notes what a job used that ended with so many tokens: nothing if it never ran. The first end counts.
func (l *ledger) end(k priority.Key, tokens int, ran bool) {
	c, charged := l.charges[k]
	if !charged || c.ended {
		return
	}
	if c.ended = true; ran {
		c.used = c.prompt + tokens
	}
	l.close(k, c)
}

// know tells whether a job is ours, or another dispatcher's, which charges for it.
func (l *ledger) know(k priority.Key, ours bool) {
	c, charged := l.charges[k]
	if !charged {
		return
	}
	if c.known = true; !ours {
		c.ended, c.used = true, 0
	}
	l.close(k, c)
}

// close gives back what a job did not use, once that is known, but nothing of a day that is over: it would be taken
// from what was used since.
func (l *ledger) close(k priority.Key, c charge) {
	if l.charges[k] = c; !c.known || !c.ended {
		return
	}
	delete(l.charges, k)
	back := 0
	if c.day == l.today.Day {
		back = max(0, c.most-c.used)
		if limits, _ := l.quotas.Of(k.Tenant); limits.Daily > 0 {
			l.add(k.Tenant, 0, -float64(c.most))
			l.today.Used[k.Tenant] += float64(c.most - back)
		}
	}
	l.spend(k.Tenant, 0, -float64(back))
}

func (l *ledger) spend(tenant string, requests, tokens float64) {
	l.quotas.Charge(tenant, requests, tokens, l.latest)
	s := l.spent[tenant]
	l.spent[tenant] = Spent{Requests: s.Requests + requests, Tokens: s.Tokens + tokens}
}

// share adds to what is told the others, since the last call.
func (l *ledger) share(s *Share) {
	s.Spent, s.Has, s.Day = l.spent, map[string]Has{}, l.today.Day
	for tenant, spent := range s.Spent {
		spent.Used = l.today.Used[tenant]
		s.Spent[tenant] = spent
	}
	for tenant, h := range l.has {
		s.Has[tenant] = h
	}
	l.spent = map[string]Spent{}
}

// hear takes what another dispatcher says.
func (l *ledger) hear(name string, s Share, now time.Time) {
	l.pass(now)
	for tenant, spent := range s.Spent {
		l.quotas.Charge(tenant, spent.Requests, spent.Tokens, now)
	}
	o := l.of(name, s.Day)
	o.has, o.at = s.Has, now
	for tenant, spent := range s.Spent {
		if spent.Used > 0 {
			o.today.Used[tenant] = spent.Used
		}
	}
}

// of is what another dispatcher said of a day, or nothing yet.
func (l *ledger) of(name string, day int64) *other {
	o := l.others[name]
	if o == nil {
		o = &other{}
		l.others[name] = o
	}
	if o.today.Day != day {
		o.today = Today{day, map[string]float64{}}
	}
	return o
}

// recall takes what a dispatcher once wrote down of today, unless it said more since.
func (l *ledger) recall(name string, t Today, now time.Time) {
	if l.pass(now); t.Day != l.today.Day {
		return
	}
	o := l.of(name, t.Day)
	for tenant, used := range t.Used {
		o.today.Used[tenant] = max(o.today.Used[tenant], used)
	}
}
