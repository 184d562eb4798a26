package worker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/batch"
)

// buried checks the dead letter of a job against its final record and its admitted form.
func (f *fleet) buried(a *contracts.Admitted, history ...contracts.Release) {
	f.t.Helper()
	final := f.final(a.Job.ID)
	if final.Code != contracts.CodeInternal || final.Finish != contracts.FinishError || final.Claim.Failures != 3 || !strings.Contains(final.Message, "3 failures") || strings.Contains(final.Message, "device") {
		f.t.Errorf("final %q %q by %+v, want internal without details after 3 failures", final.Code, final.Message, final.Claim)
	}
	d := f.dead(a.Job.ID)
	want, err := contracts.Encode(a)
	if err != nil {
		f.t.Fatal(err)
	}
	var got []contracts.Release
	for _, c := range d.History {
		got = append(got, c.Released)
	}
	if d.Job != a.Job.ID || d.Tenant != tenant || d.Code != final.Code || d.Message != final.Message || d.Died == 0 || string(d.Admitted) != string(want) {
		f.t.Errorf("dead letter %+v of the job %s", d, a.Job.ID)
	}
	if !slices.Equal(got, history) {
		f.t.Errorf("history %q, want %q", got, history)
	}
	if n := final.Usage.CompletionTokens; d.Tokens != n {
		f.t.Errorf("dead letter with %d tokens, the stream has %d", d.Tokens, n)
	}
	f.read(a.Job.ID)
}

// A job that always makes the engine fail is given up after three failures, kept with its history, and
// harms nobody beside it.
func TestPoison(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	want := undisturbed(f, "good", 60, params(hard))
	e := newFake()
	e.hook(func(rows []*engine.Row) error {
		for _, r := range rows {
			if slices.Contains(r.Tokens, 'Z') {
				r.Err = errors.New("device lost")
			}
		}
		return nil
	})
	f.hire("w", e)
	bad := order("bad", "Z", 60)
	f.submit(bad)
	for i := range 5 {
		f.submit(order(fmt.Sprint("good", i), "good", 60, params(hard)))
	}
	failed := contracts.ReleaseFailed
	f.buried(bad, "", failed, "", failed, "", failed)
	for i := range 5 {
		f.final(fmt.Sprint("good", i))
		f.same(f.read(fmt.Sprint("good", i)), want, "beside a poisoned job")
	}
	f.empty()
}

// A job whose holders vanish, one after the other, is not given to a fourth.
func TestHoldersVanish(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5*time.Second)
	want := undisturbed(f, "good", 60)
	bad := order("bad", "deadly", 150)
	f.submit(bad)
	for i := range 3 {
		e, _ := crawl(newFake())
		dying := f.hire(fmt.Sprint("dying", i), e)
		f.await("claim and tokens", func() bool { return f.claims["bad"] == i+1 && f.pieces["bad"] >= 10 })
		dying.conn.Close()
		dying.stop()
		<-dying.done
	}
	f.hire("survivor", newFake())
	f.buried(bad, "", "", "")
	f.submit(order("good", "good", 60))
	f.final("good")
	f.same(f.read("good"), want, "the next job")
	f.empty()
}

// An engine that hangs does not hang the worker: its jobs go to others, and Run says what happened.
func TestHang(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 15*time.Second)
	want := undisturbed(f, "hold the line", 80, params(hard))
	hang := make(chan struct{})
	e := newFake()
	steps := 0
	e.hook(func([]*engine.Row) error {
		if steps++; steps == 20 {
			f.submit(order("meanwhile", "hold the line", 80, params(hard)))
			<-hang
		}
		return nil
	})
	sick := f.hire("sick", e, func(c *worker.Config) { c.StepTimeout = 5 * time.Second }) // no step of a busy machine takes so long
	f.submit(order("j", "hold the line", 80, params(hard)))
	<-sick.done
	close(hang)
	if !errors.Is(sick.err, batch.ErrHung) || !strings.Contains(sick.err.Error(), "5s") || sick.Snapshot().State != contracts.WorkerStopped {
		t.Errorf("Run = %v, state %s; want %v", sick.err, sick.Snapshot().State, batch.ErrHung)
	}
	f.hire("well", newFake())
	final := f.final("j")
	got := f.read("j")
	f.same(got, want, "after the hang")
	if len(got.claims) != 3 || got.claims[1].Released != contracts.ReleaseFailed || final.Claim.Failures != 1 || final.Claim.Worker != "well" {
		t.Errorf("claims and releases %+v, final record by %+v", got.claims, final.Claim)
	}
	if final := f.final("meanwhile"); final.Claim.Failures != 0 {
		t.Errorf("a job that was taken while a step of others hung: %+v, want no failure", final.Claim)
	}
	f.same(f.read("meanwhile"), want, "of a job that was taken while the engine hung")
	f.empty()
}
