package worker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker"
)

// evict makes an engine preempt the job at the 20th token of each holder, so many times, and counts the
// steps that each holder still gets. A holder that may keep the job is asked once more.
func evict(f *fleet, e *fakeEngine, id string, times int, heard <-chan contracts.Code) (more *[]int) {
	more = &[]int{}
	var holder engine.Seq
	sampled, asked := 0, 0
	e.hook(func(rows []*engine.Row) error {
		if first := rows[0].Seq; first != holder {
			holder, sampled = first, 0
		}
		switch {
		case !rows[0].Sample:
		case sampled < 20:
			if sampled++; sampled < 20 {
				break
			}
			switch asked++; {
			case asked <= times:
				f.preempt(id)
				<-heard
				*more = append(*more, 0)
			case asked == topology.MaxPreempt+1:
				f.preempt(id)
			}
		case asked <= times:
			(*more)[asked-1]++
		}
		return nil
	})
	return more
}

// A job that gives way leaves its slot within two steps, goes on where it was, and keeps its slot when
// it has given way often enough.
func TestPreempt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*contracts.Params)
		stop   bool // a stop string begins before the first cut and ends after it
		gives  int
	}{
		{"greedy", func(*contracts.Params) {}, false, 3},
		{"sampled with penalties, two choices, logprobs", hard, false, 3},
		{"a stop string across the cut", func(*contracts.Params) {}, true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 15*time.Second)
			prompt := strings.Repeat("make room ", 5)
			want := undisturbed(f, prompt, 120, params(tt.change))
			if tt.stop {
				want.text[0], want.tokens[0], want.finish[0] = want.text[0][:17], want.tokens[0][:23], contracts.FinishStop
				stop := f.tok.Decode(want.tokens[0][17:])
				tt.change = func(p *contracts.Params) { p.Stop = []string{stop} }
			}
			heard, wasted := make(chan contracts.Code, 8), make(chan string, 8)
			e := newFake()
			more := evict(f, e, "j", tt.gives, heard)
			f.hire("w", e, func(c *worker.Config) {
				c.Trace = &worker.Trace{Told: func(_ worker.Job, code contracts.Code) { heard <- code }, Spent: func(_ worker.Job, _ time.Duration, why string) { wasted <- why }}
			})
			f.submit(order("j", prompt, 120, params(tt.change)))
			final := f.final("j")
			f.empty()
			for i := range tt.gives + 1 {
				want := string(contracts.ReleasePreempt)
				if i == tt.gives {
					want = ""
				}
				if got := receive(t, wasted); got != want {
					t.Errorf("holder %d: the device's time is said to be wasted by %q, want %q", i, got, want)
				}
			}
			got := f.read("j")
			f.same(got, want, "after giving way")
			if len(got.fences) != tt.gives+1 || final.Claim.Preempted != tt.gives || final.Claim.Failures != 0 || len(heard) != 0 {
				t.Errorf("%d claims, final record by %+v; want it to give way %d times", len(got.fences), final.Claim, tt.gives)
			}
			for i, n := range *more {
				if n > 2 {
					t.Errorf("holder %d got %d more steps, want 2 at most", i, n)
				}
			}
			if len(*more) != tt.gives {
				t.Errorf("told to give way %d times, want %d", len(*more), tt.gives)
			}
		})
	}
}

// Three workers under load are drained and replaced one after the other: no stream shows it, and no job
// counts it as a failure.
func TestRollingDrain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	want := undisturbed(f, "rolling", long, params(hard))
	recruit := func(name string, e *fakeEngine) *crew {
		e.info.MaxSequences = 4
		return f.hire(name, e)
	}
	var ids []string
	load := func(n int) {
		for range n {
			ids = append(ids, fmt.Sprint("job", len(ids)))
			f.submit(order(ids[len(ids)-1], "rolling", long, params(hard)))
		}
	}
	var old []*crew
	for i := range 3 {
		slow, _ := crawl(newFake()) // none of its jobs ends before it is drained
		old = append(old, recruit(fmt.Sprint("old", i), slow))
	}
	load(6)
	for i, w := range old {
		f.await("a job in the middle of its stream", func() bool {
			return len(w.Snapshot().Jobs) > 0 && slices.ContainsFunc(w.Snapshot().Jobs, func(j contracts.RunningJob) bool { return j.Index > 0 })
		})
		recruit(fmt.Sprint("new", i), pace(newFake()))
		load(4)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		<-w.done
	}
	moved := 0
	for _, id := range ids {
		final := f.final(id)
		got := f.read(id)
		f.same(got, want, id)
		if final.Code != "" || final.Claim.Failures != 0 {
			t.Errorf("job %s: final record %q %q by %+v", id, final.Code, final.Message, final.Claim)
		}
		for _, c := range got.claims {
			if c.Released == contracts.ReleaseDrain {
				moved++
			}
		}
	}
	if moved < 3 {
		t.Errorf("%d jobs were handed over, want one of each drained worker at least", moved)
	}
	f.empty()
}

// A worker that is thought dead and is not: once the job is taken from it, it writes nothing and says
// nothing to the queue, also when it had nothing to write for long.
func TestLostHolderIsSilent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		after int // tokens seen before the job is taken away; 0: it waits in its first step
	}{
		{"in prefill", 0},
		{"in decode", 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 5*time.Second) // the heir gets the job then, and keeps it on a busy machine
			want := undisturbed(f, "who is alive?", long, params(hard))
			e := newFake()
			e.info.MaxSequences = 2
			_, open := crawl(e)
			if tt.after == 0 {
				_, open = gate(e)
			}
			defer open()
			fenced := make(chan struct{}, 4)
			f.hire("zombie", e, func(c *worker.Config) {
				c.Trace = &worker.Trace{Fenced: func(worker.Job) { fenced <- struct{}{} }}
			})
			f.submit(order("j", "who is alive?", long, params(hard)))
			f.await("a claim and tokens", func() bool { return f.claims["j"] == 1 && f.pieces["j"] >= tt.after })
			f.lose("j")
			said, err := f.nc.SubscribeSync("$JS.ACK.>")
			if err != nil {
				t.Fatal(err)
			}
			f.hire("heir", newFake())
			if tt.after == 0 {
				f.final("j") // the heir ends it while the zombie still waits
				open()
			}
			receive(t, fenced)
			open()
			final := f.final("j")
			f.empty()
			got := f.read("j")
			f.same(got, want, "after the loss")
			if final.Claim.Attempt != 2 || final.Claim.Failures != 1 || len(got.fences) != 2 {
				t.Errorf("final record by %+v, claims %v", final.Claim, got.fences)
			}
			if words := verbs(t, said, "1"); len(words) > 1 || len(words) == 1 && words[0] != "+WPI" {
				t.Errorf("the first holder said %q after the loss, at most one +WPI can have been on its way", words)
			}
		})
	}
}

// verbs are what was said of a delivery so far.
func verbs(t *testing.T, said *nats.Subscription, delivery string) (words []string) {
	t.Helper()
	if err := said.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	for {
		n, _, err := said.Pending()
		if err != nil || n == 0 {
			return words
		}
		m, err := said.NextMsg(patience)
		if err != nil {
			return words
		}
		if p := strings.Split(m.Subject, "."); p[len(p)-5] == delivery {
			words = append(words, string(m.Data))
		}
	}
}
