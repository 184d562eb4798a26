package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker"
)

// hard is a job whose continuation depends on everything: sampling with penalties, logprobs, two
// choices and a stop string that never comes.
func hard(p *contracts.Params) {
	p.N, p.Temperature, p.Logprobs = ptr(2), ptr(1.2), ptr(1)
	p.PresencePenalty, p.FrequencyPenalty, p.RepetitionPenalty = ptr(0.7), ptr(0.4), ptr(1.2)
	p.Stop = []string{"qqqqqqqqqqqqqqqq"}
}

// undisturbed is the answer to a job that nothing interrupts.
func undisturbed(f *fleet, prompt string, max int, change ...func(*contracts.Admitted)) answer {
	f.t.Helper()
	calm := f.hire("calm", newFake())
	f.submit(order("reference", prompt, max, change...))
	f.final("reference")
	f.empty()
	calm.stop()
	<-calm.done
	return f.read("reference")
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing came within %v", patience)
		panic("unreachable")
	}
}

// pace makes an engine take a millisecond for each step.
func pace(e *fakeEngine) *fakeEngine {
	e.hook(func([]*engine.Row) error { time.Sleep(time.Millisecond); return nil })
	return e
}

// long is how many tokens a job has that is to be running when the test interferes with it: all that the fake engine's
// context holds beside a prompt.
const long = 450

// crawl makes an engine take a tenth of a second for each step after the 60th, and a whole one after the 300th, until
// release is called: a long job takes more than two minutes, so that it still runs when a test on a busy machine gets to it.
func crawl(e *fakeEngine) (slow *fakeEngine, release func()) {
	var released atomic.Bool
	steps := 0
	e.hook(func([]*engine.Row) error {
		pause := time.Millisecond
		if steps++; !released.Load() {
			switch {
			case steps > 300:
				pause = time.Second
			case steps > 60:
				pause = 100 * time.Millisecond
			}
		}
		time.Sleep(pause)
		return nil
	})
	return e, func() { released.Store(true) }
}

// A worker dies in the middle of a stream; another one takes over after the ack wait. What the reader
// sees equals the undisturbed answer.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*contracts.Params)
		after  int // tokens seen before the death
	}{
		{"greedy", func(*contracts.Params) {}, 10},
		{"sampled, two choices", hard, 40},
		{"before the first token", hard, 0},
		{"held to a schema", func(p *contracts.Params) {
			hard(p)
			p.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatSchema, Schema: &contracts.Schema{Schema: `{"items":{"properties":{"a":{"type":"integer"},"b":{"type":"string","maxLength":9}},"required":["a","b"]},"minItems":20}`}}
		}, 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 5*time.Second)
			prompt := strings.Repeat("a long question ", 3)
			want := undisturbed(f, prompt, 120, params(tt.change))
			dying, _ := crawl(newFake())
			first := f.hire("first", dying)
			f.submit(order("j", prompt, 120, params(tt.change)))
			f.await("tokens", func() bool { return f.pieces["j"] >= tt.after })
			first.conn.Close() // it can say nothing any more
			first.stop()
			second := f.hire("second", newFake())
			final := f.final("j")
			got := f.read("j")
			f.same(got, want, "after the crash")
			if final.Claim.Worker != second.Snapshot().Worker || final.Claim.Attempt < 2 && tt.after > 0 {
				t.Errorf("final record by %+v", final.Claim)
			}
			f.empty()
		})
	}
}

// A job is delivered to a second worker while the first one still runs it: the first is shut out at
// its next record and falls silent.
func TestZombie(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	want := undisturbed(f, "who is alive?", long, params(hard))
	fenced := make(chan string, 4)
	silent := func(name string) func(*worker.Config) {
		return func(c *worker.Config) {
			c.Trace = &worker.Trace{Fenced: func(worker.Job) { fenced <- name }, HandedBack: func(_ worker.Job, _ contracts.Release, err error) { t.Errorf("%s handed back: %v", name, err) }}
		}
	}
	e, release := crawl(newFake())
	defer release()
	e.info.MaxSequences = 2 // full with this job, so that it cannot pull it again
	f.hire("zombie", e, silent("zombie"))
	a := order("j", "who is alive?", long, params(hard))
	sequence := f.submit(a)
	f.await("tokens", func() bool { return f.pieces["j"] >= 30 })
	f.nak(a, sequence)
	f.hire("heir", newFake(), silent("heir"))
	final := f.final("j")
	if name := receive(t, fenced); name != "zombie" || final.Claim.Worker != "heir" || final.Claim.Attempt != 2 {
		t.Errorf("%s was fenced, final record by %+v", name, final.Claim)
	}
	got := f.read("j")
	f.same(got, want, "after the take-over")
	if len(got.fences) != 2 {
		t.Errorf("claims with fences %v, want two", got.fences)
	}
	f.empty()
}

// The same worker gets its own job once more: the older delivery gives way.
func TestDeliveredTwiceToOne(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	want := undisturbed(f, "again and again", long, params(hard))
	e, release := crawl(newFake())
	defer release()
	f.hire("w", e)
	a := order("j", "again and again", long, params(hard))
	sequence := f.submit(a)
	f.await("tokens", func() bool { return f.pieces["j"] >= 30 })
	f.nak(a, sequence)
	f.await("second claim of "+a.Job.ID, func() bool { return f.claims["j"] == 2 })
	release()
	final := f.final("j")
	got := f.read("j")
	f.same(got, want, "after the second delivery")
	if len(got.fences) != 2 || final.Claim.Attempt != 2 {
		t.Errorf("claims with fences %v, final record by %+v; want two claims", got.fences, final.Claim)
	}
	f.empty()
}

// Drain hands a running job over in the middle of its stream; a short one is finished.
func TestDrain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	want := undisturbed(f, "carry on", long, params(hard))
	var state atomic.Value // what the last heartbeat says
	e, release := crawl(newFake())
	defer release()
	old := f.hire("old", e, func(c *worker.Config) {
		c.Trace = &worker.Trace{Heartbeat: func(h *contracts.Heartbeat) { state.Store(h.State) }}
	})
	f.submit(order("j", "carry on", long, params(hard)))
	f.await("tokens", func() bool { return f.pieces["j"] >= 30 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := old.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	<-old.done
	if last := state.Load(); last != contracts.WorkerStopped {
		t.Errorf("last heartbeat says %v", last)
	}
	f.submit(order("while.nobody", "here", 3))
	f.hire("new", newFake())
	final := f.final("j")
	if final.Claim.Worker != "new" || final.Claim.Attempt != 2 {
		t.Errorf("final record by %+v", final.Claim)
	}
	f.same(f.read("j"), want, "after the hand-over")

	patient := f.hire("patient", newFake())
	f.submit(order("short", "here", 3))
	f.final("short")
	if err := patient.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.empty()
}

// A worker that an operator tells to leave takes no more jobs, lets those that run go on for as long as it was told,
// sooner when it is told again, and is not moved by what the broker may say to a spoofed reply subject.
func TestToldToDrain(t *testing.T) {
	t.Parallel()
	for name, hurry := range map[string]func(f *fleet, old *crew){
		"the job ends": nil,
		"told again":   func(f *fleet, _ *crew) { f.command("old", "0", nil) },
		"a signal comes": func(_ *fleet, old *crew) {
			ctx, now := context.WithCancel(context.Background())
			now()
			go func() { _ = old.Drain(ctx) }()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 15*time.Second)
			want := undisturbed(f, "carry on", long, params(hard))
			e, release := crawl(newFake())
			defer release()
			old := f.hire("old", e)
			f.submit(order("j", "carry on", long, params(hard)))
			f.await("tokens", func() bool { return f.pieces["j"] >= 30 })
			f.command("old", "0", nats.Header{"Nats-Sequence": {"1"}})
			for _, body := range []string{"", `{"stream":"OUT","seq":7}`, "-1", "0s"} {
				f.command("old", body, nil)
			}
			f.command("old", "3600000", nil)
			f.await("the worker to drain", func() bool { return old.Snapshot().State == contracts.WorkerDraining })
			f.submit(order("later", "carry on", 3))
			f.hire("new", newFake())
			if by := f.final("later").Claim.Worker; by != "new" {
				t.Errorf("a job that came later ran on %q", by)
			}
			if h := old.Snapshot(); len(h.Jobs) != 1 || h.Jobs[0].Job != "j" {
				t.Errorf("the draining worker runs %v, want the job that it had", h.Jobs)
			}
			by := "old"
			if hurry != nil {
				by = "new"
				hurry(f, old)
			} else {
				release()
			}
			if final := f.final("j"); final.Claim.Worker != by || final.Claim.Failures != 0 || final.Code != "" {
				t.Errorf("final record %q by %+v, want %s", final.Code, final.Claim, by)
			}
			receive(t, old.done)
			if old.err != nil || old.Snapshot().State != contracts.WorkerStopped {
				t.Errorf("left as %s with %v", old.Snapshot().State, old.err)
			}
			f.same(f.read("j"), want, "after the drain")
			f.empty()
		})
	}
}

// command says something to a worker as a dispatcher says it to drain.
func (f *fleet) command(worker, body string, header nats.Header) {
	f.t.Helper()
	if err := f.nc.PublishMsg(&nats.Msg{Subject: subject.CtlDrain(worker), Data: []byte(body), Header: header}); err != nil {
		f.t.Fatal(err)
	}
}

// One choice is complete when the job changes hands: only the other one runs on, and a cancel still
// ends the job.
func TestCompleteChoiceIsNotRunAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	early := undisturbed(f, "two ways", long, params(hard))
	stop := early.text[0][10:16] // ends choice 0 early, choice 1 never
	both := params(func(p *contracts.Params) {
		hard(p)
		p.Stop = []string{stop}
	})
	slow, release := crawl(newFake())
	defer release()
	old := f.hire("old", slow)
	f.submit(order("j", "two ways", long, both))
	f.await("a finished choice and more", func() bool { return f.pieces["j"] >= 60 })
	old.stop()
	<-old.done
	e := newFake()
	ran := make(chan int, 1000)
	e.hook(func(rows []*engine.Row) error {
		ran <- len(rows)
		if len(ran) == 40 {
			f.cancel("j")
		}
		time.Sleep(time.Millisecond)
		return nil
	})
	f.hire("new", e)
	final := f.final("j")
	got := f.read("j")
	if final.Code != contracts.CodeCanceled || got.finish[0] != contracts.FinishStop || len(got.fences) != 2 {
		t.Errorf("final %q, finishes %q, claims %v", final.Code, got.finish, got.fences)
	}
	close(ran)
	for n := range ran {
		if n != 1 {
			t.Errorf("a step of %d rows, only one choice is left to run", n)
		}
	}
	f.empty()
}

// A device that fails now and then: the job goes on where it was, and a job that always fails is given
// up after its last attempt.
func TestEngineErrors(t *testing.T) {
	t.Parallel()
	boom := errors.New("device lost")
	for _, tt := range []struct {
		name  string
		fails func(step int, rows []*engine.Row) error
		good  bool
	}{
		{"one step fails", func(step int, _ []*engine.Row) error {
			if step == 20 {
				return boom
			}
			return nil
		}, true},
		{"one row fails", func(step int, rows []*engine.Row) error {
			if step == 20 {
				rows[0].Err = boom
			}
			return nil
		}, true},
		{"a panic", func(step int, rows []*engine.Row) error {
			if step == 20 {
				panic(boom)
			}
			return nil
		}, true},
		{"every step fails", func(int, []*engine.Row) error { return boom }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 15*time.Second)
			want := undisturbed(f, "hold fast", 80, params(hard))
			e := newFake()
			step := 0
			e.hook(func(rows []*engine.Row) error {
				step++
				return tt.fails(step, rows)
			})
			f.hire("w", e)
			f.submit(order("j", "hold fast", 80, params(hard)))
			final := f.final("j")
			got := f.read("j")
			if tt.good {
				f.same(got, want, tt.name)
			} else if final.Code != contracts.CodeInternal || final.Claim.Attempt != 4 || strings.Contains(final.Message, "device") {
				t.Errorf("final %q %q on attempt %d, want internal without details on attempt 4", final.Code, final.Message, final.Claim.Attempt)
			}
			f.empty()
		})
	}
}

// A job whose steps fail takes nobody with it: those that were beside it run the last time that they may in steps of
// their own.
func TestPoisonAmongOthers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	poisoned := map[engine.Seq]bool{}
	e := newFake()
	e.hook(func(rows []*engine.Row) error {
		time.Sleep(5 * time.Millisecond) // they still run when the other one comes back
		for _, r := range rows {
			if len(r.Tokens) > 1 {
				poisoned[r.Seq] = r.Tokens[0] == 'X'
			}
		}
		if slices.ContainsFunc(rows, func(r *engine.Row) bool { return poisoned[r.Seq] }) {
			return errors.New("boom")
		}
		return nil
	})
	for i := range 4 {
		f.submit(order(fmt.Sprint("good", i), "good", 150))
	}
	f.submit(order("poison", "XXXX", 20))
	f.hire("w", e)
	for i := range 4 {
		if final := f.final(fmt.Sprint("good", i)); final.Code != "" {
			t.Errorf("job %d beside the poisoned one: %s %s", i, final.Code, final.Message)
		}
	}
	if final := f.final("poison"); final.Code != contracts.CodeInternal {
		t.Errorf("the poisoned job: %+v", final)
	}
	f.empty()
}

// Several workers that keep losing their jobs to each other: every stream comes out whole. The workers
// are slow until the jobs that were taken away have new holders, so none can end before.
func TestChurn(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	want := undisturbed(f, "churn", long, params(hard))
	var releases []func()
	defer func() {
		for _, release := range releases {
			release()
		}
	}()
	for i := range 3 {
		slow, release := crawl(newFake())
		releases = append(releases, release)
		f.hire(fmt.Sprint("w", i), slow)
	}
	var jobs []*contracts.Admitted
	var sequences []uint64
	for i := range 12 {
		a := order(fmt.Sprint("job", i), "churn", long, params(hard))
		jobs = append(jobs, a)
		sequences = append(sequences, f.submit(a))
	}
	for i, a := range jobs {
		if i%4 == 3 {
			continue // undisturbed
		}
		f.await("tokens", func() bool { return f.pieces[a.Job.ID] > 10*(i%6) })
		f.nak(a, sequences[i])
		if i%2 == 0 {
			f.await("second claim of "+a.Job.ID, func() bool { return f.claims[a.Job.ID] >= 2 })
		}
	}
	f.await("second claims", func() bool {
		for i, a := range jobs {
			if i%4 != 3 && f.claims[a.Job.ID] < 2 {
				return false
			}
		}
		return true
	})
	for _, release := range releases {
		release()
	}
	for i, a := range jobs {
		f.final(a.Job.ID)
		got := f.read(a.Job.ID)
		f.same(got, want, a.Job.ID)
		if claims := 2 - (i%4)/3; len(got.fences) != claims {
			t.Errorf("job %s was claimed with fences %v, want %d claims", a.Job.ID, got.fences, claims)
		}
	}
	f.empty()
}
