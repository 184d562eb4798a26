package batch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sampler"
)

// Step is one forward pass, as a trace sees it.
type Step struct {
	Rows          int
	PrefillTokens int
	DecodeRows    int // replayed rows included
	Drafted       int // tokens that were guessed to follow
	Accepted      int // of them, that did
	SharedTokens  int // prompt tokens that were taken over from other sequences
	Duration      time.Duration
	Err           error
}

// Config of a [Loop].
type Config struct {
	Engine engine.Engine
	// PrefillTokens is the most prompt tokens in one step; default Info.MaxStepTokens. Beside running
	// streams it is fewer, as [Pace] says.
	PrefillTokens int
	StepTimeout   time.Duration // a step that takes longer hangs: the loop ends with ErrHung; 0 is no limit
	Stepped       func(Step)    // optional; called by the loop, must not block
	Logger        *slog.Logger
}

// ErrHung: a step did not come back in time. The engine cannot be used any more.
var ErrHung = errors.New("the engine hangs")

// ErrAbandoned: the engine hangs in a step that the sequence had no part in.
var ErrAbandoned = errors.New("the engine was given up before it came to this")

// Loop drives one engine. Add and End are safe from any goroutine.
type Loop struct {
	cfg     Config
	info    engine.Info
	sharer  engine.Sharer  // nil: every prompt is computed
	drafter engine.Drafter // nil: nothing is guessed
	wake    chan struct{}

	mu     sync.Mutex
	added  []*Sequence
	asked  map[*Sequence]error // ends that were asked for
	closed error               // why nothing is taken any more

	// Owned by the goroutine in Run.
	running []*Sequence
	order   uint64
	full    bool // the engine had no memory and nothing was closed since
	planner Planner
	solos   uint64 // steps of one sequence's own
	solo    bool   // the last step was one
	turn    turn
	steady  *time.Timer // bounds the step under way; nil without StepTimeout
	forth   chan context.Context
	back    chan error
}

// New checks cfg and makes a loop that waits for Run.
func New(cfg Config) (*Loop, error) {
	l := &Loop{cfg: cfg, info: cfg.Engine.Info(), wake: make(chan struct{}, 1), asked: map[*Sequence]error{}}
	if s, ok := cfg.Engine.(engine.Sharer); ok && l.info.MinPrefill == 1 {
		l.sharer = s
	}
	if d, ok := cfg.Engine.(engine.Drafter); ok && l.info.Drafts > 0 {
		l.drafter = d
	}
	if cfg.PrefillTokens == 0 {
		l.cfg.PrefillTokens = l.info.MaxStepTokens
	}
	limits := Limits{Budget: l.cfg.PrefillTokens, Row: l.info.MaxStepTokens, Min: max(1, l.info.MinPrefill), Together: 1 + l.info.Drafts}
	if !limits.valid() {
		return nil, fmt.Errorf("a step of %d prompt tokens in rows of %d cannot cut every prompt into rows of at least %d: allow at least %d",
			limits.Budget, limits.Row, limits.Min, 2*limits.Min-1)
	}
	l.planner = Planner{Limits: limits}
	return l, nil
}

// Add puts sequences into the batch; they join at the next step. Each sink hears Ended exactly once,
// also when the loop has stopped.
func (l *Loop) Add(seqs ...*Sequence) {
	l.mu.Lock()
	if l.closed == nil {
		l.added = append(l.added, seqs...)
		l.mu.Unlock()
		l.signal()
		return
	}
	err := l.closed
	l.mu.Unlock()
	for _, s := range seqs {
		s.tell(End{Err: err})
	}
}

// End asks for the end of a sequence before the next step. A nil cause is a normal stop (contracts.
// FinishStop). A sequence that has ended by then is left as it is.
func (l *Loop) End(s *Sequence, cause error) {
	l.mu.Lock()
	if _, twice := l.asked[s]; !twice && l.closed == nil {
		l.asked[s] = cause
	}
	l.mu.Unlock()
	l.signal()
}

func (l *Loop) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run drives the engine until ctx ends; then every sequence ends with ctx's cause and Run returns nil.
// If the engine hangs, those in the step end with an error that says so, which Run returns, and all others with
// ErrAbandoned.
func (l *Loop) Run(ctx context.Context) error {
	if l.cfg.StepTimeout > 0 {
		l.steady = time.NewTimer(l.cfg.StepTimeout)
		l.forth, l.back = make(chan context.Context), make(chan error, 1)
		defer close(l.forth)
		go l.watched()
	}
	for ctx.Err() == nil {
		l.receive()
		if len(l.running) == 0 {
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
			continue
		}
		l.open()
		if err := l.step(ctx); err != nil {
			l.close(err)
			return err
		}
	}
	l.close(context.Cause(ctx))
	return nil
}

// close ends everything and refuses what comes later.
func (l *Loop) close(cause error) {
	others := cause
	if errors.Is(cause, ErrHung) {
		others = ErrAbandoned
	}
	l.mu.Lock()
	l.closed = others
	l.mu.Unlock()
	l.receive()
	for _, p := range l.turn.pieces { // of the last step, which may be the one that hangs
		l.end(l.turn.ready[p.Index], End{Err: cause})
	}
	for _, s := range l.running {
		l.end(s, End{Err: others})
	}
	l.running = nil
}

// receive takes what other goroutines asked for since the last step.
func (l *Loop) receive() {
	l.mu.Lock()
	added := l.added
	l.added = nil
	var asked map[*Sequence]error
	if len(l.asked) > 0 {
		asked, l.asked = l.asked, map[*Sequence]error{}
	}
	l.mu.Unlock()
	for _, s := range added {
		s.order = l.order
		s.Most = s.length(l.info.ContextLength) - len(s.spec.Prompt)
		if l.info.MinPrefill == 1 && len(s.spec.Replay) > 0 {
			s.join()
		}
		if l.drafter != nil {
			s.remember(l.info.ContextLength)
		}
		l.order++
		l.running = append(l.running, s)
	}
	for s, cause := range asked {
		if cause == nil {
			l.end(s, End{Finish: contracts.FinishStop})
		} else {
			l.end(s, End{Err: cause})
		}
	}
	now := time.Now()
	for _, s := range l.running {
		switch {
		case s.ended:
		case !s.spec.Deadline.IsZero() && !now.Before(s.spec.Deadline):
			l.end(s, End{Err: contracts.Errorf(contracts.CodeDeadlineExceeded, "the deadline passed after %d tokens", s.Generated)})
		case s.Generated >= s.spec.MaxTokens || s.Generated > 0 && s.Full():
			l.end(s, End{Finish: contracts.FinishLength}) // the last token was emitted by an earlier holder
		}
	}
	l.sweep()
}

// sweep forgets the sequences that ended.
func (l *Loop) sweep() {
	l.running = slices.DeleteFunc(l.running, func(s *Sequence) bool { return s.ended })
}

// open reserves memory in the engine for sequences that have none, oldest first. One that gets none
// waits for another to end; with nobody to wait for, it fails.
func (l *Loop) open() {
	open := 0
	for _, s := range l.running {
		if s.opened {
			open++
		}
	}
	if l.full && open > 0 {
		return
	}
	l.full = false
	for _, s := range l.running {
		if s.opened {
			continue
		}
		h, err := l.cfg.Engine.Open(s.length(l.info.ContextLength))
		switch {
		case err == nil:
			s.handle, s.opened = h, true
			open++
		case errors.Is(err, engine.ErrNoMemory) && open > 0:
			l.full = true
			return
		case errors.Is(err, engine.ErrNoMemory):
			l.end(s, End{Err: contracts.Errorf(contracts.CodeResourceExhausted, "%d tokens do not fit in this worker's KV cache", s.length(l.info.ContextLength))})
		case errors.Is(err, engine.ErrTooLong):
			l.end(s, End{Err: contracts.Errorf(contracts.CodeContextLengthExceeded, "%d tokens are more than this worker can hold: shorten the prompt or lower max_tokens", s.length(l.info.ContextLength))})
		default:
			l.end(s, End{Err: fmt.Errorf("open sequence: %w", err)})
		}
	}
	l.sweep()
}

// step runs one forward pass and hands its results out. The error says that the engine hangs.
func (l *Loop) step(ctx context.Context) error {
	done := l.plan()
	if done.Rows == 0 {
		return nil
	}
	start := time.Now()
	done.Err = l.timed(ctx)
	if errors.Is(done.Err, ErrHung) {
		for _, s := range l.running {
			s.opened = false // its memory is lost with the engine
		}
		return fmt.Errorf("%w: a step of %d prompt tokens and %d rows is not back after %v", ErrHung, done.PrefillTokens, done.DecodeRows, l.cfg.StepTimeout)
	}
	now := time.Now()
	done.Duration = now.Sub(start)
	if done.Err == nil {
		l.planner.Took(done.PrefillTokens, done.DecodeRows+done.Drafted, done.Duration)
	}
	if done.Err == nil {
		l.turn.choose()
	}
	token := done.Duration / time.Duration(max(1, done.PrefillTokens+done.DecodeRows))
	for i, p := range l.turn.pieces {
		s := l.turn.ready[p.Index]
		s.device += token * time.Duration(max(1, p.Prompt))
		if done.Err != nil {
			err := done.Err
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			l.end(s, End{Err: err})
			continue
		}
		done.Accepted += l.advance(s, p, l.turn.rows[i], now)
	}
	l.sweep()
	if l.cfg.Stepped != nil {
		l.cfg.Stepped(done)
	}
	return nil
}

// suspect is the sequence that the next step is for alone, nil when the others share it.
func (l *Loop) suspect() *Sequence {
	var next *Sequence
	others := false
	for _, s := range l.running {
		switch {
		case !s.opened:
		case !s.spec.Alone:
			others = true
		case next == nil || s.solo < next.solo:
			next = s
		}
	}
	if l.solo = next != nil && !(others && l.solo); !l.solo {
		return nil
	}
	l.solos++
	next.solo = l.solos
	return next
}

// plan fills in the rows of the next step, in memory that is used again for each.
func (l *Loop) plan() (done Step) {
	t := &l.turn
	t.ready, t.views, t.rows = t.ready[:0], t.views[:0], t.rows[:0]
	only := l.suspect()
	for _, s := range l.running {
		if s.opened && (s == only || only == nil && !s.spec.Alone) {
			if done.SharedTokens < mostShared {
				done.SharedTokens += l.share(s)
			}
			t.ready = append(t.ready, s)
			t.views = append(t.views, View{Rank: s.spec.Rank, Order: s.order, Rest: s.Rest()})
		}
	}
	t.pieces = l.planner.Plan(t.pieces[:0], t.views)
	done.Rows = len(t.pieces)
	for _, p := range t.pieces {
		done.PrefillTokens += p.Prompt
		if p.Prompt == 0 {
			done.DecodeRows++
		}
	}
	guesses := 0 // of each row: none beside prompts, and fewer the more sequences share the step
	if done.PrefillTokens == 0 && done.Rows > 0 {
		guesses = min(mostGuesses, max(0, 1+l.info.Drafts-done.Rows)/done.Rows)
	}
	for _, p := range t.pieces {
		r := t.ready[p.Index].row(p.Prompt, guesses)
		done.Drafted += len(r.Draft)
		t.rows = append(t.rows, r)
	}
	return done
}

// mostShared is about how many tokens one step takes over: streams that run wait for the copies.
const mostShared = 1024

// share takes over what of a prompt another sequence of its scope holds, and returns how many tokens that are.
func (l *Loop) share(s *Sequence) int {
	if l.sharer == nil || s.spec.Scope == "" || s.Rest() == 0 {
		return 0
	}
	before := s.Fed
	s.Fed = max(before, l.sharer.Share(s.handle, s.spec.Scope, s.text))
	s.shared += s.Fed - before
	return s.Fed - before
}

// timed is forward on l.turn.rows, which it leaves behind when the time is up: the loop ends then.
func (l *Loop) timed(ctx context.Context) error {
	if l.cfg.StepTimeout == 0 {
		return l.forward(ctx, l.turn.rows)
	}
	l.steady.Reset(l.cfg.StepTimeout)
	l.forth <- ctx
	select {
	case err := <-l.back:
		l.steady.Stop()
		return err
	case <-l.steady.C:
		return ErrHung
	}
}

// watched runs the steps that timed waits for, in a goroutine of their own, until forth is closed.
func (l *Loop) watched() {
	for ctx := range l.forth {
		l.back <- l.forward(ctx, l.turn.rows)
	}
}

// forward calls the engine; a panic in it is the step's error.
func (l *Loop) forward(ctx context.Context, rows []*engine.Row) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = Panicked(l.cfg.Logger, "engine", r, debug.Stack())
		}
	}()
	if err := l.cfg.Engine.Step(ctx, rows); err != nil {
		return fmt.Errorf("engine step: %w", err)
	}
	return nil
}

// advance moves one sequence on by what its row did and what was chosen behind it, and says how many guessed
// tokens were right. A panic (a sampler's or a sink's) ends only this sequence.
func (l *Loop) advance(s *Sequence, p Piece, r *engine.Row, now time.Time) (accepted int) {
	defer func() {
		if e := recover(); e != nil {
			l.panicked(s, e, debug.Stack())
		}
	}()
	if r.Err != nil {
		l.end(s, End{Err: fmt.Errorf("engine row: %w", r.Err)})
		return 0
	}
	if s.broken != nil {
		l.panicked(s, s.broken, s.stack)
		return 0
	}
	if p.Prompt > 0 && s.Rest() == 0 {
		s.spec.Sink.Prefilled(s.spec.Choice, now)
	}
	if !r.Sample {
		return 0
	}
	if len(r.Draft) == 0 {
		l.take(s, s.choice, now)
		return 0
	}
	for ; ; accepted++ {
		at := accepted * l.info.Vocab
		l.take(s, s.spec.Sampler.Sample(r.Logits[at:at+l.info.Vocab], s.Generated), now)
		if wrong := r.Draft[accepted:]; len(wrong) == 0 || s.ended {
			return accepted
		} else if s.next[0] != wrong[0] {
			l.drafter.Forget(s.handle, len(wrong))
			return accepted
		}
	}
}

func (l *Loop) panicked(s *Sequence, e any, stack []byte) {
	err := Panicked(l.cfg.Logger, "sequence", e, stack)
	if e == sampler.ErrNone { // wherever the job is tried again
		err = contracts.Errorf(contracts.CodeInvalidArgument, "the model has no token for what response_format wants next: use another model, or a schema without it")
	}
	l.end(s, End{Err: err})
}

// take adds a token that was chosen.
func (l *Loop) take(s *Sequence, c sampler.Choice, now time.Time) {
	if slices.Contains(s.spec.EOS, c.Token) {
		l.end(s, End{Finish: contracts.FinishStop})
		return
	}
	s.spec.Sampler.Accept(c.Token)
	s.Generated++
	s.next[0] = c.Token
	if s.said != nil {
		s.said = append(s.said, c.Token)
	}
	s.spec.Sink.Token(s.spec.Choice, Token{ID: c.Token, Logprob: c.Logprob, Top: c.Top, At: now})
	if s.Full() {
		l.end(s, End{Finish: contracts.FinishLength})
	}
}

// end gives the sequence's memory back and tells its sink, once.
func (l *Loop) end(s *Sequence, e End) {
	if s.ended {
		return
	}
	s.ended, e.Device, e.Shared = true, s.device, s.shared
	if s.opened {
		l.cfg.Engine.Close(s.handle)
		s.opened, l.full = false, false
	}
	s.tell(e)
}
