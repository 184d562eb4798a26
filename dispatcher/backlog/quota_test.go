package backlog_test

import (
	"testing"
	"time"

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
	three := job("a", "4", contracts.P2, 90) // of 10 at most each: one prompt, as the usage says
	three.Job.Params.N = new(3)
	place(t, b, three, start)
	left(490)
	b.Ended(key(three), "m", 25, true, false)
	left(495)
}

// TestEndBeforeWhoseItIs: a job that is submitted at two dispatchers at once is paid for at the one that was first,
// also when it ends before the other knows.
func TestEndBeforeWhoseItIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ours bool
		left int
	}{{true, 905}, {false, 1000}} {
		b := backlog.New(backlog.Settings{FIFO: true, Quotas: map[string]quota.Limits{"a": {Tokens: 1000, Concurrent: 1}}}, fleet)
		for range 2 { // the second one finds the place of the first
			if _, _, err := b.Place(job("a", "1", contracts.P2, 90), start); err != nil { // and 10 at most
				t.Fatal(err)
			}
			b.Ended(key(job("a", "1", contracts.P2, 90)), "m", 5, true, true)
			b.Ours(key(job("a", "1", contracts.P2, 90)), c.ours)
			if _, tokens := b.Quota("a", start); tokens.Remaining != c.left {
				t.Errorf("ours %v: %d tokens are left, want %d", c.ours, tokens.Remaining, c.left)
			}
			c.left -= 1000 - c.left
		}
	}
}

func ended(b *backlog.Backlog, a *contracts.Admitted, ran bool) { b.Ended(key(a), "m", 0, ran, false) }

// TestMidnight: what a job of yesterday did not use is not taken from what was used today, and what another
// dispatcher tells of today does not fall back to yesterday.
func TestMidnight(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{FIFO: true, Quotas: map[string]quota.Limits{"a": {Daily: 1000}}}, fleet)
	yesterday := start.Truncate(24 * time.Hour).Add(24*time.Hour - time.Minute)
	today := yesterday.Add(2 * time.Minute)
	first, short := job("a", "1", contracts.P2, 490), job("a", "2", contracts.P2, 90)
	place(t, b, first, yesterday)
	place(t, b, short, yesterday)
	b.Peer("other", backlog.Share{Spent: map[string]backlog.Spent{"a": {Requests: 1, Tokens: 400}}}, today)
	ended(b, short, false)
	place(t, b, job("a", "3", contracts.P2, 490), today)
	ended(b, first, false)
	if _, _, err := b.Place(job("a", "4", contracts.P2, 190), today); contracts.CodeOf(err) != contracts.CodeQuotaExceeded {
		t.Errorf("900 of 1,000 tokens of today are used, 200 more: %v", err)
	}
	place(t, b, job("a", "5", contracts.P2, 90), today)
}
