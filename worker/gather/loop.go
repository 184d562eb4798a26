package gather

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker/batch"
)

// Step is one call of the graph, as a trace sees it.
type Step struct {
	Calls    int // joined
	Units    int
	Duration time.Duration
	Waited   time.Duration // of the call that waited longest
	Err      error
}

// Config of a [Loop].
type Config struct {
	Graph   engine.Graph
	Limits  Limits        // Units 0 is the graph's own
	Timeout time.Duration // a call that takes longer hangs: the loop ends with batch.ErrHung; 0 is no limit
	Ran     func(Step)    // optional; called by the loop, must not block
	Logger  *slog.Logger
}

// ErrRefused: the graph ran and reported an error.
var ErrRefused = errors.New("graph")

// Loop drives one graph.
type Loop struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex
	waiting []*item
	order   uint64
	closed  error // why nothing is taken any more
}

// item is a call that waits or runs.
type item struct {
	call  Call
	view  View
	ctx   context.Context
	done  chan struct{} // closed when outputs or err is set
	out   []engine.Tensor
	err   error
	ended bool
}

// New makes a loop that waits for Run.
func New(cfg Config) *Loop {
	if most := cfg.Graph.Info().Limit; cfg.Limits.Units == 0 || cfg.Limits.Units > most {
		cfg.Limits.Units = most
	}
	return &Loop{cfg: cfg, wake: make(chan struct{}, 1)}
}

// Limit is the most units that are joined.
func (l *Loop) Limit() int { return l.cfg.Limits.Units }

// Do runs calls, which may be joined with others, and returns the outputs of each. It blocks until all
// are done; once one has failed, or ctx has ended, what has not begun does not run, and what runs ends soon.
func (l *Loop) Do(ctx context.Context, rank int, calls ...Call) ([][]engine.Tensor, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	items := make([]*item, len(calls))
	l.mu.Lock()
	if l.closed != nil {
		defer l.mu.Unlock()
		return nil, l.closed
	}
	now := time.Now()
	for i, c := range calls {
		items[i] = &item{call: c, ctx: ctx, done: make(chan struct{}), view: View{Rank: rank, Order: l.order, Bucket: c.Bucket, Units: c.Units, Since: now}}
		l.order++
	}
	l.waiting = append(l.waiting, items...)
	l.mu.Unlock()
	l.signal()
	out := make([][]engine.Tensor, len(calls))
	for i, it := range items {
		select {
		case <-it.done:
		case <-ctx.Done():
			l.drop(it)
			<-it.done
		}
		if it.err != nil {
			cancel(it.err)
			for _, rest := range items[i+1:] { // its memory is counted until it has ended
				l.drop(rest)
				<-rest.done
			}
			return nil, it.err
		}
		out[i] = it.out
	}
	return out, nil
}

// drop takes a call whose caller left out of the queue, if it waits there.
func (l *Loop) drop(it *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, it); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		it.end(nil, context.Cause(it.ctx))
	}
}

func (l *Loop) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run drives the graph until ctx ends; then everything ends with ctx's cause and Run returns nil. If the
// graph hangs, what it runs ends with an error that says so, which Run returns, and all else with
// batch.ErrAbandoned.
func (l *Loop) Run(ctx context.Context) (err error) {
	defer func() {
		cause := batch.ErrAbandoned
		if err == nil {
			cause = context.Cause(ctx)
		}
		l.close(cause)
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		items, wait := l.next(time.Now())
		if len(items) > 0 {
			if err := l.serve(ctx, items); err != nil {
				return err
			}
			continue
		}
		wait = cmp.Or(wait, time.Hour)
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// next takes what runs now out of the queue.
func (l *Loop) next(now time.Time) ([]*item, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	views := make([]View, len(l.waiting))
	for i, it := range l.waiting {
		views[i] = it.view
	}
	pick, wait := Next(views, l.cfg.Limits, now)
	items := make([]*item, 0, len(pick))
	taken := map[int]bool{}
	for _, i := range pick {
		items, taken[i] = append(items, l.waiting[i]), true
	}
	if len(items) > 0 {
		rest := make([]*item, 0, len(l.waiting)-len(items))
		for i, it := range l.waiting {
			if !taken[i] {
				rest = append(rest, it)
			}
		}
		l.waiting = rest
	}
	return items, wait
}

// serve runs items as one call, and one by one when that fails. The error says that the graph hangs.
func (l *Loop) serve(ctx context.Context, items []*item) error {
	calls := make([]Call, len(items))
	for i, it := range items {
		calls[i] = it.call
	}
	parts, err := l.timed(ctx, items, calls)
	if errors.Is(err, batch.ErrHung) {
		for _, it := range items {
			it.end(nil, err)
		}
		return err
	}
	if err != nil && len(items) > 1 && ctx.Err() == nil {
		for i := range items {
			if err := l.serve(ctx, items[i:i+1]); err != nil {
				for _, it := range items[i:] {
					it.end(nil, err)
				}
				return err
			}
		}
		return nil
	}
	for i, it := range items {
		if err != nil {
			it.end(nil, err)
			continue
		}
		it.end(parts[i], nil)
	}
	return nil
}

// timed calls the graph, which it leaves behind when the time is up. The call is canceled when ctx ends,
// or when nobody waits for any of its parts any more.
func (l *Loop) timed(ctx context.Context, items []*item, calls []Call) ([][]engine.Tensor, error) {
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var left atomic.Int64
	for _, it := range items {
		defer context.AfterFunc(it.ctx, func() {
			if left.Add(1) == int64(len(items)) {
				cancel(context.Cause(it.ctx))
			}
		})()
	}
	type result struct {
		parts [][]engine.Tensor
		err   error
	}
	start := time.Now()
	back := make(chan result, 1)
	go func() {
		parts, err := l.forward(running, calls)
		back <- result{parts, err}
	}()
	var late <-chan time.Time
	if l.cfg.Timeout > 0 {
		timeout := time.NewTimer(l.cfg.Timeout)
		defer timeout.Stop()
		late = timeout.C
	}
	step := Step{Calls: len(items)}
	for _, it := range items {
		step.Units += it.view.Units
		step.Waited = max(step.Waited, start.Sub(it.view.Since))
	}
	select {
	case r := <-back:
		step.Duration, step.Err = time.Since(start), r.err
		if l.cfg.Ran != nil {
			l.cfg.Ran(step)
		}
		if r.err != nil && ctx.Err() != nil {
			r.err = context.Cause(ctx)
		}
		return r.parts, r.err
	case <-late:
		return nil, fmt.Errorf("%w: a call of %d units is not back after %v", batch.ErrHung, step.Units, l.cfg.Timeout)
	}
}

// forward joins, calls and splits; a panic in the graph is the call's error.
func (l *Loop) forward(ctx context.Context, calls []Call) (parts [][]engine.Tensor, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = batch.Panicked(l.cfg.Logger, "graph", r, debug.Stack())
		}
	}()
	out, err := l.cfg.Graph.Run(ctx, join(calls))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return split(calls, out)
}

// close ends everything and refuses what comes later.
func (l *Loop) close(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = cause
	for _, it := range l.waiting {
		it.end(nil, cause)
	}
	l.waiting = nil
}

func (it *item) end(out []engine.Tensor, err error) {
	if it.ended {
		return
	}
	it.ended, it.out, it.err = true, out, err
	close(it.done)
}
