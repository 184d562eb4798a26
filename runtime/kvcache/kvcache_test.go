package kvcache_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/kvcache"
)

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		open   []int
		tokens int
		want   error
	}{
		{"zero", nil, 0, nil},
		{"negative", nil, -1, nil},
		{"longer than the context", nil, 101, engine.ErrTooLong},
		{"never within the budget", nil, 65, engine.ErrTooLong},
		{"not now", []int{33}, 32, engine.ErrNoMemory},
		{"too many", []int{1, 1, 1}, 1, engine.ErrNoMemory},
		{"overflow", nil, int(^uint(0) >> 1), engine.ErrTooLong},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := kvcache.New(kvcache.Config{BlockTokens: 16, BytesPerToken: 10, ContextLength: 100, MaxSequences: 3, Budget: 640})
			for _, n := range c.open {
				if _, err := k.Open(n); err != nil {
					t.Fatalf("Open(%d) = %v, want nil", n, err)
				}
			}
			before := k.Memory()
			_, err := k.Open(c.tokens)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("Open(%d) after %v = %v, want %v", c.tokens, c.open, err, c.want)
			}
			if after := k.Memory(); after != before {
				t.Errorf("a refused Open(%d) changed the account from %+v to %+v", c.tokens, before, after)
			}
		})
	}
}

func TestBudgetMayShrink(t *testing.T) {
	t.Parallel()
	k := kvcache.New(kvcache.Config{BlockTokens: 16, BytesPerToken: 1, ContextLength: 64, MaxSequences: 4})
	if got, want := k.Memory().Budget, int64(256); got != want {
		t.Errorf("budget without a limit = %d, want %d", got, want)
	}
	s, err := k.Open(64)
	if err != nil {
		t.Fatal(err)
	}
	k.SetBudget(32)
	if _, err := k.Open(16); !errors.Is(err, engine.ErrNoMemory) {
		t.Errorf("Open(16) with 64 of 32 bytes reserved = %v, want %v", err, engine.ErrNoMemory)
	}
	k.Close(s)
	if _, err := k.Open(16); err != nil {
		t.Errorf("Open(16) with nothing reserved = %v, want nil", err)
	}
}

// books is the reference: contents of the slots as they are written.
type books struct {
	k        *kvcache.Cache
	cfg      kvcache.Config
	slots    [][]engine.Seq // slot -> owner of each token
	lengths  map[engine.Seq]int
	capacity map[engine.Seq]int
}

func (b *books) bytes(n int) int64 {
	blocks := (n + b.cfg.BlockTokens - 1) / b.cfg.BlockTokens
	return int64(blocks*b.cfg.BlockTokens) * b.cfg.BytesPerToken
}

func (b *books) pick(t *rapid.T) engine.Seq {
	if len(b.lengths) == 0 {
		t.Skip("nothing open")
	}
	return rapid.SampledFrom(slices.Sorted(maps.Keys(b.lengths))).Draw(t, "seq")
}

func (b *books) Open(t *rapid.T) {
	n := rapid.IntRange(1, b.cfg.ContextLength+3).Draw(t, "tokens")
	before := b.k.Memory()
	s, err := b.k.Open(n)
	if err != nil {
		never := n > b.cfg.ContextLength || b.bytes(n) > before.Budget
		if errors.Is(err, engine.ErrTooLong) != never {
			t.Fatalf("Open(%d) = %v, never possible: %v", n, err, never)
		}
		full := before.Reserved+b.bytes(n) > before.Budget || len(b.lengths) == b.cfg.MaxSequences
		if !never && !(full && errors.Is(err, engine.ErrNoMemory)) {
			t.Fatalf("Open(%d) = %v although %+v and %d open", n, err, before, len(b.lengths))
		}
		return
	}
	if _, ok := b.lengths[s]; ok || s == 0 {
		t.Fatalf("Open(%d) gave the handle %d twice", n, s)
	}
	b.lengths[s], b.capacity[s] = 0, n
}

func (b *books) Close(t *rapid.T) {
	s := b.pick(t)
	if p, ok := b.k.Close(s); !ok || p.Length != b.lengths[s] {
		t.Fatalf("Close(%d) = %+v, %v, want length %d", s, p, ok, b.lengths[s])
	}
	if _, ok := b.k.Close(s); ok {
		t.Fatalf("second Close(%d) = true", s)
	}
	delete(b.lengths, s)
	delete(b.capacity, s)
}

func (b *books) Append(t *rapid.T) {
	s := b.pick(t)
	n := rapid.IntRange(-1, b.cfg.ContextLength).Draw(t, "n")
	err := b.k.Append(s, n)
	fits := n >= 0 && b.lengths[s]+n <= b.capacity[s]
	if fits != (err == nil) {
		t.Fatalf("Append(%d, %d) with %d of %d = %v", s, n, b.lengths[s], b.capacity[s], err)
	}
	if err != nil {
		return
	}
	p, _ := b.k.Find(s)
	for i := b.lengths[s]; i < b.lengths[s]+n; i++ {
		b.slots[p.Slot][i] = s
	}
	b.lengths[s] += n
}

func (b *books) SetBudget(t *rapid.T) {
	b.k.SetBudget(rapid.Int64Range(1, b.bytes(b.cfg.ContextLength)*int64(b.cfg.MaxSequences)).Draw(t, "budget"))
}

// Check holds the cache against the reference after every action.
func (b *books) Check(t *rapid.T) {
	taken := map[int]engine.Seq{}
	var reserved, used int64
	for s, n := range b.lengths {
		p, ok := b.k.Find(s)
		if !ok || p.Length != n || p.Slot < 0 || p.Slot >= b.cfg.MaxSequences {
			t.Fatalf("Find(%d) = %+v, %v, want length %d", s, p, ok, n)
		}
		if other, ok := taken[p.Slot]; ok {
			t.Fatalf("sequences %d and %d share slot %d", s, other, p.Slot)
		}
		taken[p.Slot] = s
		for i, owner := range b.slots[p.Slot][:n] {
			if owner != s {
				t.Fatalf("token %d of sequence %d in slot %d holds data of %d", i, s, p.Slot, owner)
			}
		}
		reserved += b.bytes(b.capacity[s])
		used += b.bytes(n)
	}
	m := b.k.Memory()
	if m.Reserved != reserved || m.Used != used || m.Used > m.Reserved || b.k.Count() != len(b.lengths) {
		t.Fatalf("account %+v with %d open, want reserved %d, used %d with %d", m, b.k.Count(), reserved, used, len(b.lengths))
	}
}

func TestCacheAgainstReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cfg := kvcache.Config{
			BlockTokens:   rapid.IntRange(1, 16).Draw(t, "block"),
			BytesPerToken: rapid.Int64Range(1, 100).Draw(t, "bytes"),
			ContextLength: rapid.IntRange(1, 64).Draw(t, "context"),
			MaxSequences:  rapid.IntRange(1, 9).Draw(t, "sequences"),
			Budget:        rapid.Int64Range(0, 20000).Draw(t, "budget"),
		}
		b := &books{k: kvcache.New(cfg), cfg: cfg, lengths: map[engine.Seq]int{}, capacity: map[engine.Seq]int{}}
		for range cfg.MaxSequences {
			b.slots = append(b.slots, make([]engine.Seq, cfg.ContextLength))
		}
		t.Repeat(rapid.StateMachineActions(b))
		for s := range b.lengths {
			b.k.Close(s)
		}
		if m := b.k.Memory(); m.Reserved != 0 || m.Used != 0 {
			t.Fatalf("after closing all: %+v", m)
		}
	})
}

// TestReservationsStayWithinBudget is invariant 2 with a budget that does not change.
func TestReservationsStayWithinBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k := kvcache.New(kvcache.Config{BlockTokens: 16, BytesPerToken: 3, ContextLength: 256, MaxSequences: 8, Budget: rapid.Int64Range(1, 4000).Draw(t, "budget")})
		for _, n := range rapid.SliceOf(rapid.IntRange(1, 256)).Draw(t, "tokens") {
			_, _ = k.Open(n)
			if m := k.Memory(); m.Reserved > m.Budget {
				t.Fatalf("Open(%d) went over: %+v", n, m)
			}
		}
	})
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	k := kvcache.New(kvcache.Config{BlockTokens: 16, BytesPerToken: 1, ContextLength: 64, MaxSequences: 8})
	a, _ := k.Open(4)
	b, _ := k.Open(64)
	closed, _ := k.Open(1)
	k.Close(closed)
	limits := kvcache.Limits{Vocab: 10, MaxStepTokens: 8}
	anyError := errors.New("any")
	for _, c := range []struct {
		name string
		rows []*engine.Row
		want []error
	}{
		{"nothing", nil, nil},
		{"both", []*engine.Row{{Seq: a, Tokens: []int32{0, 9}}, {Seq: b, Tokens: []int32{1}}}, []error{nil, nil}},
		{"stale error is cleared", []*engine.Row{{Seq: a, Tokens: []int32{0}, Err: anyError, Logits: []float32{1}}}, []error{nil}},
		{"closed", []*engine.Row{{Seq: closed, Tokens: []int32{1}}, {Seq: b, Tokens: []int32{1}}}, []error{engine.ErrUnknownSequence, nil}},
		{"never opened", []*engine.Row{{Seq: 99, Tokens: []int32{1}}}, []error{engine.ErrUnknownSequence}},
		{"twice", []*engine.Row{{Seq: a, Tokens: []int32{1}}, {Seq: a, Tokens: []int32{1}}}, []error{nil, anyError}},
		{"empty", []*engine.Row{{Seq: a}, {Seq: b, Tokens: []int32{1}}}, []error{anyError, nil}},
		{"over the reservation", []*engine.Row{{Seq: a, Tokens: make([]int32, 5)}}, []error{engine.ErrTooLong}},
		{"over the step", []*engine.Row{{Seq: b, Tokens: make([]int32, 9)}}, []error{anyError}},
		{"negative token", []*engine.Row{{Seq: a, Tokens: []int32{-1}}}, []error{engine.ErrBadToken}},
		{"token beyond", []*engine.Row{{Seq: a, Tokens: []int32{1, 10}}}, []error{engine.ErrBadToken}},
	} {
		admitted, err := k.Admit(c.rows, limits)
		if err != nil {
			t.Errorf("%s: Admit = %v, want nil", c.name, err)
		}
		var good []*engine.Row
		for i, r := range c.rows {
			want := c.want[i]
			if want == nil {
				good = append(good, r)
			}
			if (r.Err == nil) != (want == nil) || want != nil && want != anyError && !errors.Is(r.Err, want) || r.Logits != nil {
				t.Errorf("%s: row %d has error %v and logits %v, want %v and none", c.name, i, r.Err, r.Logits, want)
			}
		}
		if !slices.Equal(admitted, good) {
			t.Errorf("%s: admitted %v, want %v", c.name, admitted, good)
		}
	}
	if _, err := k.Admit([]*engine.Row{nil}, limits); err == nil {
		t.Error("Admit of a nil row = nil, want an error")
	}
}

// What is forgotten is written over; its memory is given back with the sequence.
func TestForget(t *testing.T) {
	k := kvcache.New(kvcache.Config{BlockTokens: 4, BytesPerToken: 1, ContextLength: 64, MaxSequences: 2})
	s, err := k.Open(20)
	if err != nil {
		t.Fatal(err)
	}
	k.Share(s, "ann", []int32{1, 2, 3})
	for _, step := range []struct{ more, forget, length, used int }{{10, 3, 7, 12}, {2, 0, 9, 12}, {7, 6, 10, 16}, {0, -1, 10, 16}, {10, 99, 0, 20}} {
		if err := k.Append(s, step.more); err != nil {
			t.Fatal(err)
		}
		k.Note(s, make([]int32, step.more))
		k.Forget(s, step.forget)
		if p, _ := k.Find(s); p.Length != step.length || k.Memory().Used != int64(step.used) {
			t.Errorf("after %+v: %+v, %d bytes used", step, p, k.Memory().Used)
		}
	}
	k.Forget(s+1, 1)
	if p, ok := k.Close(s); !ok || p.Length != 20 || k.Memory().Used != 0 {
		t.Errorf("Close gives back %+v, %v; %d bytes used", p, ok, k.Memory().Used)
	}
}
