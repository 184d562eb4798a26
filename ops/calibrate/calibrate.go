// Package calibrate measures what the steps of a real engine take and fits the profile of a modelled device
// to it, so that a simulation stands for that machine.
//
// It stands outside the walk: ops/cli (bench --calibrate) opens an engine, [Sweep] drives it through the
// kinds of steps that a worker's batch loop makes, [Fit] fits runtime/sim's constants. Fit is pure; Sweep
// belongs to one goroutine, which alone drives the engine.
package calibrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
)

// Point is one kind of step: what it holds, and what it took.
type Point struct {
	Prompt int             `json:"prompt_tokens"`
	Rows   int             `json:"rows"` // of one generated token
	Held   int             `json:"held"` // tokens of all sequences after the step
	Took   []time.Duration `json:"took_ns"`
}

// Median of what the steps of p took: others had the processor in the slow ones.
func (p Point) Median() time.Duration {
	t := slices.Sorted(slices.Values(p.Took))
	return t[len(t)/2]
}

// rounds is how often each kind of step is measured at least.
const rounds = 3

// Sweep measures the engine for about the time given, at least [rounds] times each kind of step: prompts of
// several lengths, and several numbers of sequences, short and long, that generate. now is the clock.
func Sweep(ctx context.Context, e engine.Engine, span time.Duration, now func() time.Time) ([]Point, error) {
	info := e.Info()
	if info.MaxStepTokens < 2 || info.ContextLength < 8 {
		return nil, fmt.Errorf("engine %s feeds %d tokens a step into contexts of %d: it cannot be measured", info.Model, info.MaxStepTokens, info.ContextLength)
	}
	s := &sweep{Engine: e, info: info, now: now}
	var points []Point
	add := func(p Point) { points = append(points, p) }
	most := min(info.MaxStepTokens, info.ContextLength/2)
	for n := min(16, most); n < most; n *= 2 {
		add(Point{Prompt: n, Held: n})
	}
	for quarters := 3; quarters <= 16; quarters *= 2 { // up to several prompts of the longest row
		n := max(2, most*quarters/4)
		add(Point{Prompt: n, Held: n})
	}
	for rows := 1; rows <= min(16, info.MaxSequences); rows *= 2 {
		for _, length := range []int{16, min(1024, info.ContextLength/2)} {
			add(Point{Rows: rows, Held: rows * (length + 1)})
		}
	}
	start := now()
	for round := 0; round <= rounds || now().Sub(start) < span; round++ {
		for i := range points {
			took, err := s.measure(ctx, points[i])
			if errors.Is(err, engine.ErrNoMemory) || errors.Is(err, engine.ErrTooLong) {
				continue // more than this engine holds
			} else if err != nil {
				return nil, err
			}
			if round > 0 { // the first round warms up
				points[i].Took = append(points[i].Took, took...)
			}
		}
	}
	return slices.DeleteFunc(points, func(p Point) bool { return len(p.Took) == 0 }), nil
}

type sweep struct {
	engine.Engine
	info engine.Info
	now  func() time.Time
}

// steps is how many steps of generated tokens one measurement makes.
const steps = 4

// measure makes the steps of a point.
func (s *sweep) measure(ctx context.Context, p Point) (took []time.Duration, err error) {
	if p.Rows == 0 {
		return s.prompts(ctx, p.Prompt)
	}
	length := p.Held/p.Rows - 1
	rows := make([]*engine.Row, p.Rows)
	for i := range rows {
		seq, err := s.Open(length + steps)
		if err != nil {
			return nil, err
		}
		defer s.Close(seq)
		for fed := 0; fed < length; {
			n := min(length-fed, s.info.MaxStepTokens)
			if rest := length - fed - n; rest > 0 && rest < s.info.MinPrefill {
				n -= s.info.MinPrefill - rest
			}
			if _, err := s.step(ctx, &engine.Row{Seq: seq, Tokens: s.tokens(n)}); err != nil {
				return nil, err
			}
			fed += n
		}
		rows[i] = &engine.Row{Seq: seq}
	}
	for range steps {
		for _, r := range rows {
			r.Tokens, r.Sample = s.tokens(1), true
		}
		one, err := s.step(ctx, rows...)
		if err != nil {
			return nil, err
		}
		took = append(took, one...)
	}
	return took, nil
}

// prompts makes one step of so many prompt tokens, in as many rows as they take.
func (s *sweep) prompts(ctx context.Context, tokens int) ([]time.Duration, error) {
	count := (tokens + s.info.MaxStepTokens - 1) / s.info.MaxStepTokens
	var rows []*engine.Row
	for i := range count {
		n := tokens*(i+1)/count - tokens*i/count
		seq, err := s.Open(n)
		if err != nil {
			return nil, err
		}
		defer s.Close(seq)
		rows = append(rows, &engine.Row{Seq: seq, Tokens: s.tokens(n), Sample: true})
	}
	return s.step(ctx, rows...)
}

func (s *sweep) step(ctx context.Context, rows ...*engine.Row) ([]time.Duration, error) {
	start := s.now()
	if err := s.Step(ctx, rows); err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	took := s.now().Sub(start)
	for _, r := range rows {
		if r.Err != nil {
			return nil, fmt.Errorf("calibrate: %w", r.Err)
		}
	}
	return []time.Duration{took}, nil
}

// tokens are n ids of the vocabulary, none of the special ones at its beginning if there are others.
func (s *sweep) tokens(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((100 + 7*i) % s.info.Vocab)
	}
	return out
}

// spread is the standard deviation of steps of one kind as a share of them, from the middle half of each
// point, so that what else the machine does stays out.
func spread(points []Point) float64 {
	var all []float64
	for _, p := range points {
		m := float64(p.Median())
		for _, t := range p.Took {
			all = append(all, math.Abs(float64(t)/m-1))
		}
	}
	slices.SortFunc(all, cmp.Compare[float64])
	const normal = 1.4826 // of the median absolute deviation
	return min(0.3, normal*all[len(all)/2])
}
