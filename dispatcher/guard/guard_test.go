package guard_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/retry"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/guard"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

// post is a guard and what it did.
type post struct {
	*guard.Guard
	said    [][]byte
	changes []contracts.Event
	rested  []string
	top     float64
}

func newPost(name string) *post {
	p := &post{}
	p.Guard = guard.New(guard.Config{
		Name: name, Models: []string{"m"}, Objectives: admission.Objectives{contracts.P1: time.Second}, Logger: slog.New(slog.DiscardHandler),
		Live: func() int { return 10 }, Rest: func(w string) { p.rested = append(p.rested, w) },
		Away:  func(error) bool { return true },
		Moved: func(e *contracts.Event) { p.changes = append(p.changes, *e) },
		Say: func(to string, data []byte) error {
			if to == subject.SLOLevel("m") {
				p.said = append(p.said, data)
			}
			return nil
		},
		Top: func(_ string, rung float64) { p.top = rung },
	})
	return p
}

func job(class contracts.Class, id string) *contracts.Job {
	return &contracts.Job{ID: id, Tenant: "t", Model: "m", Class: class}
}

// What one dispatcher sees sheds at the other one too, while it says so.
func TestLevelsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost("a"), newPost("b")
		for n := range 15 {
			j := job(contracts.P1, fmt.Sprint(n))
			if err := a.Allow(j, time.Now()); err != nil {
				t.Fatal(err)
			}
			a.First("m", contracts.P1, priority.Key{Tenant: "t", Job: j.ID}, 2*time.Second, time.Second)
		}
		a.Tick()
		if len(a.said) != 1 || len(a.changes) != 1 || a.changes[0].Kind != "ladder" || a.changes[0].Reason == "" || a.top >= 512 {
			t.Fatalf("15 late first tokens: told %d times, %+v, at %v", len(a.said), a.changes, a.top)
		}
		a.Hear("m", a.said[0]) // what it says itself is no news
		b.Hear("m", a.said[0])
		b.Hear("m", []byte("{"))
		b.Hear("unknown", a.said[0])
		b.Tick()
		if b.top != a.top {
			t.Errorf("one is at %v, the other at %v", a.top, b.top)
		}
		if e := contracts.AsError(b.Allow(job(contracts.P3, "x"), time.Now())); e.Code != contracts.CodeOverloaded || e.RetryAfterMS < 1000 {
			t.Errorf("p3 at the other one: %+v, want overloaded", e)
		}
		if err := b.Allow(job(contracts.P0, "x"), time.Now()); err != nil {
			t.Errorf("p0 at the other one: %v", err)
		}
	})
}

// A worker is judged by what it takes from a job's claim to its first piece, whoever submitted the job.
func TestSlowWorkerRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPost("a")
		for n := range 200 {
			worker, took := fmt.Sprint("w", n%5), 10*time.Millisecond
			if n%5 == 2 {
				took = 2 * time.Second
			}
			live, now := fmt.Sprint("live.t.", n), time.Now()
			claim := func(live string, class contracts.Class) {
				p.Record(live, priority.Key{}, &contracts.Chunk{Claim: &contracts.Claim{Worker: worker, Model: "m", Class: class, Attempt: 1}}, now)
			}
			claim(live, contracts.P1)
			p.Piece(live, now.Add(took))
			p.Piece(live, now.Add(time.Hour)) // only the first one tells
			claim(live+"p3", contracts.P3)
			p.Piece(live+"p3", now.Add(time.Hour)) // a class without an objective
			claim(live+"gone", contracts.P1)
			p.Record(live+"gone", priority.Key{}, &contracts.Chunk{Usage: &contracts.Usage{}, Code: contracts.CodeCanceled, Claim: &contracts.Claim{Worker: worker}}, now)
			p.Piece(live+"gone", now.Add(time.Hour))
		}
		if !slices.Equal(p.rested, []string{"w2"}) {
			t.Errorf("%v rest, want w2", p.rested)
		}
	})
}

// Tenants repeat on their own account.
func TestRepeats(t *testing.T) {
	t.Parallel()
	p := newPost("a")
	again := func(tenant string, retries string) bool {
		j := job(contracts.P2, "j")
		j.Tenant, j.Labels = tenant, map[string]string{retry.Label: retries}
		return !p.Refused(j, &contracts.Error{Code: contracts.CodeOverloaded}).NoRetry
	}
	for n := range 3 * retry.Burst {
		if again("often", "1") != (n < retry.Burst) {
			t.Fatalf("repeat %d", n+1)
		}
	}
	if !again("often", "0") || !again("often", "x") || !again("once", "7") {
		t.Error("a first request, or another tenant's repeat, may not come again")
	}
}

// A fleet that cannot store records takes no jobs: it notices by itself when none is heard of those that it queued,
// and again when they are stored.
func TestRecordsAreTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		var broken, hangs atomic.Bool
		cfg := guard.Config{Parts: []string{"JOBS", "OUT"}, Queue: "JOBS", Records: "OUT", Logger: slog.New(slog.DiscardHandler),
			Away: func(error) bool { return true }, Say: func(string, []byte) error { return nil }}
		var g *guard.Guard
		cfg.Write = func(ctx context.Context) error {
			tries.Add(1)
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			if broken.Load() {
				return errors.New("no answer")
			}
			g.Piece("live.%2D.try", time.Now())
			return nil
		}
		g = guard.New(cfg)
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { g.Run(ctx); close(over) }()
		queue := func() error { return g.Ask("JOBS", func() error { return nil }) }
		after := func(span time.Duration, want int64) {
			t.Helper()
			time.Sleep(span)
			synctest.Wait()
			if n := tries.Swap(0); n != want {
				t.Errorf("%d tries, want %d", n, want)
			}
		}
		after(time.Minute, 0) // nothing is queued
		for range 20 {
			if err := queue(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			g.Piece("live.t.j", time.Now())
		}
		after(0, 0) // all is heard of
		_ = queue()
		after(time.Minute, 1) // it waits for a worker
		broken.Store(true)
		_ = queue()
		time.Sleep(11 * time.Second)
		if e := contracts.AsError(queue()); e.Code != contracts.CodeUnavailable || !strings.Contains(e.Message, "OUT") || !g.Out("OUT") {
			t.Errorf("without records: %v, want unavailable", e)
		}
		broken.Store(false)
		time.Sleep(4 * time.Second)
		if err := queue(); err != nil || g.Out("OUT") {
			t.Errorf("records are stored again: %v", err)
		}
		hangs.Store(true)
		time.Sleep(6 * time.Second)
		stopped := time.Now()
		stop()
		<-over
		if tries.Load() == 0 || time.Since(stopped) > 0 {
			t.Errorf("the end waited %v for a try (of %d)", time.Since(stopped), tries.Load())
		}
	})
}
