package backlog_test

import (
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// TestPromptIsPaidFor: a job that ran is charged with its prompt also when its answer is empty, and texts to
// embed and tensors are charged too.
func TestPromptIsPaidFor(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{FIFO: true, Quotas: map[string]quota.Limits{"a": {Tokens: 1000}}}, fleet)
	left := func(want int) {
		t.Helper()
		if _, tokens := b.Quota("a", start); tokens.Remaining != want {
			t.Errorf("%d tokens are left, want %d", tokens.Remaining, want)
		}
	}
	empty := job("a", "1", contracts.P2, 90) // and 10 at most
	place(t, b, empty, start)
	left(900)
	ended(b, empty, true)
	left(910)
	never := job("a", "2", contracts.P2, 90)
	place(t, b, never, start)
	ended(b, never, false)
	left(910)
	embed := &contracts.Admitted{KVTokens: 300, Rows: [][]int32{make([]int32, 300)}, Job: contracts.Job{ID: "3", Tenant: "a", Model: "m", Kind: contracts.KindEmbed, Class: contracts.P2}}
	place(t, b, embed, start)
	left(610)
	ended(b, embed, true)
	left(610)
}

func ended(b *backlog.Backlog, a *contracts.Admitted, ran bool) { b.Ended(key(a), "m", 0, ran, false) }
