package fleet

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// beatTo shows a watch a heartbeat of a worker that holds one job, named like the worker.
func beatTo(t *testing.T, w *Watch, workers ...string) {
	t.Helper()
	for _, name := range workers {
		h := contracts.Heartbeat{V: 1, Worker: name, State: contracts.WorkerReady, Started: 1, Sent: time.Now().UnixMilli(),
			Jobs: []contracts.RunningJob{{Job: name, Tenant: "t"}}}
		data, err := contracts.Encode(&h)
		if err != nil {
			t.Fatal(err)
		}
		w.observe(&nats.Msg{Subject: subject.Heartbeat(name), Data: data})
	}
}

// pass lets time pass in steps in which the broker answers and these workers beat.
func pass(t *testing.T, w *Watch, span time.Duration, workers ...string) {
	for end := time.Now().Add(span); time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		w.Answered()
		beatTo(t, w, workers...)
	}
}

func lost(w *Watch) string {
	n := map[string]bool{}
	for _, h := range w.Lost() {
		n[h.Worker] = true
	}
	return fmt.Sprint(n)
}

func expect(t *testing.T, w *Watch, when, want string) {
	t.Helper()
	if got := lost(w); got != want {
		t.Errorf("%s: lost %s, want %s", when, got, want)
	}
}

const nobody = "map[]"

func TestLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := NewWatch(0)
		w.Restart()
		pass(t, w, 3*time.Second, "a", "b")
		pass(t, w, 1900*time.Millisecond, "b")
		expect(t, w, "silent for 1.9 s", nobody)
		pass(t, w, 200*time.Millisecond, "b")
		expect(t, w, "silent for 2.1 s", "map[a:true]")
		w.Forget(Holding{"t", "a", "a"})
		expect(t, w, "handed over", nobody)
		pass(t, w, time.Second, "a", "b")
		pass(t, w, 9*time.Second, "b")
		expect(t, w, "slow lately, silent for 9 s", nobody)
		if got := w.registry.Suspects(time.Now()); !slices.Equal(got, []string{"a"}) {
			t.Errorf("suspects %q, want a", got)
		}
		w.registry.Gone("a", time.Now())
		expect(t, w, "slow lately, not connected", "map[a:true]")
		pass(t, w, 3*time.Second, "a", "b")
		expect(t, w, "connected again", nobody)
		pass(t, w, 9*time.Second, "b")
		expect(t, w, "silent for 9 s again", nobody)
		pass(t, w, 1200*time.Millisecond, "b")
		expect(t, w, "slow lately, silent for 10 s", "map[a:true]")
	})
}

func TestLostNeedsAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := NewWatch(0)
		w.Restart()
		pass(t, w, 3*time.Second, "a")
		time.Sleep(20 * time.Second) // the broker stalls, or this process does
		expect(t, w, "stalled", nobody)
		pass(t, w, 1900*time.Millisecond)
		expect(t, w, "a moment after the stall", nobody)
		w.Restart()
		pass(t, w, 1900*time.Millisecond)
		expect(t, w, "a moment after a reconnect", nobody)
		pass(t, w, 300*time.Millisecond)
		expect(t, w, "a whole TTL later", "map[a:true]")
	})
}

func TestLostInAStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := NewWatch(0)
		w.Restart()
		pass(t, w, 3*time.Second, "a", "b", "c", "d")
		pass(t, w, 9*time.Second, "a", "b")
		expect(t, w, "half of the fleet silent for 9 s", nobody)
		pass(t, w, 2*time.Second, "a", "b")
		expect(t, w, "half of the fleet silent for 11 s", "map[c:true d:true]")
	})
}

// TestBook: whatever is noted and forgotten, each job has one holder, and the two maps agree.
func TestBook(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := NewBook(2 * time.Second)
		now := time.Unix(1000, 0)
		want := map[string]string{} // job -> holder, as the records alone say
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			job := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "job")
			worker := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "worker")
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0:
				b.Record("t", job, &contracts.Chunk{Claim: &contracts.Claim{Worker: worker}}, now)
				want[job] = worker
			case 1:
				b.Record("t", job, &contracts.Chunk{Claim: &contracts.Claim{Worker: worker, Released: contracts.ReleaseLost}}, now)
				delete(want, job)
			case 2:
				b.Forget(Holding{"t", job, worker})
				if want[job] == worker {
					delete(want, job)
				}
			case 3: // at most confirms what is known
				if holder := want[job]; holder != "" {
					b.Beat(contracts.Heartbeat{Worker: holder, Jobs: []contracts.RunningJob{{Tenant: "t", Job: job}}}, now)
				}
			}
			got := map[string]string{}
			for _, h := range b.Of(func(string) bool { return true }) {
				if got[h.Job] != "" {
					t.Fatalf("job %s has two holders", h.Job)
				}
				got[h.Job] = h.Worker
			}
			if fmt.Sprint(got) != fmt.Sprint(want) || len(got) != len(b.holder) {
				t.Fatalf("holders %v, want %v", got, want)
			}
		}
	})
}
