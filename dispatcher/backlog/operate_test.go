package backlog_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
)

// TestPaused: while a queue is paused jobs are taken in without a prediction, none is let in or given up as too late,
// and nothing is learned of how long they wait. After the resume new jobs are judged as before, those that waited
// through the pause are not given up.
func TestPaused(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{Objectives: admission.Objectives{contracts.P2: time.Second}}, fleet)
	for i := range 10 {
		place(t, b, job("a", fmt.Sprint("before", i), contracts.P2, 100), start)
	}
	b.Operate("m", contracts.QueuePaused, time.Time{})
	now := start.Add(time.Hour)
	b.First(subject.Live("a", "before0"), now) // it ran when the queue was paused
	for i := range 100 {
		v := place(t, b, job("a", fmt.Sprint("while", i), contracts.P2, 100), now)
		if !v.Hold || v.First != 0 || v.End != 0 {
			t.Fatalf("a job while the queue is paused: %+v, want it held and nothing predicted", v)
		}
	}
	if i, ok := b.Next(now); ok {
		t.Errorf("%s is let in", i.Job)
	}
	if i, ok := b.Lost(now); ok {
		t.Errorf("%s is given up", i.Job)
	}
	opened := now.Add(time.Hour)
	b.Operate("m", contracts.QueueOpen, opened)
	now = opened.Add(time.Minute)
	if i, ok := b.Lost(now); ok {
		t.Errorf("after the resume %s is given up", i.Job)
	}
	if _, ok := b.Next(now); !ok {
		t.Error("after the resume none is let in")
	}
	if p, news := b.First(subject.Live("a", "before1"), now); !news || p.Predicted != 0 || p.Want != 0 {
		t.Errorf("the first token of a job that waited through the pause: %+v, %v, want nothing to learn of it", p, news)
	}
	if _, _, err := b.Place(job("a", "after", contracts.P2, 100), now); err == nil {
		t.Error("a job that comes after the resume, behind 100 others, is not shed")
	}
}

// TestPausedAdopted: a dispatcher that starts after a pause gives up only what came after it.
func TestPausedAdopted(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{Objectives: admission.Objectives{contracts.P2: time.Second}}, fleet)
	b.Operate("m", contracts.QueueOpen, start)
	b.Adopt(job("a", "through", contracts.P2, 100), 1, start.Add(-time.Minute), false)
	b.Adopt(job("b", "after", contracts.P2, 100), 2, start.Add(time.Minute), false)
	now := start.Add(time.Hour)
	if i, ok := b.Lost(now); !ok || i.Job != "after" {
		t.Errorf("given up: %+v, %v, want the one that came after the pause", i, ok)
	}
	if i, ok := b.Lost(now); ok {
		t.Errorf("given up: %+v", i)
	}
	b.Operate("m", contracts.QueueOpen, start) // the same as before
	if got := b.Operated("m"); got != contracts.QueueOpen {
		t.Errorf("state %q", got)
	}
}

// TestDrainingAdopted: a dispatcher that starts while a queue drains gives up nothing that may have waited through a
// pause before.
func TestDrainingAdopted(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{Objectives: admission.Objectives{contracts.P2: time.Second}}, fleet)
	b.Operate("m", contracts.QueueDraining, time.Time{})
	b.Adopt(job("a", "through", contracts.P2, 100), 1, start.Add(-time.Minute), false)
	if i, ok := b.Lost(start); ok {
		t.Errorf("given up: %+v", i)
	}
	if i, ok := b.Next(start); !ok || i.Job != "through" {
		t.Errorf("let in: %+v, %v", i, ok)
	}
}

// TestPauseMissed: a dispatcher that looked neither before nor during a short pause, but after it.
func TestPauseMissed(t *testing.T) {
	t.Parallel()
	b := backlog.New(backlog.Settings{Objectives: admission.Objectives{contracts.P2: time.Second}}, fleet)
	for i := range 10 {
		place(t, b, job("a", fmt.Sprint(i), contracts.P2, 100), start)
	}
	b.Operate("m", contracts.QueueOpen, start.Add(time.Second))
	if i, ok := b.Lost(start.Add(time.Minute)); ok {
		t.Errorf("given up: %+v", i)
	}
}
