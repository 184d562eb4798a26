// Package quota counts what tenants use against what they are allowed.
//
// It belongs to step 4 of the walk: dispatcher/backlog asks it before dispatcher/admission judges a job. A
// job is charged with its prompt and the most that it may generate, and gets back what it did not. Requests
// and tokens of a minute come from buckets that refill continuously and hold a minute's worth, so that a
// quiet tenant may send a burst. Jobs at once and the tokens of a day, which begins at midnight UTC, are counted
// by the caller, over all dispatchers.
//
// Pure: time is an argument. A [Book] is not safe for concurrent use.
package quota

import (
	"fmt"
	"math"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Everybody is the tenant whose limits hold for all that have none of their own.
const Everybody = "*"

// maxTenants bounds the tenants that are remembered; who is forgotten begins with full buckets.
const maxTenants = 65_536

// Limits of one tenant; 0 is no limit.
type Limits struct {
	Requests   int // a minute
	Tokens     int // a minute, of prompts and answers
	Concurrent int // jobs that wait or run
	Daily      int // tokens a day
}

// Validate returns what is wrong with l.
func (l Limits) Validate() error {
	if min(l.Requests, l.Tokens, l.Concurrent, l.Daily) < 0 {
		return fmt.Errorf("limits must not be negative: %+v", l)
	}
	return nil
}

// State is what one of a tenant's limits allows now.
type State struct {
	Limit     int
	Remaining int
	Reset     time.Duration // until all of it is there again
}

// bucket refills with limit a minute and holds as much.
type bucket struct {
	used float64
	at   time.Time
}

func (b *bucket) level(limit int, now time.Time) float64 {
	if past := now.Sub(b.at); past > 0 {
		b.used = max(0, b.used-past.Minutes()*float64(limit))
		b.at = now
	}
	return b.used
}

// wait is how long until n fit, 0 for now. More than the whole bucket waits for the whole bucket.
func (b *bucket) wait(n float64, limit int, now time.Time) time.Duration {
	over := b.level(limit, now) + min(n, float64(limit)) - float64(limit)
	if limit == 0 || over <= 1e-9 {
		return 0
	}
	return time.Duration(over / float64(limit) * float64(time.Minute))
}

func (b *bucket) state(limit int, now time.Time) State {
	used := b.level(limit, now)
	return State{limit, int(max(0, float64(limit)-math.Ceil(used-1e-9))), time.Duration(used / float64(limit) * float64(time.Minute))}
}

// account is what one tenant used of late.
type account struct{ requests, tokens bucket }

// Use is what a tenant has and used at all dispatchers together.
type Use struct {
	Jobs  int     // that wait or run
	Today float64 // tokens of this [Day]
}

// Book is the accounts of all tenants.
type Book struct {
	limits   map[string]Limits
	accounts map[string]*account
}

// NewBook returns a book in which nobody has used anything.
func NewBook(limits map[string]Limits) *Book {
	return &Book{limits: limits, accounts: map[string]*account{}}
}

// Day is the day of t that daily limits count by: since 1970, UTC.
func Day(t time.Time) int64 { return t.Unix() / 86_400 }

// Of is what a tenant is allowed; false when nothing limits it.
func (b *Book) Of(tenant string) (Limits, bool) {
	l, ok := b.limits[tenant]
	if !ok {
		l = b.limits[Everybody]
	}
	return l, l != Limits{}
}

func (b *Book) account(tenant string, now time.Time) *account {
	a := b.accounts[tenant]
	if a == nil {
		if len(b.accounts) >= maxTenants {
			for name := range b.accounts {
				delete(b.accounts, name)
				break
			}
		}
		a = &account{requests: bucket{at: now}, tokens: bucket{at: now}}
		b.accounts[tenant] = a
	}
	return a
}

// Check is nil when a job of so many tokens is allowed beside what the tenant has and used, else quota_exceeded with
// the time after which it will be. running is 1 for a job that runs as soon as it can, 0 for one whose time is still
// to come.
func (b *Book) Check(tenant string, tokens, running int, use Use, now time.Time) error {
	l, limited := b.Of(tenant)
	if !limited {
		return nil
	}
	a, n := b.account(tenant, now), float64(tokens)
	switch {
	case l.Daily > 0 && tokens > l.Daily:
		return &contracts.Error{Code: contracts.CodeInvalidArgument, Param: "params.max_tokens",
			Message: fmt.Sprintf("the job may take %d tokens, tenant %q has %d a day: lower max_tokens or shorten the prompt", tokens, tenant, l.Daily)}
	case l.Concurrent > 0 && use.Jobs+running > l.Concurrent:
		return exceeded(time.Second, "%d jobs of tenant %q wait or run, as many as it may have", use.Jobs, tenant)
	case l.Daily > 0 && use.Today+n > float64(l.Daily):
		return exceeded(time.Unix((Day(now)+1)*86_400, 0).Sub(now), "tenant %q has used %.0f of its %d tokens of today", tenant, use.Today, l.Daily)
	}
	if wait := a.requests.wait(1, l.Requests, now); wait > 0 {
		return exceeded(wait, "tenant %q sends more than %d requests a minute", tenant, l.Requests)
	}
	if wait := a.tokens.wait(n, l.Tokens, now); wait > 0 {
		return exceeded(wait, "tenant %q uses more than %d tokens a minute", tenant, l.Tokens)
	}
	return nil
}

func exceeded(wait time.Duration, format string, args ...any) error {
	return &contracts.Error{Code: contracts.CodeQuotaExceeded, RetryAfterMS: max(1, wait.Milliseconds()),
		Message: fmt.Sprintf(format, args...) + ": retry after the time given"}
}

// Charge charges a tenant with a job, here or at another dispatcher. Negative numbers give back.
func (b *Book) Charge(tenant string, requests, tokens float64, now time.Time) {
	l, limited := b.Of(tenant)
	if !limited {
		return
	}
	a := b.account(tenant, now)
	a.requests.used = max(0, a.requests.level(l.Requests, now)+requests)
	a.tokens.used = max(0, a.tokens.level(l.Tokens, now)+tokens)
}

// States is what a tenant's requests and tokens of a minute allow now; a limit of 0 is none.
func (b *Book) States(tenant string, now time.Time) (requests, tokens State) {
	l, limited := b.Of(tenant)
	if !limited {
		return State{}, State{}
	}
	a := b.account(tenant, now)
	if l.Requests > 0 {
		requests = a.requests.state(l.Requests, now)
	}
	if l.Tokens > 0 {
		tokens = a.tokens.state(l.Tokens, now)
	}
	return requests, tokens
}
