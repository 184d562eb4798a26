package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/retry"
	"github.com/pelton-run/pelton/contracts/subject"
)

// door answers submits as answer says, and notes each of them.
func door(t *testing.T, nc *nats.Conn, answer func(n int) contracts.Answer) (seen func() []contracts.Job) {
	t.Helper()
	var mu sync.Mutex
	var jobs []contracts.Job
	sub, err := nc.Subscribe(subject.Submit("default"), func(m *nats.Msg) {
		var j contracts.Job
		if err := contracts.Decode(m.Data, &j); err != nil {
			t.Error(err)
		}
		mu.Lock()
		jobs = append(jobs, j)
		n := len(jobs)
		mu.Unlock()
		a := answer(n)
		a.V, a.Job = contracts.Version, j.ID
		data, err := contracts.Encode(&a)
		if err != nil {
			t.Error(err)
		}
		_ = m.Respond(data)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return func() []contracts.Job {
		mu.Lock()
		defer mu.Unlock()
		return jobs
	}
}

func overloaded(ms int64) contracts.Answer {
	return contracts.Answer{Outcome: contracts.OutcomeShed, Code: contracts.CodeOverloaded, Message: "later", RetryAfterMS: ms}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	begun := time.Now()
	seen := door(t, nc, func(n int) contracts.Answer {
		if n < 3 {
			return overloaded(150)
		}
		return contracts.Answer{Outcome: contracts.OutcomeAdmitted}
	})
	j := chat("x")
	j.Labels = map[string]string{"mine": "1"}
	if _, err := client.New(nc, "", client.WithRetries(5)).Submit(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	jobs := seen()
	if len(jobs) != 3 || jobs[0].ID != jobs[2].ID || jobs[0].Labels[retry.Label] != "" || jobs[2].Labels[retry.Label] != "2" || jobs[2].Labels["mine"] != "1" {
		t.Errorf("submitted %+v, want one job three times, the last one with the label 2", jobs)
	}
	if took := time.Since(begun); took < 350*time.Millisecond { // 150 and the doubled least wait
		t.Errorf("came back twice after %v in all, was told to wait longer", took)
	}
	if len(j.Labels) != 1 {
		t.Errorf("the caller's labels became %v", j.Labels)
	}
}

func TestRetriesEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer contracts.Answer
		change func(*contracts.Job)
		opts   []client.Option
	}{
		"without the option":     {answer: overloaded(1)},
		"the caller's fault":     {answer: contracts.Answer{Outcome: contracts.OutcomeRejected, Code: contracts.CodeInvalidArgument}, opts: []client.Option{client.WithRetries(3)}},
		"told not to":            {answer: contracts.Answer{Outcome: contracts.OutcomeShed, Code: contracts.CodeOverloaded, NoRetry: true}, opts: []client.Option{client.WithRetries(3)}},
		"past the deadline":      {answer: overloaded(60_000), change: func(j *contracts.Job) { j.Deadline = time.Now().Add(30 * time.Second).UnixMilli() }, opts: []client.Option{client.WithRetries(3)}},
		"none is allowed by now": {answer: overloaded(1), opts: []client.Option{client.WithRetries(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := contractstest.Server(t)
			seen := door(t, nc, func(int) contracts.Answer { return c.answer })
			j := chat("x")
			if c.change != nil {
				c.change(j)
			}
			_, err := client.New(nc, "", c.opts...).Submit(t.Context(), j)
			if e := contracts.AsError(err); e.Code != c.answer.Code || e.NoRetry != c.answer.NoRetry {
				t.Errorf("%+v, want the refusal", e)
			}
			if n := len(seen()); n != 1 {
				t.Errorf("submitted %d times, want once", n)
			}
		})
	}
}

// A fleet that refuses everything is not asked much more often than there are jobs.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	seen := door(t, nc, func(int) contracts.Answer { return overloaded(1) })
	c := client.New(nc, "", client.WithRetries(1))
	const jobs = 40
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			if _, err := c.Submit(t.Context(), chat("x")); contracts.CodeOf(err) != contracts.CodeOverloaded {
				t.Error(fmt.Errorf("%w, want overloaded", err))
			}
		})
	}
	wg.Wait()
	if n, most := len(seen()), jobs+retry.Burst+int(retry.Share*jobs); n > most || n <= jobs {
		t.Errorf("%d jobs were submitted %d times, want more than once each and at most %d times", jobs, n, most)
	}
}

// A submit that the caller gave up on may have been taken all the same: the error says so, has a code that may be
// retried, and is still that of the caller's context.
func TestCallersTimeEnds(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	got := make(chan struct{}, 1)
	if _, err := nc.Subscribe(subject.Submit("default"), func(*nats.Msg) { got <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := client.New(nc, "", client.WithRetries(3)).Submit(ctx, chat("x"))
	<-got
	if contracts.CodeOf(err) != contracts.CodeUnavailable || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "same job id") {
		t.Errorf("error %v, want unavailable, of the context, with what to do", err)
	}
	gone, leave := context.WithCancel(t.Context())
	go func() { <-got; leave() }()
	if _, err := client.New(nc, "").Submit(gone, chat("x")); contracts.CodeOf(err) != contracts.CodeCanceled || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want canceled", err)
	}
}

// A job that ends with its reader ends too when the reader leaves before the submit is answered, even if the cancel
// is there first.
func TestLeavingBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	nc := contractstest.Server(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var cancels atomic.Int32
	for subj, answer := range map[string]func(*nats.Msg){
		subject.Submit("default"): func(*nats.Msg) { leave() },
		"cancel.default.*": func(m *nats.Msg) {
			var v any = contracts.Status{Job: "x", State: contracts.StateCanceled}
			if cancels.Add(1) == 1 {
				v = contracts.Answer{Outcome: contracts.OutcomeRejected, Code: contracts.CodeNotFound, Message: "not there yet"}
			}
			data, err := contracts.Encode(v)
			if err == nil {
				err = m.Respond(data)
			}
			if err != nil {
				t.Error(err)
			}
		},
	} {
		if _, err := nc.Subscribe(subj, answer); err != nil {
			t.Fatal(err)
		}
	}
	j := chat("x")
	j.CancelOnLeave = true
	if _, err := client.New(nc, "").Run(ctx, j); contracts.CodeOf(err) != contracts.CodeCanceled {
		t.Errorf("error %v, want canceled", err)
	}
	if cancels.Load() != 2 {
		t.Errorf("%d cancels were sent, want one more than the dispatcher did not know the job", cancels.Load())
	}
}
