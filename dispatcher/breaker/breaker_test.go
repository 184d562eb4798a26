package breaker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/breaker"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

var errAway = errors.New("no answer")

func away(err error) bool { return errors.Is(err, errAway) }

// history notes the changes as "of: from > to".
func history(to *[]string) breaker.ChangedFunc {
	return func(c breaker.Change) {
		if c.Reason == "" {
			c.Of += " without a reason"
		}
		*to = append(*to, c.Kind+" "+c.Of+": "+c.From+" > "+c.To)
	}
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("changes %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("change %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func key(job string) priority.Key { return priority.Key{Tenant: "t", Job: job} }

// Each part of the broker has its own breaker: one that does not answer shuts nothing else.
func TestBrokerParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		b := breaker.NewBroker(history(&said), away, "JOBS", "SCHED")
		fails := func() error { return errAway }
		works := func() error { return nil }
		for range 5 {
			_ = b.Do("SCHED", fails)
		}
		if err := b.Do("SCHED", works); contracts.CodeOf(err) != contracts.CodeUnavailable {
			t.Errorf("five times without an answer: %v, want unavailable", err)
		}
		for range 20 { // refusals are answers
			if err := b.Do("JOBS", func() error { return errors.New("full") }); err == nil || contracts.CodeOf(err) != contracts.CodeInternal {
				t.Fatalf("JOBS: %v, want its own error", err)
			}
		}
		time.Sleep(3 * time.Second)
		for range 3 {
			if err := b.Do("SCHED", works); err != nil {
				t.Errorf("a probe: %v", err)
			}
		}
		want(t, said, "broker SCHED: closed > open", "broker SCHED: open > half-open", "broker SCHED: half-open > closed")
	})
}

// Requests that each wait longer for their answer than failures of others are counted open the breaker too: a
// broker whose disk is full answers nothing.
func TestSlowFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		b := breaker.NewBroker(history(&said), away, "JOBS")
		for i := range 5 {
			if b.Out("JOBS") {
				t.Errorf("open after %d failures", i)
			}
			_ = b.Do("JOBS", func() error { time.Sleep(11 * time.Second); return errAway })
		}
		if !b.Out("JOBS") {
			t.Error("not open after 5 requests without an answer")
		}
		time.Sleep(3 * time.Second)
		if b.Out("JOBS") {
			t.Error("open, though one would be let through to see")
		}
		go func() { _ = b.Do("JOBS", func() error { time.Sleep(11 * time.Second); return errAway }) }()
		synctest.Wait()
		if !b.Out("JOBS") {
			t.Error("not out while the one that is to see has no answer")
		}
		time.Sleep(12 * time.Second)
		synctest.Wait()
		want(t, said, "broker JOBS: closed > open", "broker JOBS: open > half-open", "broker JOBS: half-open > open")
	})
}

// A probe that never ends is given up, so that the breaker tries again; one that panics says nothing.
func TestSilentProbesAreGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		b := breaker.NewBroker(history(&said), away, "JOBS")
		for range 5 {
			_ = b.Do("JOBS", func() error { return errAway })
		}
		time.Sleep(3 * time.Second)
		ctx, stop := context.WithCancel(t.Context())
		for range 3 {
			go func() {
				_ = b.Do("JOBS", func() error { <-ctx.Done(); return nil })
			}()
		}
		synctest.Wait()
		if err := b.Do("JOBS", func() error { return nil }); contracts.CodeOf(err) != contracts.CodeUnavailable {
			t.Errorf("a fourth one while three probes are out: %v, want unavailable", err)
		}
		time.Sleep(breaker.ProbeTime + 3*time.Second)
		func() {
			defer func() { _ = recover() }()
			_ = b.Do("JOBS", func() error { panic("x") })
		}()
		for range 3 {
			if err := b.Do("JOBS", func() error { return nil }); err != nil {
				t.Errorf("after the probes were given up: %v", err)
			}
		}
		stop()
		want(t, said, "broker JOBS: closed > open", "broker JOBS: open > half-open", "broker JOBS: half-open > open", "broker JOBS: open > half-open", "broker JOBS: half-open > closed")
	})
}

// A class is out when 40 % of its first tokens are late, and back when probes are in time; p0 is never out, and
// a class that is out shuts no other one.
func TestClasses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		c := breaker.NewClasses(history(&said), "m")
		for i := range 30 {
			c.First("m", contracts.P0, key("x"), false)
			c.First("m", contracts.P1, key("x"), i%3 > 0)
			c.First("m", contracts.P2, key("x"), i%2 > 0)
			c.First("unknown", contracts.P2, key("x"), false)
		}
		for class, in := range map[contracts.Class]bool{contracts.P0: true, contracts.P1: true, contracts.P2: false, contracts.P3: true} {
			if err := c.Allow("m", class, key("y")); (err == nil) != in {
				t.Errorf("%s: %v, want it in: %v", class, err, in)
			} else if err != nil && (contracts.CodeOf(err) != contracts.CodeOverloaded || contracts.AsError(err).RetryAfterMS < 5000) {
				t.Errorf("%s: %+v, want overloaded and a time", class, err)
			}
		}
		time.Sleep(7 * time.Second)
		for _, job := range []string{"1", "2", "3"} {
			if err := c.Allow("m", contracts.P2, key(job)); err != nil {
				t.Fatalf("probe %s: %v", job, err)
			}
		}
		if c.Allow("m", contracts.P2, key("4")) == nil {
			t.Error("a fourth probe is let through")
		}
		c.First("m", contracts.P2, key("begun before"), false)
		c.Gone("m", contracts.P2, key("1"))
		if err := c.Allow("m", contracts.P2, key("5")); err != nil {
			t.Errorf("another one in the place of a job that is gone: %v", err)
		}
		for _, job := range []string{"2", "3", "5"} {
			c.First("m", contracts.P2, key(job), true)
		}
		if err := c.Allow("m", contracts.P2, key("6")); err != nil {
			t.Errorf("after three good probes: %v", err)
		}
		c.Others("m", contracts.P2, 10, 30)
		if c.Allow("m", contracts.P2, key("7")) == nil {
			t.Error("open although other dispatchers saw 30 of 40 late")
		}
		want(t, said, "class m p2: closed > open", "class m p2: open > half-open", "class m p2: half-open > closed", "class m p2: closed > open")
		time.Sleep(20 * time.Second) // for ProbeTime's timers
	})
}

// The probes of a class that never tell anything are given up as well.
func TestClassProbesAreGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		c := breaker.NewClasses(history(&said), "m")
		for range 20 {
			c.First("m", contracts.P3, key("x"), false)
		}
		time.Sleep(7 * time.Second)
		for _, job := range []string{"1", "2", "3"} {
			if err := c.Allow("m", contracts.P3, key(job)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(breaker.ProbeTime + 7*time.Second)
		if err := c.Allow("m", contracts.P3, key("4")); err != nil {
			t.Errorf("37 s after three probes that told nothing: %v", err)
		}
		c.Gone("m", contracts.P3, key("4"))
		time.Sleep(breaker.ProbeTime + time.Second)
		want(t, said, "class m p3: closed > open", "class m p3: open > half-open", "class m p3: half-open > open", "class m p3: open > half-open")
	})
}
