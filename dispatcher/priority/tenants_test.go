package priority

import (
	"fmt"
	"testing"

	"github.com/pelton-run/pelton/contracts"
)

// TestTenantsAreForgotten: tenants without any job are not remembered for ever.
func TestTenantsAreForgotten(t *testing.T) {
	t.Parallel()
	q := New(nil)
	for i := range 10_000 {
		k := Key{Tenant: fmt.Sprint("tenant-", i), Job: "j"}
		q.Enter(Item{Key: k, Class: contracts.P2, Prompt: 10, Output: 10})
		q.Start(k)
		q.End(k)
	}
	if n := len(q.lines[2].shares); len(q.entries) == 0 && n > 5000 {
		t.Errorf("no job, and %d tenants are remembered", n)
	}
}
