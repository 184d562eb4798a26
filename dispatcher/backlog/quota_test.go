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
	b.Peer("other", backlog.Share{Spent: map[string]backlog.Spent{"a": {Requests: 1, Tokens: 400, Used: 400}}, Day: quota.Day(today)}, today)
	ended(b, short, false)
	place(t, b, job("a", "3", contracts.P2, 490), today)
	ended(b, first, false)
	if _, _, err := b.Place(job("a", "4", contracts.P2, 190), today); contracts.CodeOf(err) != contracts.CodeQuotaExceeded {
		t.Errorf("900 of 1,000 tokens of today are used, 200 more: %v", err)
	}
	place(t, b, job("a", "5", contracts.P2, 90), today)
}

// TestMidnightOutOfOrder: a job that came before midnight and is judged after one that came later, since its prompt took
// a while or its id was busy, does not begin yesterday anew: what was used of today stays used.
func TestMidnightOutOfOrder(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{FIFO: true, Quotas: map[string]quota.Limits{"a": {Daily: 1000}}}, fleet)
	midnight := start.Truncate(24 * time.Hour).Add(24 * time.Hour)
	first := job("a", "1", contracts.P2, 490)
	place(t, b, job("a", "0", contracts.P2, 990), midnight.Add(-time.Minute))
	place(t, b, first, midnight.Add(time.Millisecond))
	place(t, b, job("a", "2", contracts.P2, 290), midnight.Add(-time.Millisecond))
	after := midnight.Add(2 * time.Millisecond)
	for range 2 { // also when what the first one was charged with is given back
		if _, _, err := b.Place(job("a", "3", contracts.P2, 990), after); contracts.CodeOf(err) != contracts.CodeQuotaExceeded {
			t.Errorf("300 of 1,000 tokens of today may be used at least, 1,000 more: %v", err)
		}
		ended(b, first, false)
	}
	place(t, b, job("a", "4", contracts.P2, 690), after)
}

// tell lets b hear what a says.
func tell(a, b *backlog.Backlog, name string, now time.Time) { b.Peer(name, a.Share(), now) }

func refused(t *testing.T, b *backlog.Backlog, id string, now time.Time) {
	t.Helper()
	if _, _, err := b.Place(job("a", id, contracts.P2, 90), now); contracts.CodeOf(err) != contracts.CodeQuotaExceeded {
		t.Errorf("job %s: %v, want quota_exceeded", id, err)
	}
}

// TestConcurrentAtTwoDoors: jobs at once are counted over all dispatchers, whichever of them a job came to, and one
// that is restarted finds those of before.
func TestConcurrentAtTwoDoors(t *testing.T) {
	t.Parallel()
	door := func() *backlog.Backlog {
		return backlog.New(backlog.Settings{FIFO: true, Quotas: map[string]quota.Limits{"a": {Concurrent: 4}}}, fleet)
	}
	first, second, now := door(), door(), start
	for _, id := range []string{"1", "2"} {
		place(t, first, job("a", id, contracts.P2, 90), now)
	}
	tell(first, second, "first", now)
	for _, id := range []string{"3", "4"} {
		place(t, second, job("a", id, contracts.P2, 90), now)
	}
	tell(second, first, "second", now)
	refused(t, first, "5", now)
	refused(t, second, "5", now)
	ended(first, job("a", "1", contracts.P2, 90), true)
	tell(first, second, "first", now)
	place(t, second, job("a", "6", contracts.P2, 90), now)
	tell(second, first, "second", now)
	refused(t, first, "7", now)

	// The first one dies and comes back: the second misses its jobs only if that takes long, the new one finds them.
	now = now.Add(4 * time.Second)
	refused(t, second, "8", now)
	again := door()
	for _, id := range []string{"2", "3", "4", "6"} {
		again.Adopt(job("a", id, contracts.P2, 90), 0, now, false)
	}
	tell(second, again, "second", now)
	refused(t, again, "8", now)
	ended(again, job("a", "2", contracts.P2, 90), true)
	place(t, again, job("a", "8", contracts.P2, 90), now)
	now = now.Add(2 * time.Second)
	tell(again, second, "again", now)
	refused(t, second, "9", now)

	due := job("a", "9", contracts.P2, 90) // was to run later, and is put into the queue by a dispatcher it did not come to
	third := door()
	third.Adopt(due, 0, now, true)
	tell(third, second, "third", now)
	ended(second, job("a", "3", contracts.P2, 90), true)
	refused(t, second, "10", now)
	ended(third, due, true)
	tell(third, second, "third", now)
	place(t, second, job("a", "10", contracts.P2, 90), now)
}

// TestDayIsRecalled: what was used of a day is not forgotten with the dispatchers; what was only charged is not held
// against anybody when the dispatcher is gone that would give it back.
func TestDayIsRecalled(t *testing.T) {
	t.Parallel()
	door := func() *backlog.Backlog {
		return backlog.New(backlog.Settings{FIFO: true, Quotas: map[string]quota.Limits{"a": {Daily: 1000}}}, fleet)
	}
	first, second := door(), door()
	for _, id := range []string{"1", "2", "3", "4"} {
		place(t, first, job("a", id, contracts.P2, 190), start) // 200 at most
	}
	tell(first, second, "first", start)
	place(t, second, job("a", "5", contracts.P2, 190), start)
	refused(t, second, "6", start)
	for _, id := range []string{"1", "2", "3"} {
		ended(first, job("a", id, contracts.P2, 190), true) // 190 each
	}
	tell(first, second, "first", start)
	refused(t, second, "6", start) // 570 of the first, and 200 that each may use yet
	second.Ended(key(job("a", "5", contracts.P2, 190)), "m", 0, false, false)
	place(t, second, job("a", "6", contracts.P2, 90), start) // 570, 200 and 100
	later := start.Add(time.Minute)
	place(t, second, job("a", "7", contracts.P2, 290), later) // the first one is silent: 570, 100 and 300

	third := door()
	third.Days.Recall("first", first.Days.Today(), later)
	third.Days.Recall("second", second.Days.Today(), later)
	tell(second, third, "second", later) // 400 that may be used
	refused(t, third, "8", later)
	ended(second, job("a", "7", contracts.P2, 290), true)
	tell(second, third, "second", later) // 290 used, 100 that may be
	place(t, third, job("a", "9", contracts.P2, 20), later)
	refused(t, third, "10", later)
	third.Days.Recall("second", second.Days.Today(), later) // said before
	tomorrow := later.Add(24 * time.Hour)
	place(t, third, job("a", "11", contracts.P2, 990), tomorrow)
	third.Days.Recall("first", first.Days.Today(), tomorrow)
	refused(t, third, "12", tomorrow)
}
