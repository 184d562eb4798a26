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
	latest  time.Time        // that a job was charged at
}

func newLedger(limits map[string]quota.Limits) *ledger {
	return &ledger{quotas: quota.NewBook(limits), charges: map[priority.Key]charge{}, spent: map[string]Spent{}}
}

// charge is what a job was charged with: tokens, and whether it counts among those that wait or run, which one whose
// time is still to come does not.
type charge struct{ prompt, most, running int }

func chargeOf(a *contracts.Admitted, running int) charge {
	if a.Job.Kind == contracts.KindEmbed || a.Job.Kind == contracts.KindTensor {
		return charge{a.KVTokens, a.KVTokens, running}
	}
	prompt, most := choices(a)*len(a.Tokens), 0
	if n := a.Job.Params.MaxTokens; n != nil {
		most = choices(a) * *n
	}
	return charge{prompt, prompt + most, running}
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

// refund gives back what a job did not use that ended with so many tokens: all of it if it never ran.
func (l *ledger) refund(k priority.Key, tokens int, ran bool) {
	c, charged := l.charges[k]
	if !charged {
		return
	}
	delete(l.charges, k)
	used := 0
	if ran {
		used = c.prompt + tokens
	}
	l.spend(k.Tenant, 0, float64(min(0, used-c.most)), -c.running, l.latest)
}

func (l *ledger) spend(tenant string, requests, tokens float64, running int, now time.Time) {
	l.quotas.Charge(tenant, requests, tokens, running, now)
	s := l.spent[tenant]
	l.spent[tenant] = Spent{s.Requests + requests, s.Tokens + tokens}
}
