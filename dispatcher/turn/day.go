package turn

import (
	"context"
	"encoding/json"
	"time"

	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/dispatcher/backlog"
)

const (
	// keepEvery is how often a dispatcher writes down what tenants used of the day, so that it is known after a
	// restart of all of them.
	keepEvery = time.Minute
	// keepLast bounds the last time, when the dispatcher stops.
	keepLast = time.Second
)

// Recall takes what dispatchers wrote down of today, also those that are gone.
func (t *Turns) Recall(ctx context.Context) error {
	if !t.cfg.Backlog.Days.Limited() {
		return nil
	}
	words, err := t.cfg.Out.LastUnder(ctx, subject.AllDays)
	for _, m := range words {
		var day backlog.Today
		if name, ok := subject.ParseDay(m.Subject); ok && name != t.cfg.Name && json.Unmarshal(m.Data, &day) == nil {
			t.cfg.Backlog.Days.Recall(name, day, time.Now())
		}
	}
	return err
}

// days writes down what was used of the day, and takes what the others wrote, until ctx ends.
func (t *Turns) days(ctx context.Context) {
	if !t.cfg.Backlog.Days.Limited() {
		return
	}
	for range tick.After(ctx, keepEvery) {
		err := t.keep(ctx)
		if err == nil {
			err = t.Recall(ctx)
		}
		if err != nil && ctx.Err() == nil {
			t.cfg.Logger.Warn("tokens of the day not written down or read", "error", err)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepLast)
	defer cancel()
	if err := t.keep(last); err != nil {
		t.cfg.Logger.Warn("tokens of the day not written down", "error", err)
	}
}

func (t *Turns) keep(ctx context.Context) error {
	day := t.cfg.Backlog.Days.Today()
	if len(day.Used) == 0 {
		return nil
	}
	data, err := json.Marshal(day)
	if err == nil {
		err = t.cfg.Keep(ctx, data)
	}
	return err
}
