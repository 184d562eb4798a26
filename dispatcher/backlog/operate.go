package backlog

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Operate takes what operators let a model's queue do, and when they opened it last. What waits through a pause is in
// no hurry any more: it was taken in without an objective, or missed it by an operator's doing, so nothing is learned
// of it and it is not evicted. Its deadline holds.
func (b *Backlog) Operate(model string, state contracts.QueueState, opened time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.model(model)
	if state == contracts.QueuePaused && m.state != state || opened.After(m.opened) {
		clear(m.predicts)
		m.queue.Patient()
		m.opened = opened
	}
	m.state = state
}

// Operated is what operators let a model's queue do.
func (b *Backlog) Operated(model string) contracts.QueueState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.models[model]; m != nil && m.state != "" {
		return m.state
	}
	return contracts.QueueOpen
}
