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

const (
	rounds  = 3               // in which each kind of step is measured at least
	steps   = 4               // of generated tokens that one measurement makes
	feeding = 2 * time.Second // what a round may take to feed long sequences
	short   = 16              // tokens of short sequences
	long    = 1024            // of long ones
)

// Sweep measures the engine for about the time given, at least [rounds] times each kind of step: prompts of
// several lengths, and several numbers of sequences, short and long, that generate. now is the clock.
func Sweep(ctx context.Context, e engine.Engine, span time.Duration, now func() time.Time) ([]Point, error) {
	info := e.Info()
	if info.MaxStepTokens < 2 || info.ContextLength < 4*short {
		return nil, fmt.Errorf("engine %s feeds %d tokens a step into contexts of %d: it cannot be measured", info.Model, info.MaxStepTokens, info.ContextLength)
	}
	s := &sweep{Engine: e, info: info, now: now, took: map[[3]int][]time.Duration{}}
	length := min(long, info.ContextLength/2)
	start := now()
	for round := 0; round <= rounds || now().Sub(start) < span; round++ {
		if round == 1 { // the first one warmed up
			clear(s.took)
		}
		begins := now()
		if err := errors.Join(s.prompts(ctx), s.rows(ctx, short, 16)); err != nil {
			return nil, err
		}
		each := s.median(min(info.MaxStepTokens, length)) * time.Duration(length) / time.Duration(min(info.MaxStepTokens, length))
		if err := s.rows(ctx, length, min(16, max(2, int(feeding/max(1, each))))); err != nil {
			return nil, err
		}
		if now() == begins {
			return nil, errors.New("the steps of the engine take no time: it cannot be measured")
		}
	}
	return s.points(), nil
}

// sweep is a measurement under way: what steps took by prompt tokens, rows and tokens held.
type sweep struct {
	engine.Engine
	info engine.Info
	now  func() time.Time
	took map[[3]int][]time.Duration
}

// points is what was measured, in a fixed order.
func (s *sweep) points() (out []Point) {
	for k, took := range s.took {
		out = append(out, Point{k[0], k[1], k[2], took})
	}
	slices.SortFunc(out, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.Rows, b.Rows), cmp.Compare(a.Prompt, b.Prompt), cmp.Compare(a.Held, b.Held))
	})
	return out
}

// median of the prompts of so many tokens, 0 when none was measured.
func (s *sweep) median(tokens int) time.Duration {
	if took := s.took[[3]int{tokens, 0, tokens}]; len(took) > 0 {
		return Point{Took: took}.Median()
	}
	return 0
}

// full tells that an engine has no memory for what was to be measured.
func full(err error) bool {
	return errors.Is(err, engine.ErrNoMemory) || errors.Is(err, engine.ErrTooLong)
}

// prompts measures steps of prompts alone, up to several prompts of the longest row.
func (s *sweep) prompts(ctx context.Context) error {
	most := min(s.info.MaxStepTokens, s.info.ContextLength/2)
	lengths := []int{max(2, 3*most/4), most, 3 * most / 2, 2 * most, 3 * most}
	for n := short; n < most; n *= 2 {
		lengths = append(lengths, n)
	}
	for _, n := range lengths {
		took, err := s.prompt(ctx, n)
		if full(err) {
			continue
		} else if err != nil {
			return err
		}
		s.took[[3]int{n, 0, n}] = append(s.took[[3]int{n, 0, n}], took)
	}
	return nil
}

// rows measures steps of up to most sequences of a length that generate.
func (s *sweep) rows(ctx context.Context, length, most int) error {
	var rows []*engine.Row
	for len(rows) < min(most, s.info.MaxSequences) {
		seq, err := s.Open(length + 8*steps)
		if full(err) {
			break
		} else if err != nil {
			return err
		}
		defer s.Close(seq)
		for fed := 0; fed < length; {
			n := min(length-fed, s.info.MaxStepTokens)
			if rest := length - fed - n; rest > 0 && rest < s.info.MinPrefill {
				n -= s.info.MinPrefill - rest
			}
			if _, err := s.step(ctx, &engine.Row{Seq: seq, Tokens: s.tokens(n)}); err != nil {
				return err
			}
			fed += n
		}
		rows = append(rows, &engine.Row{Seq: seq})
	}
	for n := 1; n <= len(rows); n *= 2 {
		key := [3]int{0, n, n * (length + 1)}
		for range steps {
			for _, r := range rows[:n] {
				r.Tokens, r.Sample = s.tokens(1), true
			}
			took, err := s.step(ctx, rows[:n]...)
			if err != nil {
				return err
			}
			s.took[key] = append(s.took[key], took)
		}
	}
	return nil
}

// prompt makes one step of so many prompt tokens, in as many rows as they take.
func (s *sweep) prompt(ctx context.Context, tokens int) (time.Duration, error) {
	count := (tokens + s.info.MaxStepTokens - 1) / s.info.MaxStepTokens
	var rows []*engine.Row
	for i := range count {
		n := tokens*(i+1)/count - tokens*i/count
		seq, err := s.Open(n)
		if err != nil {
			return 0, err
		}
		defer s.Close(seq)
		rows = append(rows, &engine.Row{Seq: seq, Tokens: s.tokens(n), Sample: true})
	}
	return s.step(ctx, rows...)
}

func (s *sweep) step(ctx context.Context, rows ...*engine.Row) (time.Duration, error) {
	start := s.now()
	if err := s.Step(ctx, rows); err != nil {
		return 0, fmt.Errorf("calibrate: %w", err)
	}
	took := s.now().Sub(start)
	for _, r := range rows {
		if r.Err != nil {
			return 0, fmt.Errorf("calibrate: %w", r.Err)
		}
	}
	return took, nil
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
