package residence_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/residence"
	"github.com/pelton-run/pelton/runtime/memory"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// fakeModel takes some bytes of the account while it is loaded.
type fakeModel struct {
	bytes int64
	up    atomic.Bool
	fails atomic.Int64 // so many opens more fail
}

var errBroken = errors.New("broken")

func (f *fakeModel) open(context.Context) (residence.Loaded, error) {
	if f.fails.Add(-1) >= 0 {
		return nil, errBroken
	}
	if f.up.Swap(true) {
		return nil, errors.New("opened twice")
	}
	return f, nil
}

func (f *fakeModel) Footprint() (weights, arena int64) { return f.bytes - 1, 1 }

func (f *fakeModel) Shutdown() error {
	f.up.Store(false)
	return nil
}

// bench is a manager whose deeds can be waited for.
type bench struct {
	t       *testing.T
	budget  *memory.Budget
	manager *residence.Manager
	said    chan string
}

func newBench(t *testing.T, total int64) *bench {
	t.Helper()
	b := &bench{t: t, budget: memory.NewBudget(total), said: make(chan string, 100)}
	b.manager = residence.New(residence.Config{Budget: b.budget, Trace: residence.Trace{
		Loaded:   func(m string, _ int64, _ time.Duration) { b.said <- "loaded " + m },
		Unloaded: func(m string, _ int64) { b.said <- "unloaded " + m },
		Failed:   func(m string, _ error) { b.said <- "failed " + m },
	}})
	return b
}

func (b *bench) add(name string, m *fakeModel, pinned bool) *residence.Seat {
	b.t.Helper()
	s, err := b.manager.Add(b.t.Context(), residence.Model{Name: name, Pinned: pinned, Bytes: m.bytes / 2, Open: m.open})
	if err != nil {
		b.t.Fatalf("Add(%s) = %v", name, err)
	}
	return s
}

// run starts the manager, and says what happened before.
func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = b.manager.Run(ctx) })
	b.t.Cleanup(func() { cancel(); done.Wait() })
}

func (b *bench) hears(want ...string) {
	b.t.Helper()
	for _, w := range want {
		select {
		case got := <-b.said:
			if got != w {
				b.t.Fatalf("the manager %s, want %s", got, w)
			}
		case <-time.After(patience):
			b.t.Fatalf("the manager did nothing, want %s", w)
		}
	}
}

// job takes and gives back the memory of one job of two choices, as an intake does: reserved on suspicion, then fitted.
func job(s *residence.Seat, bytes int64) bool {
	if !s.Resize(0, bytes) {
		return false
	}
	fits := s.Resize(bytes, bytes)
	s.Started()
	return fits && s.Resize(bytes, bytes/2) && s.Resize(bytes/2, 0)
}

func TestModelsTakeTurns(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100)
	ma, mb := &fakeModel{bytes: 60}, &fakeModel{bytes: 70}
	sa := b.add("a", ma, false)
	sb := b.add("b", mb, false)
	b.hears("loaded a", "unloaded a", "loaded b")
	b.run()
	if sa.Awake() || !sb.Awake() || sa.Total() != 40 || sb.Total() != 30 || sa.Free() != 40 || sb.Free() != 30 {
		t.Errorf("a: awake %v, %d of %d free; b: %v, %d of %d", sa.Awake(), sa.Free(), sa.Total(), sb.Awake(), sb.Free(), sb.Total())
	}
	if sa.Resize(0, 1) {
		t.Error("a job of a model that is asleep got memory")
	}
	freed := sa.Watch()
	sa.Want(20)
	b.hears("unloaded b", "loaded a")
	select {
	case <-freed:
	case <-time.After(patience):
		t.Fatal("nobody was told that a is loaded")
	}
	if !sa.Resize(0, 20) || sa.Free() != 20 || mb.up.Load() {
		t.Errorf("after a is loaded %d are free, b loaded %v", sa.Free(), mb.up.Load())
	}
	sb.Want(10) // waits for a's job
	if !sb.Awake() && !sa.Resize(20, 0) {
		t.Error("a job's memory is not taken back")
	}
	b.hears("unloaded a", "loaded b")
	if err := errors.Join(sa.Close(), sb.Close()); err != nil || b.budget.Reserved() != 0 || ma.up.Load() || mb.up.Load() {
		t.Errorf("after Close: %v, %d bytes reserved", err, b.budget.Reserved())
	}
}

func TestPinnedStays(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100)
	pinned := b.add("pinned", &fakeModel{bytes: 50}, true)
	x := b.add("x", &fakeModel{bytes: 30}, false)
	y := b.add("y", &fakeModel{bytes: 40}, false)
	b.hears("loaded pinned", "loaded x", "unloaded x", "loaded y")
	b.run()
	if x.Total() != 20 || y.Total() != 10 || pinned.Total() != 50 {
		t.Errorf("totals are %d, %d, %d, want 20, 10, 50", x.Total(), y.Total(), pinned.Total())
	}
	x.Want(20)
	b.hears("unloaded y", "loaded x")
	_, err := b.manager.Add(t.Context(), residence.Model{Name: "z", Bytes: 51, Open: (&fakeModel{bytes: 51}).open})
	if err == nil || !strings.Contains(err.Error(), "takes 51 B, and 50 B are there") || !pinned.Awake() {
		t.Errorf("Add of a model that does not fit beside the pinned one = %v, want what it takes and what is there", err)
	}
}

// A model whose jobs never end does not keep another one out for ever.
func TestPatience(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100)
	sa := b.add("a", &fakeModel{bytes: 60}, false)
	sb := b.add("b", &fakeModel{bytes: 60}, false)
	b.hears("loaded a", "unloaded a", "loaded b")
	b.run()
	if !sb.Resize(0, 10) { // there is always a job of b
		t.Fatal("b has no memory")
	}
	sa.Want(10)
	for i := range residence.Patience {
		if sb.Free() == 0 || !job(sb, 10) {
			t.Fatalf("b is held after %d jobs, a has to wait for %d", i, residence.Patience)
		}
	}
	if free := sb.Free(); free != 0 {
		t.Errorf("after %d jobs of b, %d are free for it, want none", residence.Patience, free)
	}
	if !sb.Resize(10, 0) {
		t.Fatal("b's job does not end")
	}
	b.hears("unloaded b", "loaded a")
	if !sa.Resize(0, 10) {
		t.Error("a did not get what it waited for")
	}
}

// A job that waits for KV memory has idle models unloaded if waiting for other jobs would not help.
func TestIdleModelsMakeRoomForJobs(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100)
	sa := b.add("a", &fakeModel{bytes: 40}, false)
	b.add("b", &fakeModel{bytes: 40}, false)
	b.hears("loaded a", "loaded b")
	b.run()
	if sa.Free() != 60 || sa.Resize(0, 30) {
		t.Errorf("%d are free for a, of which 20 at once", sa.Free())
	}
	sa.Want(30)
	b.hears("unloaded b")
	if !sa.Resize(0, 30) {
		t.Error("a did not get what it waited for")
	}
}

// A model that does not load is tried again, and holds nobody up meanwhile.
func TestLoadFails(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100)
	m := &fakeModel{bytes: 60}
	sa := b.add("a", m, false)
	sb := b.add("b", &fakeModel{bytes: 60}, false)
	b.hears("loaded a", "unloaded a", "loaded b")
	b.run()
	m.fails.Store(1)
	sa.Want(10)
	b.hears("unloaded b", "failed a")
	if got := b.budget.Reserved(); got != 0 {
		t.Errorf("after a failed load %d bytes are reserved", got)
	}
	sb.Want(10)
	b.hears("loaded b")
	if !job(sb, 10) {
		t.Error("b has no memory for its job")
	}
	b.hears("unloaded b", "loaded a")
}
