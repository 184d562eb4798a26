// Package turn lets held jobs into JOBS when it is their turn, and keeps what the dispatchers know of each
// other's backlog up to date.
//
// It belongs to step 5 of the walk, beside dispatcher/publish.go: dispatcher/backlog says whose turn it is,
// this package moves the job from SCHED to JOBS. Previous step: dispatcher/priority; next: dispatcher's
// publish. It decides nothing itself, and a job that it moves twice, or that another dispatcher moves at the
// same time, is in JOBS once. Its methods are safe for concurrent use.
package turn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/state"
)

const (
	// Every is how often a dispatcher looks whose turn it is, beside at each first token.
	Every = 100 * time.Millisecond
	// AtOnce is how many held jobs are put into JOBS at the same time.
	AtOnce = 64
	// adoptAfter is how long a held job is left to the dispatcher that holds it.
	adoptAfter = 10 * time.Second
	// settleEvery is how often jobs that seem to wait for their first token are looked up.
	settleEvery = 5 * time.Second
	// settleMost bounds the jobs of one look.
	settleMost = 500
)

// Config of [Turns]. All fields are needed.
type Config struct {
	Backlog          *backlog.Backlog
	Sched, Jobs, Out *relay.Log
	Logger           *slog.Logger
	Name             string // of this dispatcher among the others

	Put      func(ctx context.Context, a *contracts.Admitted, data []byte, id string) error // into JOBS, under a message id
	Evict    func(ctx context.Context, tenant, job string) error                            // ends a held job that would come too late; ErrBegun
	Remove   func(ctx context.Context, m *relay.Message)                                    // a message of SCHED
	Damaged  func(ctx context.Context, tenant, job string) error                            // ends a held job that cannot be read
	Deadline func(tenant, job string, deadline int64)                                       // notes a deadline, Unix milliseconds
	Final    func(tenant, job string, c *contracts.Chunk)                                   // a job's final record, which was perhaps not heard
	Say      func(share []byte) error                                                       // to the other dispatchers
	Age      func(stored time.Time) time.Duration                                           // of a message that the broker stored at a time
	Keep     func(ctx context.Context, day []byte) error                                    // on [subject.Day] of this one
}

// ErrBegun says that a held job has records: it is let in, not evicted.
var ErrBegun = errors.New("the job has begun")

// Turns moves jobs while Run runs.
type Turns struct {
	cfg   Config
	rung  chan struct{}
	doubt atomic.Bool // final records may have been missed
}

// New returns one that waits for Run.
func New(cfg Config) *Turns { return &Turns{cfg: cfg, rung: make(chan struct{}, 1)} }

// Run works until ctx ends.
func (t *Turns) Run(ctx context.Context) {
	var work sync.WaitGroup
	work.Go(func() { t.turns(ctx) })
	work.Go(func() { t.settles(ctx) })
	work.Go(func() { t.shares(ctx) })
	work.Go(func() { t.days(ctx) })
	work.Wait()
}

// Next makes it look whose turn it is.
func (t *Turns) Next() {
	select {
	case t.rung <- struct{}{}:
	default:
	}
}

// turns puts held jobs into JOBS as room comes, until ctx ends. Several dispatchers may do so with the same
// jobs: only one message can be on a job's subject, under one message id.
func (t *Turns) turns(ctx context.Context) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	var work sync.WaitGroup
	defer work.Wait()
	places := make(chan struct{}, AtOnce)
	for {
		select {
		case <-t.rung:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for {
			if i, ok := t.cfg.Backlog.Lost(time.Now()); ok {
				places <- struct{}{} // given back by work that ends with ctx
				work.Go(func() {
					defer func() { <-places }()
					t.evict(ctx, i)
				})
				continue
			}
			i, ok := t.cfg.Backlog.Next(time.Now())
			if !ok {
				break
			}
			places <- struct{}{}
			work.Go(func() {
				defer func() { <-places }()
				if err := t.letIn(ctx, i); err != nil {
					t.cfg.Backlog.Back(i.Key)
					if ctx.Err() == nil {
						t.cfg.Logger.Warn("held job not queued, trying again", "tenant", i.Tenant, "job", i.Job, "error", err)
						pause(ctx, Every)
					}
				}
			})
		}
	}
}

// evict ends a held job whose first token could only come too late. One that cannot be ended is adopted
// again some time later.
func (t *Turns) evict(ctx context.Context, i priority.Item) {
	err := t.cfg.Evict(ctx, i.Tenant, i.Job)
	if errors.Is(err, ErrBegun) {
		if err = t.letIn(ctx, i); err == nil {
			return
		}
	}
	if err != nil && ctx.Err() == nil {
		t.cfg.Logger.Warn("held job not ended", "tenant", i.Tenant, "job", i.Job, "error", err)
		pause(ctx, Every)
	}
	t.cfg.Backlog.Drop(i.Key)
}

func pause(ctx context.Context, span time.Duration) {
	select {
	case <-time.After(span):
	case <-ctx.Done():
	}
}

// letIn moves a held job from SCHED to JOBS. A crash in between repeats the publish under the same id; of a
// job that ended meanwhile nothing is done. One that has begun is let in: after a restore, records are younger than
// the queue, which otherwise knows the job.
func (t *Turns) letIn(ctx context.Context, i priority.Item) error {
	m, err := t.cfg.Sched.At(ctx, i.Seq)
	if err != nil {
		return err
	}
	if m == nil || m.Subject != subject.Held(i.Tenant, i.Job) {
		return t.lookUp(ctx, i.Key) // it ended, or another dispatcher let it in
	}
	if i.Adopted {
		last, err := t.cfg.Out.Last(ctx, subject.Out(i.Tenant, i.Job))
		if err != nil {
			return err
		}
		if state.Ended(last) {
			t.cfg.Backlog.Drop(i.Key)
			t.cfg.Remove(ctx, m)
			return nil
		}
	}
	a := new(contracts.Admitted)
	if err := contracts.Decode(m.Data, a); err != nil {
		t.cfg.Backlog.Drop(i.Key)
		return t.cfg.Damaged(ctx, i.Tenant, i.Job)
	}
	id := fmt.Sprintf("%s.%s.hold.%d", subject.Escape(i.Tenant), subject.Escape(i.Job), i.Seq)
	if err := t.cfg.Put(ctx, a, m.Data, id); err != nil {
		return err
	}
	t.cfg.Remove(ctx, m)
	return nil
}

// Doubt says that records may have been missed, as after a reconnect: jobs that run or are scheduled are looked up too.
func (t *Turns) Doubt() { t.doubt.Store(true) }

// Adopt counts the held jobs in that nobody seems to let in: those of before this dispatcher's start, and
// of dispatchers that are gone. One that cannot be read is ended, one of a later version left to whom can.
func (t *Turns) Adopt(ctx context.Context, first bool) error {
	var damaged []string
	err := t.cfg.Sched.Read(ctx, subject.AllHeld, 1, func(m *relay.Message) bool {
		if !first && t.cfg.Age(m.Time) <= adoptAfter {
			return ctx.Err() == nil
		}
		var a contracts.Admitted
		switch err := contracts.Decode(m.Data, &a); {
		case err == nil:
			t.cfg.Deadline(a.Job.Tenant, a.Job.ID, a.Job.Deadline)
			t.cfg.Backlog.Adopt(&a, m.Seq, time.Now().Add(-t.cfg.Age(m.Time)), false)
		case contracts.CodeOf(err) != contracts.CodeUnimplemented:
			damaged = append(damaged, m.Subject)
		}
		return ctx.Err() == nil
	})
	for _, held := range damaged {
		tenant, job, unreadable := subject.ParseJobRef("hold", held)
		if unreadable == nil {
			unreadable = t.cfg.Damaged(ctx, tenant, job)
		}
		err = errors.Join(err, unreadable)
	}
	t.Next()
	return err
}

// settles looks jobs up that have waited for their first token from one look to the next, in case their
// records were missed, until ctx ends.
func (t *Turns) settles(ctx context.Context) {
	var before map[priority.Key]bool
	for range tick.After(ctx, settleEvery) {
		if t.doubt.Swap(false) {
			if err := t.ended(ctx); err != nil {
				t.doubt.Store(true)
			}
		}
		now := map[priority.Key]bool{}
		looked := 0
		for _, k := range t.cfg.Backlog.Inside() {
			now[k] = true
			if !before[k] || looked == settleMost {
				continue
			}
			looked++
			if err := t.lookUp(ctx, k); err != nil && ctx.Err() == nil {
				t.cfg.Logger.Debug("waiting job not looked up", "tenant", k.Tenant, "job", k.Job, "error", err)
				break
			}
		}
		before = now
	}
}

// ended forgets the jobs that have ended meanwhile, of which nothing else tells it.
func (t *Turns) ended(ctx context.Context) error {
	for keys := range slices.Chunk(t.cfg.Backlog.Unheard(), settleMost) {
		of, outs := map[string]priority.Key{}, []string{}
		for _, k := range keys {
			out := subject.Out(k.Tenant, k.Job)
			of[out], outs = k, append(outs, out)
		}
		last, err := t.cfg.Out.LastOf(ctx, outs)
		if err != nil {
			return err
		}
		for out, m := range last {
			t.final(of[out], m)
		}
	}
	return nil
}

// final tells whether a job's last record is its end, and that to the dispatcher.
func (t *Turns) final(k priority.Key, last *relay.Message) bool {
	c, err := state.Decode(last)
	switch {
	case err != nil:
		t.cfg.Backlog.Drop(k)
	case c.Final():
		t.cfg.Final(k.Tenant, k.Job, c)
	default:
		return false
	}
	return true
}

// lookUp corrects what the backlog believes of a job.
func (t *Turns) lookUp(ctx context.Context, k priority.Key) error {
	last, err := t.cfg.Out.Last(ctx, subject.Out(k.Tenant, k.Job))
	if err != nil {
		return err
	}
	if last == nil {
		if m, err := t.cfg.Jobs.Last(ctx, subject.AnyJob(k.Tenant, k.Job)); m == nil && err == nil {
			t.cfg.Backlog.Drop(k)
		}
		return err
	}
	if t.final(k, last) {
		return nil
	}
	switch c, err := state.Decode(last); {
	case err == nil && (!c.IsClaim() || c.Index > 0):
		t.cfg.Backlog.First(subject.Live(k.Tenant, k.Job), time.Now())
	default:
		return nil
	}
	t.Next()
	return nil
}
