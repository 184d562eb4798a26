package memory_test

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/runtime/memory"
)

const mib = 1 << 20

func TestKVBudget(t *testing.T) {
	t.Parallel()
	fp := memory.Footprint{Base: 20 * mib, Weights: 190 * mib, Arena: 15 * mib, Margin: 64 * mib}
	got, err := memory.KVBudget(400*mib, fp)
	if err != nil || got != 111*mib {
		t.Errorf("KVBudget(400 MiB, %+v) = %d, %v; want %d", fp, got, err, 111*mib)
	}
}

// TestKVBudgetSaysTheLeast checks that the limit which the error names is enough.
func TestKVBudgetSaysTheLeast(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.Int64Range(0, 1<<40)
		fp := memory.Footprint{Base: part.Draw(t, "base"), Weights: part.Draw(t, "weights"), Arena: part.Draw(t, "arena"), Margin: part.Draw(t, "margin")}
		limit := rapid.Int64Range(-1, fp.Base+fp.Weights+fp.Arena+fp.Margin+memory.LeastKV-1).Draw(t, "limit")
		_, err := memory.KVBudget(limit, fp)
		if err == nil {
			t.Fatalf("KVBudget(%d, %+v): no error, want one", limit, fp)
		}
		_, least, ok := strings.Cut(err.Error(), "give it at least ")
		if !ok {
			t.Fatalf("error %q does not say the least limit", err)
		}
		n, err := memory.ParseSize(least)
		if err != nil {
			t.Fatalf("the least limit %q: %v", least, err)
		}
		if kv, err := memory.KVBudget(n, fp); err != nil || kv < memory.LeastKV || kv > memory.LeastKV+mib {
			t.Fatalf("KVBudget(%s, %+v) = %d, %v; want about %d", least, fp, kv, err, memory.LeastKV)
		}
	})
}

func TestKVBudgetOutOfRange(t *testing.T) {
	t.Parallel()
	for _, fp := range []memory.Footprint{{Base: -1}, {Weights: math.MaxInt64}, {Base: math.MaxInt64 / 2, Weights: math.MaxInt64 / 2, Arena: 10 * mib}} {
		if kv, err := memory.KVBudget(math.MaxInt64, fp); err == nil {
			t.Errorf("KVBudget(max, %+v) = %d, want an error", fp, kv)
		}
	}
}
