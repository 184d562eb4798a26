package backlog

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// ledger is what jobs are charged with. The Backlog's lock guards it.
type ledger struct {
	quotas  *quota.Book
	charges map[priority.Key]charge
	spent   map[string]Spent // since it was told to the others
	latest  time.Time        // that anything was charged at
}

func newLedger(limits map[string]quota.Limits) *ledger {
	return &ledger{quotas: quota.NewBook(limits), charges: map[priority.Key]charge{}, spent: map[string]Spent{}}
}

// charge is what a job was charged with: tokens, and whether it counts among those that wait or run, which one whose
// time is still to come does not. It stays until the job has ended and it is known whose it is.
type charge struct {
	prompt, most, running int
	day                   int64 // on which it was charged

	known, ended bool // whose the job is; its end
	used         int  // tokens, once it ended
}

func chargeOf(a *contracts.Admitted, running int) charge {
	if a.Job.Kind == contracts.KindEmbed || a.Job.Kind == contracts.KindTensor {
		return charge{prompt: a.KVTokens, most: a.KVTokens, running: running}
	}
	prompt, most := len(a.Tokens), 0 // which several choices share, as in the usage
	if n := a.Job.Params.MaxTokens; n != nil {
		most = choices(a) * *n
	}
	return charge{prompt: prompt, most: prompt + most, running: running}
}

// check tells whether a job is allowed.
func (l *ledger) check(k priority.Key, c charge, now time.Time) error {
	l.latest = now
	return l.quotas.Check(k.Tenant, c.most, c.running, now)
}

func (l *ledger) charge(k priority.Key, c charge, now time.Time) {
	if _, limited := l.quotas.Of(k.Tenant); !limited {
		return
	}
	c.day = quota.Day(now)
	l.charges[k] = c
	l.spend(k.Tenant, 1, float64(c.most), c.running, now)
}

// begin counts a job in whose time has come.
func (l *ledger) begin(k priority.Key) {
	if c, charged := l.charges[k]; charged && c.running == 0 {
		c.running = 1
		l.charges[k] = c
		l.quotas.Charge(k.Tenant, 0, 0, 1, l.latest)
	}
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
	if l.charges[k] = c; c.known && c.ended {
		delete(l.charges, k)
		back := max(0, c.most-c.used)
		if c.day != quota.Day(l.latest) {
			back = 0
		}
		l.spend(k.Tenant, 0, -float64(back), -c.running, l.latest)
	}
}

func (l *ledger) spend(tenant string, requests, tokens float64, running int, now time.Time) {
	l.quotas.Charge(tenant, requests, tokens, running, now)
	s := l.spent[tenant]
	l.spent[tenant] = Spent{s.Requests + requests, s.Tokens + tokens}
}
