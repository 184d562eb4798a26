package gate_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/pelton-run/pelton/dispatcher/gate"
)

// TestKeys: calls of one key are inside one after the other, those of others beside them, and one that waits can leave.
func TestKeys(t *testing.T) {
	t.Parallel()
	var keys gate.Keys[string]
	inside, most := 0, 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := keys.Enter(t.Context(), "a"); err != nil {
				t.Error(err)
				return
			}
			defer keys.Leave("a")
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			mu.Lock()
			inside--
			mu.Unlock()
		})
	}
	all.Wait()
	if most != 1 {
		t.Errorf("%d were inside at once", most)
	}
	if err := keys.Enter(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := keys.Enter(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := keys.Enter(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a call whose context has ended: %v", err)
	}
}
