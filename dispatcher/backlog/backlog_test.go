package backlog_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

var start = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)

// fleet is one worker that takes 10 ms and 0.1 ms a prompt token for a step of at most 100: 5,000 a second.
func fleet() []contracts.Heartbeat {
	sums := contracts.StepSums{Budget: 100}
	for i := range 100 {
		sums.Add(float64(i%101), float64(i%3), 10+0.1*float64(i%101), 0)
	}
	return []contracts.Heartbeat{{Model: "m", State: contracts.WorkerReady, Slots: 1000, Steps: &sums}}
}

func job(tenant, id string, class contracts.Class, prompt int) *contracts.Admitted {
	most := 10
	return &contracts.Admitted{Tokens: make([]int32, prompt), Job: contracts.Job{ID: id, Tenant: tenant, Model: "m", Class: class, Params: contracts.Params{MaxTokens: &most}}}
}

func key(a *contracts.Admitted) priority.Key {
	return priority.Key{Tenant: a.Job.Tenant, Job: a.Job.ID}
}

func place(t testing.TB, b *backlog.Backlog, a *contracts.Admitted, now time.Time) admission.Verdict {
	t.Helper()
	v, known, err := b.Place(a, now)
	if err != nil || known {
		t.Fatalf("%s: known %v, %v", a.Job.ID, known, err)
	}
	if v.Hold {
		b.Stored(key(a), 1)
	}
	b.Ours(key(a), true)
	return v
}

// A backlog grows, is held, drains in the order of classes and shares, and is empty at the end.
func TestLifeOfABacklog(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{}, fleet)
	var jobs []*contracts.Admitted
	held := 0
	for i := range 20 {
		a := job("a", fmt.Sprint("a", i), contracts.P2, 100)
		v := place(t, b, a, start)
		jobs = append(jobs, a)
		if v.Position != i {
			t.Errorf("job %d is told that %d are ahead", i, v.Position)
		}
		if want := time.Duration(i)*20*time.Millisecond + 20*time.Millisecond; (v.First - want).Abs() > want/10 {
			t.Errorf("job %d is told %v to its first token, want about %v", i, v.First, want)
		}
		if v.Hold {
			held++
		}
	}
	if held != 17 {
		t.Errorf("%d of 20 jobs are held, want 17: one worker of steps of 100 tokens is given 3", held)
	}
	urgent := job("b", "urgent", contracts.P0, 100)
	if v := place(t, b, urgent, start); v.Hold || v.Position != 0 {
		t.Errorf("an urgent job: %+v, want none ahead", v)
	}
	light := job("b", "light", contracts.P2, 100)
	if v := place(t, b, light, start); !v.Hold || v.Position > 6 {
		t.Errorf("another tenant's job: %+v, want behind what is inside and about one more", v)
	}
	if _, ok := b.Next(start); ok {
		t.Error("a job is let in though there is no room")
	}
	p, news := b.First(subject.Live("a", "a0"), start.Add(30*time.Millisecond))
	if !news || p.Model != "m" || p.Class != contracts.P2 || p.Actual != 30*time.Millisecond || p.Predicted == 0 {
		t.Errorf("the first token's prediction: %+v, %v", p, news)
	}
	if _, news := b.First(subject.Live("a", "a0"), start); news {
		t.Error("the second piece is news")
	}
	if _, ok := b.Next(start); ok {
		t.Error("a job is let in though an urgent one has the room")
	}
	b.First(subject.Live("b", "urgent"), start.Add(40*time.Millisecond))
	next, ok := b.Next(start)
	if !ok || next.Tenant != "b" {
		t.Errorf("next is %+v, %v, want the other tenant's", next, ok)
	}
	b.Back(next.Key)
	if again, ok := b.Next(start); !ok || again.Key != next.Key {
		t.Errorf("given back, and next is %+v, %v", again, ok)
	}
	for _, a := range append(jobs, urgent, light) {
		b.Ended(key(a), "m", 10, true, true)
	}
	if s := b.Share(); s.Some() || len(b.Inside()) != 0 {
		t.Errorf("at the end there is %+v and %v", s, b.Inside())
	}
}

// What is late again and again is predicted later, within bounds.
func TestPredictionsLearn(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{}, fleet)
	said := func(i int) time.Duration {
		a := job("a", fmt.Sprint("a", i), contracts.P1, 1000)
		v := place(t, b, a, start)
		if p, news := b.First(subject.Live("a", a.Job.ID), start.Add(3*200*time.Millisecond)); !news || p.Predicted != v.First {
			t.Fatalf("job %d: predicted %+v, want what was said, %v", i, p, v.First)
		}
		b.Ended(key(a), "m", 10, true, true)
		return v.First
	}
	first := said(0)
	for i := range 300 {
		said(i + 1)
	}
	if last := said(1000); last < 2*first || last > 4*first {
		t.Errorf("a device that takes three times as long as its steps say was predicted %v, then %v", first, last)
	}
}

// A burst cannot be let in that none of it saw, and another dispatcher's backlog counts.
func TestObjectiveBoundsTheBacklog(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{Objectives: admission.Objectives{contracts.P0: time.Second}}, fleet)
	in := 0
	for i := range 200 {
		if _, _, err := b.Place(job(fmt.Sprint("t", i%7), fmt.Sprint(i), contracts.P0, 100), start); err == nil {
			in++
		} else if contracts.CodeOf(err) != contracts.CodeOverloaded {
			t.Fatal(err)
		}
	}
	if in < 35 || in > 50 { // 50 jobs of 100 tokens in a second, less the margin
		t.Errorf("%d of 200 jobs were let in at once, want about 45", in)
	}
	other := backlog.New(backlog.Settings{Objectives: admission.Objectives{contracts.P0: time.Second}}, fleet)
	other.Peer("first", b.Share(), start)
	if _, _, err := other.Place(job("t", "x", contracts.P0, 100), start.Add(time.Millisecond)); contracts.CodeOf(err) != contracts.CodeOverloaded {
		t.Errorf("a job at another dispatcher: %v, want overloaded", err)
	}
	if _, _, err := other.Place(job("t", "y", contracts.P0, 100), start.Add(2*time.Second)); err != nil {
		t.Errorf("when the first one has long been silent: %v", err)
	}
}

// What is reserved for urgent classes is not promised to others.
func TestReserve(t *testing.T) {
	t.Parallel()
	wait := func(s backlog.Settings) time.Duration {
		b := backlog.New(s, fleet)
		for i := range 10 {
			place(t, b, job("a", fmt.Sprint(i), contracts.P2, 100), start)
		}
		return place(t, b, job("a", "last", contracts.P2, 100), start).First
	}
	all, half := wait(backlog.Settings{}), wait(backlog.Settings{Reserve: map[contracts.Class]float64{contracts.P0: 0.5}})
	if half < all*3/2 {
		t.Errorf("with half of the fleet reserved the wait is %v, without %v", half, all)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{FIFO: true, Quotas: map[string]quota.Limits{"a": {Concurrent: 2, Tokens: 1000}}}, fleet)
	one, two := job("a", "1", contracts.P2, 90), job("a", "2", contracts.P2, 90)
	place(t, b, one, start)
	place(t, b, two, start)
	var e *contracts.Error
	if _, _, err := b.Place(job("a", "3", contracts.P2, 90), start); !errors.As(err, &e) || e.Code != contracts.CodeQuotaExceeded || e.RetryAfterMS == 0 {
		t.Fatalf("a third job: %v, want quota_exceeded with a time", err)
	}
	if _, known, err := b.Place(one, start); !known || err != nil {
		t.Errorf("the first job again: known %v, %v", known, err)
	}
	if _, tokens := b.Quota("a", start); tokens.Remaining != 800 {
		t.Errorf("%d tokens are left, want 800 of 1,000 after two jobs of 100", tokens.Remaining)
	}
	if s := b.Share(); s.Spent["a"] != (backlog.Spent{Requests: 2, Tokens: 200}) {
		t.Errorf("the others are told of %+v", s.Spent)
	}
	b.Ended(key(one), "m", 5, true, true)
	b.Drop(key(two))
	if _, tokens := b.Quota("a", start); tokens.Remaining != 905 {
		t.Errorf("%d tokens are left, want 905: one job used 95, the other none", tokens.Remaining)
	}
	place(t, b, job("a", "3", contracts.P2, 90), start)
}

// A held job that another dispatcher adopts is lost when its objective has passed since it was stored, whatever the
// clock of its producer says.
func TestAdoptedByTheBrokersClock(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{Objectives: admission.Objectives{contracts.P2: 10 * time.Second}}, fleet)
	a := job("a", "1", contracts.P2, 100)
	a.Job.Submitted = start.Add(-50 * time.Second).UnixMilli()
	b.Adopt(a, 1, start, false)
	if i, lost := b.Lost(start.Add(time.Second)); lost {
		t.Errorf("a job of 10 s is given up after one: %+v", i)
	}
	if _, lost := b.Lost(start.Add(10 * time.Second)); !lost {
		t.Error("a job whose objective is over is not given up")
	}
}
