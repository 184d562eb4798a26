package batch

import (
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sampler"
)

// Sampler picks the tokens of one sequence; [sampler.Sampler] is one. If it has a method Expect, the tokens that it
// gives are guessed to follow.
type Sampler interface {
	// Sample picks the token at position (count of tokens generated before it) and may overwrite
	// logits. It is not asked if the engine found the likeliest token and the sampler has a method Greedy that says
	// that it wants no other.
	Sample(logits []float32, position int) sampler.Choice
	// Accept adds a token to the history that penalties look at.
	Accept(token int32)
}

// Token is one generated token.
type Token struct {
	ID      int32
	Logprob float32
	Top     []sampler.Candidate
	At      time.Time
}

// End says how a sequence ended: Finish is contracts.FinishStop or FinishLength when Err is nil;
// otherwise Err is the cause that was given to [Loop.End], or what went wrong.
type End struct {
	Finish string
	Err    error
	Device time.Duration // its share of the steps that it was in, by the tokens that it fed
	Shared int           // tokens that it took over from other sequences
}

// Sink hears what becomes of a sequence. Its methods are called by the loop's goroutine and must not
// block.
type Sink interface {
	// Prefilled: the prompt is in the KV cache.
	Prefilled(choice int, at time.Time)
	// Token: one more token was generated. Replayed tokens are not reported.
	Token(choice int, t Token)
	// Ended: nothing follows, and the engine holds no memory for the sequence any more.
	Ended(choice int, e End)
}

// Spec describes a sequence to run.
type Spec struct {
	Choice    int
	Rank      int     // class of the job, 0 most urgent
	Scope     string  // whose sequences may share what is computed for equal beginnings; "" nobody's
	Prompt    []int32 // not empty
	Replay    []int32 // tokens that an earlier holder emitted; generation goes on after them
	MaxTokens int     // generated tokens, replayed ones included
	EOS       []int32 // tokens that end the sequence and are not reported; empty to go on past them
	Sampler   Sampler
	Deadline  time.Time // zero is none
	Alone     bool      // in steps of its own, every other one: if such a step fails, nobody else is hurt
	Sink      Sink
}

// Sequence is one choice of a job in the batch. Its fields belong to the loop.
type Sequence struct {
	spec  Spec
	order uint64

	Progress
	text   []int32 // the prompt, behind it a replay that joined it
	said   []int32 // text and what was generated, for guesses; nil where none are made
	handle engine.Seq
	opened bool
	next   [1]int32 // the token that the next decode row feeds
	ended  bool
	told   atomic.Bool // its sink knows
	solo   uint64      // its last step of its own
	device time.Duration
	shared int                 // tokens that were taken over from others
	share  engine.Row          // of the step under way
	greedy bool                // the sampler wants the likeliest token only
	expect func(n int) []int32 // of the sampler; nil: nothing is expected
	choice sampler.Choice
	broken any    // what choosing panicked with
	stack  []byte // where
}

// NewSequence prepares a sequence for [Loop.Add].
func NewSequence(s Spec) *Sequence {
	g, ok := s.Sampler.(interface{ Greedy() bool })
	q := &Sequence{spec: s, text: s.Prompt, Progress: NewProgress(len(s.Prompt), len(s.Replay), s.MaxTokens), greedy: ok && g.Greedy()}
	if e, ok := s.Sampler.(interface{ Expect(n int) []int32 }); ok {
		q.expect = e.Expect
	}
	return q
}

// tell tells the sink of the end, once: an end that was asked for before Add may have come before it. Safe from any goroutine.
func (s *Sequence) tell(e End) {
	if !s.told.Swap(true) {
		s.spec.Sink.Ended(s.spec.Choice, e)
	}
}

// join feeds the replay together with the prompt.
func (s *Sequence) join() {
	s.text = slices.Concat(s.spec.Prompt, s.spec.Replay)
	s.Join()
}

// remember begins to keep what is generated.
func (s *Sequence) remember(context int) {
	s.said = append(make([]int32, 0, s.length(context)), s.text...)
}

// length is how many tokens the sequence holds at most.
func (s *Sequence) length(context int) int { return min(len(s.spec.Prompt)+s.spec.MaxTokens, context) }

// choose moves the sequence on by what its row did, and samples what follows unless guesses do: then it depends
// on what they were. It touches nothing but the sequence.
func (s *Sequence) choose(p Piece, r *engine.Row) {
	defer s.caught()
	if r.Err != nil {
		return
	}
	replaying := s.Replayed
	s.Advance(p.Prompt)
	if s.Replayed > replaying {
		s.spec.Sampler.Accept(s.spec.Replay[replaying])
	}
	if p.Prompt > 0 && s.Rest() == 0 {
		for _, id := range s.text[len(s.spec.Prompt):] {
			s.spec.Sampler.Accept(id)
		}
	}
	switch {
	case !r.Sample || len(r.Draft) > 0:
	case r.Logits == nil:
		s.choice = sampler.Choice{Token: r.Token}
	default:
		s.choice = s.spec.Sampler.Sample(r.Logits, s.Generated)
	}
}

// caught keeps what a sampler panicked with; it is deferred.
func (s *Sequence) caught() {
	if e := recover(); e != nil {
		s.broken, s.stack = e, debug.Stack()
	}
}

// guess is at most n tokens that may follow: those that the sampler expects, or what followed before.
func (s *Sequence) guess(n int) (draft []int32) {
	defer s.caught()
	if n > 0 && s.expect != nil {
		draft = s.expect(n)
	}
	if len(draft) == 0 {
		draft = Guess(s.said, n)
	}
	return draft
}

// row is the sequence's share of a step, valid until the next one: n prompt tokens, or one generated token when
// n is 0, with at most so many guessed ones. Logits are wanted when the row brings the sequence to a position
// that nobody sampled yet.
func (s *Sequence) row(n, guesses int) *engine.Row {
	s.share = engine.Row{Seq: s.handle, Sample: s.Samples(n), Likeliest: s.greedy}
	switch r := &s.share; {
	case n > 0:
		r.Tokens = s.text[s.Fed : s.Fed+n]
	case s.Replayed < s.Replay:
		r.Tokens = s.spec.Replay[s.Replayed : s.Replayed+1]
	default:
		r.Tokens = s.next[:]
		r.Draft = s.guess(min(guesses, cap(s.said)-len(s.said)))
	}
	return &s.share
}
