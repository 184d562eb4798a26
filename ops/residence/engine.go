package residence

import (
	"context"
	"errors"

	"github.com/pelton-run/pelton/runtime/engine"
)

// ErrAsleep: a call that needs the model came while it was not loaded, which only a caller without a
// reservation can do.
var ErrAsleep = errors.New("the model is not loaded")

// Engine is the engine of a seat whose Loaded is one. It is there while the model comes and goes: what
// worker.New gets. Calls come from those who hold a reservation of the seat, during which the model
// stays.
type Engine struct {
	seat *Seat
	info engine.Info
}

var (
	_ engine.Sharer  = (*Engine)(nil)
	_ engine.Drafter = (*Engine)(nil)
)

// NewEngine makes the engine of a seat that is awake.
func NewEngine(s *Seat) (*Engine, error) {
	e, ok := s.Loaded().(engine.Engine)
	if !ok {
		return nil, ErrAsleep
	}
	return &Engine{seat: s, info: e.Info()}, nil
}

func (e *Engine) loaded() (engine.Engine, error) {
	if l, ok := e.seat.Loaded().(engine.Engine); ok {
		return l, nil
	}
	return nil, ErrAsleep
}

// Info describes the engine, loaded or not.
func (e *Engine) Info() engine.Info { return e.info }

// Open reserves memory for a sequence in the loaded engine.
func (e *Engine) Open(tokens int) (engine.Seq, error) {
	l, err := e.loaded()
	if err != nil {
		return 0, err
	}
	return l.Open(tokens)
}

// Close gives a sequence's memory back.
func (e *Engine) Close(s engine.Seq) {
	if l, err := e.loaded(); err == nil {
		l.Close(s)
	}
}

// Share takes over what the loaded engine computed for another sequence, if it does that.
func (e *Engine) Share(s engine.Seq, scope string, prompt []int32) int {
	if l, ok := e.seat.Loaded().(engine.Sharer); ok {
		return l.Share(s, scope, prompt)
	}
	return 0
}

// Keep is for the loaded engine: memory that is lent to one that is unloaded goes with it.
func (e *Engine) Keep(bytes int64) {
	if l, ok := e.seat.Loaded().(engine.Sharer); ok {
		l.Keep(bytes)
	}
}

// Forget takes guessed tokens back in the loaded engine, whose Info said that it takes them.
func (e *Engine) Forget(s engine.Seq, n int) {
	if l, ok := e.seat.Loaded().(engine.Drafter); ok {
		l.Forget(s, n)
	}
}

// Step runs a pass of the loaded engine.
func (e *Engine) Step(ctx context.Context, rows []*engine.Row) error {
	l, err := e.loaded()
	if err != nil {
		return err
	}
	return l.Step(ctx, rows)
}

// Memory is the account of the loaded engine; asleep it holds nothing of its budget.
func (e *Engine) Memory() engine.Memory {
	if l, err := e.loaded(); err == nil {
		return l.Memory()
	}
	return engine.Memory{Budget: e.seat.Total()}
}

// Shutdown unloads the model for good.
func (e *Engine) Shutdown() error { return e.seat.Close() }
