package memory_test

import (
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/memory"
)

// TestBudgetAgainstModel drives a budget with random calls and compares it with plain arithmetic.
func TestBudgetAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(0, 1<<40).Draw(t, "total")
		b := memory.NewBudget(total)
		watch := b.Watch()
		told := func() bool {
			select {
			case <-watch:
				return true
			default:
				return false
			}
		}
		var held []int64
		sum := int64(0)
		amount := rapid.OneOf(rapid.Int64Range(-2, 10), rapid.Int64Range(0, total/2+1), rapid.Int64())
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				n := amount.Draw(t, "n")
				want := n >= 0 && n <= total-sum
				if got := b.Reserve(n); got != want {
					t.Fatalf("Reserve(%d) = %v, want %v with %d of %d reserved", n, got, want, sum, total)
				}
				if want {
					held, sum = append(held, n), sum+n
				}
			},
			"release": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "i")
				if !b.Release(held[i]) || !told() {
					t.Fatalf("Release(%d) refused or not told of, with %d reserved", held[i], sum)
				}
				sum -= held[i]
				held = append(held[:i], held[i+1:]...)
			},
			"release too much": func(t *rapid.T) {
				for _, n := range []int64{sum + 1, -1} {
					if b.Release(n) {
						t.Fatalf("Release(%d) = true with %d reserved", n, sum)
					}
				}
			},
			"resize": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip()
				}
				i, n := rapid.IntRange(0, len(held)-1).Draw(t, "i"), amount.Draw(t, "n")
				want := n >= 0 && (n <= held[i] || n <= total-(sum-held[i]))
				less := want && n < held[i]
				if got := b.Resize(held[i], n); got != want {
					t.Fatalf("Resize(%d, %d) = %v, want %v with %d of %d reserved", held[i], n, got, want, sum, total)
				}
				if got := told(); got != less {
					t.Fatalf("Resize(%d, %d) told the watcher: %v, want %v", held[i], n, got, less)
				}
				if want {
					sum += n - held[i]
					held[i] = n
				}
			},
			"set total": func(t *rapid.T) {
				n := amount.Draw(t, "n")
				b.SetTotal(n, n)
				if got, want := told(), n > total || max(n, 0) < total; got != want {
					t.Fatalf("SetTotal(%d) from %d told the watcher: %v, want %v", n, total, got, want)
				}
				total = max(n, 0)
			},
			"": func(t *rapid.T) {
				if free := max(total-sum, 0); b.Reserved() != sum || b.Free() != free || b.Total() != total {
					t.Fatalf("reserved %d free %d total %d, want %d %d %d", b.Reserved(), b.Free(), b.Total(), sum, free, total)
				}
			},
		})
	})
}

func TestBudgetConcurrently(t *testing.T) {
	t.Parallel()
	b := memory.NewBudget(1000)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 500 {
				n := int64((i*131 + k*17) % 400)
				if !b.Reserve(n) {
					continue
				}
				if free := b.Free(); free < 0 || free > 1000 {
					t.Errorf("free = %d, want 0 to 1000", free)
				}
				if b.Resize(n, n/2) {
					n /= 2
				}
				b.Release(n)
			}
		})
	}
	wg.Wait()
	if got := b.Reserved(); got != 0 {
		t.Errorf("reserved = %d after everything was released, want 0", got)
	}
}

func TestNegativeTotalIsEmpty(t *testing.T) {
	t.Parallel()
	b := memory.NewBudget(-5)
	if b.Total() != 0 || b.Free() != 0 || b.Reserve(1) || !b.Reserve(0) {
		t.Errorf("NewBudget(-5): total %d free %d, want an empty budget", b.Total(), b.Free())
	}
}

// Borrowers hold what is free and know at once when it is less.
func TestLend(t *testing.T) {
	t.Parallel()
	b := memory.NewBudget(100)
	var first, second int64
	b.Lend(func(bytes int64) { first = bytes })
	for _, c := range []struct {
		what        string
		do          func()
		first, next int64
	}{
		{"at first", func() {}, 100, 0},
		{"a second one", func() { b.Lend(func(bytes int64) { second = bytes }) }, 50, 50},
		{"a reservation", func() { b.Reserve(30) }, 35, 35},
		{"it grows", func() { b.Resize(30, 60) }, 20, 20},
		{"a promise", func() { b.Promise(40) }, 20, 20},
		{"a promise that does not grow", func() { b.Redeem(40, 50) }, 20, 20},
		{"a redeemed one", func() { b.Redeem(40, 20) }, 10, 10},
		{"what was not promised", func() { b.Redeem(20, 0) }, 10, 10},
		{"it ends", func() { b.Release(20) }, 20, 20},
		{"a smaller budget", func() { b.SetTotal(50, 50) }, 0, 0},
		{"a refused reservation", func() { b.Reserve(1) }, 0, 0},
		{"given back", func() { b.Release(60) }, 25, 25},
	} {
		if c.do(); first != c.first || second != c.next {
			t.Errorf("%s: %d and %d are lent, want %d and %d", c.what, first, second, c.first, c.next)
		}
	}
}
