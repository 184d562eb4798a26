package gather_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/gather"
)

// fakeGraph doubles bytes. It takes a call when gate lets it, if there is one.
type fakeGraph struct {
	gate chan struct{}
	seen chan int // rows of each call

	mu    sync.Mutex
	calls [][]byte
}

func (g *fakeGraph) Info() engine.GraphInfo { return engine.GraphInfo{Limit: 8} }
func (g *fakeGraph) Shutdown() error        { return nil }

func (g *fakeGraph) Run(ctx context.Context, in []engine.Tensor) ([]engine.Tensor, error) {
	if g.seen != nil {
		g.seen <- len(in[0].Data)
	}
	if g.gate != nil {
		select {
		case <-g.gate:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	g.mu.Lock()
	g.calls = append(g.calls, in[0].Data)
	g.mu.Unlock()
	out := make([]byte, len(in[0].Data))
	for i, b := range in[0].Data {
		switch b {
		case 13:
			return nil, errors.New("unlucky")
		case 14:
			panic("worse")
		}
		out[i] = 2 * b
	}
	return []engine.Tensor{{Name: "y", Type: "UINT8", Shape: []int64{int64(len(out))}, Data: out}}, nil
}

func call(values ...byte) gather.Call {
	return gather.Call{Inputs: []engine.Tensor{{Name: "x", Type: "UINT8", Shape: []int64{int64(len(values))}, Data: values}},
		Units: len(values), Rows: len(values), Bucket: "b"}
}

// start runs a loop until the test ends.
func start(t *testing.T, g engine.Graph, change func(*gather.Config)) (*gather.Loop, chan gather.Step, chan error) {
	t.Helper()
	steps := make(chan gather.Step, 100)
	c := gather.Config{Graph: g, Logger: slog.New(slog.DiscardHandler), Ran: func(s gather.Step) { steps <- s }}
	if change != nil {
		change(&c)
	}
	l := gather.New(c)
	ctx, stop := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() { stop(errStopped) })
	return l, steps, ended
}

var errStopped = errors.New("stopped")

// TestJoins: calls that come while the graph is busy run together, and each gets its own rows back.
func TestJoins(t *testing.T) {
	t.Parallel()
	g := &fakeGraph{gate: make(chan struct{}), seen: make(chan int, 100)}
	l, steps, _ := start(t, g, nil)
	var all sync.WaitGroup
	ask := func(values ...byte) {
		all.Go(func() {
			out, err := l.Do(t.Context(), 0, call(values...))
			if err != nil {
				t.Error(err)
				return
			}
			for i, v := range values {
				if out[0][0].Data[i] != 2*v || out[0][0].Shape[0] != int64(len(values)) {
					t.Errorf("%v became %v", values, out[0][0])
				}
			}
		})
	}
	ask(1)
	<-g.seen // the graph is busy
	for i := range 4 {
		ask(byte(10*i+20), byte(10*i+21))
	}
	waitFor(t, func() bool { return l.Waiting() == 4 })
	close(g.gate)
	all.Wait()
	if first, second := <-steps, <-steps; first.Calls != 1 || second.Calls != 4 || second.Units != 8 {
		t.Errorf("steps %+v and %+v, want 1 call and then 4", first, second)
	}
}

// waitFor asks until yes; it only gives up long after a busy machine would.
func waitFor(t *testing.T, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to that")
		}
	}
}

// TestOnlyTheGuiltyFails: of calls that fail together, those that succeed alone do succeed.
func TestOnlyTheGuiltyFails(t *testing.T) {
	t.Parallel()
	for _, bad := range []byte{13, 14} {
		g := &fakeGraph{gate: make(chan struct{}), seen: make(chan int, 100)}
		l, _, _ := start(t, g, nil)
		errs := make(chan error, 4)
		go func() { _, err := l.Do(t.Context(), 0, call(1)); errs <- err }()
		<-g.seen
		for _, v := range []byte{2, bad, 3} {
			go func() {
				out, err := l.Do(t.Context(), 0, call(v))
				switch {
				case v == bad && err == nil:
					err = fmt.Errorf("%d did not fail", v)
				case v == bad:
					err = nil
				case err == nil && out[0][0].Data[0] != 2*v:
					err = fmt.Errorf("%d became %v", v, out[0][0])
				}
				errs <- err
			}()
		}
		waitFor(t, func() bool { return l.Waiting() == 3 })
		close(g.gate)
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLeave: a caller that leaves gets its cause at once, whether its call waits or runs, and the graph
// goes on for the others.
func TestLeave(t *testing.T) {
	t.Parallel()
	g := &fakeGraph{gate: make(chan struct{}), seen: make(chan int, 100)}
	l, _, _ := start(t, g, nil)
	leave := errors.New("left")
	for _, running := range []bool{true, false} {
		ctx, cancel := context.WithCancelCause(t.Context())
		back := make(chan error, 1)
		go func() { _, err := l.Do(ctx, 0, call(1)); back <- err }()
		if running {
			<-g.seen
		} else {
			waitFor(t, func() bool { return l.Waiting() == 1 })
		}
		cancel(leave)
		if err := <-back; !errors.Is(err, leave) {
			t.Errorf("running %v: %v, want %v", running, err, leave)
		}
		if running { // now let something else keep the graph busy
			go func() { _, _ = l.Do(t.Context(), 0, call(5)) }()
			<-g.seen
		}
	}
	close(g.gate)
	if _, err := l.Do(t.Context(), 0, call(7)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestWaitsForTheRest: when one of a caller's calls fails, it does not go on, and free their memory, while
// another one runs.
func TestWaitsForTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &slowGraph{gate: make(chan struct{})}
		l, _, _ := start(t, g, nil)
		back := make(chan error, 1)
		go func() { _, err := l.Do(t.Context(), 0, call(13), call(1)); back <- err }()
		synctest.Wait() // 13 has failed, 1 runs
		select {
		case err := <-back:
			t.Errorf("it is back with %v while its other call runs", err)
		default:
		}
		close(g.gate)
		synctest.Wait()
		select {
		case err := <-back:
			if !errors.Is(err, gather.ErrRefused) {
				t.Errorf("it ended with %v", err)
			}
		default:
			t.Error("it never ends")
		}
	})
}

// slowGraph takes its time to hear that a call is canceled.
type slowGraph struct {
	fakeGraph
	gate chan struct{}
}

func (g *slowGraph) Run(ctx context.Context, in []engine.Tensor) ([]engine.Tensor, error) {
	if bytes.Equal(in[0].Data, []byte{1}) {
		<-g.gate
	}
	return g.fakeGraph.Run(ctx, in)
}

// TestHangs: a graph that does not come back ends the loop, which says so to those that it ran.
func TestHangs(t *testing.T) {
	t.Parallel()
	g := &stuckGraph{fakeGraph{}, make(chan struct{})}
	defer close(g.never)
	l, _, ended := start(t, g, func(c *gather.Config) { c.Timeout = 20 * time.Millisecond })
	if _, err := l.Do(t.Context(), 0, call(1)); !errors.Is(err, batch.ErrHung) {
		t.Errorf("Do = %v, want %v", err, batch.ErrHung)
	}
	if err := <-ended; !errors.Is(err, batch.ErrHung) {
		t.Errorf("Run = %v, want %v", err, batch.ErrHung)
	}
	if _, err := l.Do(t.Context(), 0, call(1)); !errors.Is(err, batch.ErrAbandoned) {
		t.Errorf("Do afterwards = %v, want %v", err, batch.ErrAbandoned)
	}
}

type stuckGraph struct {
	fakeGraph
	never chan struct{}
}

func (g *stuckGraph) Run(context.Context, []engine.Tensor) ([]engine.Tensor, error) {
	<-g.never
	return nil, errors.New("too late")
}
