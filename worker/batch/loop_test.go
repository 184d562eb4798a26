package batch_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/grammar"
	"github.com/pelton-run/pelton/runtime/sampler"
	"github.com/pelton-run/pelton/worker/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink collects what becomes of one sequence.
type sink struct {
	mu     sync.Mutex
	tokens []int32
	end    batch.End
	ends   int
	done   chan struct{}
	on     func(n int) // after each token
}

func newSink() *sink { return &sink{done: make(chan struct{})} }

func (s *sink) Prefilled(int, time.Time) {}
func (s *sink) Token(_ int, t batch.Token) {
	s.mu.Lock()
	s.tokens = append(s.tokens, t.ID)
	n := len(s.tokens)
	s.mu.Unlock()
	if s.on != nil {
		s.on(n)
	}
}
func (s *sink) Ended(_ int, e batch.End) {
	s.mu.Lock()
	s.end = e
	s.ends++
	s.mu.Unlock()
	close(s.done) // a second end panics
}

func (s *sink) wait(t interface{ Fatalf(string, ...any) }) ([]int32, batch.End) {
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		t.Fatalf("the sequence did not end; it has %d tokens", len(s.tokens))
	}
	return s.tokens, s.end
}

func startLoop(t interface {
	Fatal(...any)
	Cleanup(func())
}, e engine.Engine) *batch.Loop {
	l, err := batch.New(batch.Config{Engine: e, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		l.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l
}

func prompt(seed, n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(mix(uint64(seed*1000+i)) % 64)
	}
	return p
}

// alone is what a prompt generates with nobody beside it.
func alone(t *testing.T, p []int32, n int) []int32 { return aloneOn(t, newFake(), p, n) }

func aloneOn(t *testing.T, e engine.Engine, p []int32, n int) []int32 {
	t.Helper()
	s := newSink()
	startLoop(t, e).Add(batch.NewSequence(batch.Spec{Prompt: p, MaxTokens: n, Sampler: newGreedy(), Sink: s}))
	tokens, end := s.wait(t)
	if end.Finish != contracts.FinishLength || len(tokens) != n {
		t.Fatalf("alone: %d tokens, end %+v", len(tokens), end)
	}
	return tokens
}

// A sequence's tokens depend neither on its neighbors, nor on how its prompt was cut, nor on where it
// was interrupted and resumed.
func TestTokensDependOnNobody(t *testing.T) {
	t.Parallel()
	all := map[int]map[int][]int32{1: {}, 2: {}}
	fake := func(least int) *fakeEngine {
		e := newFake()
		e.info.MinPrefill = least
		return e
	}
	for seed := range 6 {
		for least := range all {
			all[least][seed] = aloneOn(t, fake(least), prompt(seed, 1+seed*9), 20)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		e := fake(rapid.IntRange(1, 2).Draw(t, "fewest tokens of a row"))
		want := all[e.info.MinPrefill]
		e.info.MaxStepTokens = rapid.IntRange(3, 16).Draw(t, "row")
		e.budget = int64(rapid.IntRange(80, 400).Draw(t, "budget")) * e.info.KVBytesPerToken
		l := startLoop(t, e)
		var sinks []*sink
		seeds := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 10).Draw(t, "seeds")
		cuts := make([]int, len(seeds))
		for i, seed := range seeds {
			s := newSink()
			sinks = append(sinks, s)
			cuts[i] = rapid.IntRange(0, 20).Draw(t, "resumed at")
			l.Add(batch.NewSequence(batch.Spec{
				Prompt: prompt(seed, 1+seed*9), Replay: want[seed][:cuts[i]], MaxTokens: 20, Rank: i % 4, Sampler: newGreedy(), Sink: s,
			}))
		}
		for i, s := range sinks {
			got, end := s.wait(t)
			if end.Finish != contracts.FinishLength || !slices.Equal(got, want[seeds[i]][cuts[i]:]) {
				t.Fatalf("sequence %d (seed %d, resumed at %d): got %v end %+v, want %v", i, seeds[i], cuts[i], got, end, want[seeds[i]][cuts[i]:])
			}
		}
		if m := e.Memory(); m.Reserved != 0 || e.most > e.budget {
			t.Fatalf("engine holds %d bytes at the end, held %d of %d at most", m.Reserved, e.most, e.budget)
		}
	})
}

func TestEnds(t *testing.T) {
	t.Parallel()
	p := prompt(1, 10)
	want := alone(t, p, 20)
	cause := errors.New("asked to")
	boom := errors.New("boom")
	eos := len(want) - 1
	for i, id := range want { // a token at its first occurrence
		if i > 2 && slices.Index(want, id) == i {
			eos = i
			break
		}
	}
	tests := []struct {
		name   string
		spec   batch.Spec
		engine func(*fakeEngine)
		drive  func(*batch.Loop, *batch.Sequence, *sink)
		tokens []int32
		finish string
		is     func(error) bool
	}{
		{name: "max tokens", spec: batch.Spec{MaxTokens: 5}, tokens: want[:5], finish: contracts.FinishLength},
		{name: "an end token is not reported", spec: batch.Spec{MaxTokens: 20, EOS: []int32{want[eos]}}, tokens: want[:eos], finish: contracts.FinishStop},
		{name: "the context is full", spec: batch.Spec{MaxTokens: 20}, engine: func(e *fakeEngine) { e.info.ContextLength = 16 }, tokens: want[:6], finish: contracts.FinishLength},
		{name: "all tokens were emitted before", spec: batch.Spec{MaxTokens: 7, Replay: want[:7]}, finish: contracts.FinishLength},
		{name: "deadline", spec: batch.Spec{MaxTokens: 20, Deadline: time.Now().Add(-time.Second)}, is: coded(contracts.CodeDeadlineExceeded)},
		{name: "never fits", spec: batch.Spec{MaxTokens: 20}, engine: func(e *fakeEngine) { e.budget = 100 }, is: coded(contracts.CodeResourceExhausted)},
		{name: "asked to end", spec: batch.Spec{MaxTokens: 20}, drive: func(l *batch.Loop, q *batch.Sequence, s *sink) {
			s.on = func(n int) {
				if n == 3 {
					l.End(q, cause)
				}
			}
		}, tokens: want[:3], is: func(err error) bool { return errors.Is(err, cause) }},
		{name: "stopped by its text", spec: batch.Spec{MaxTokens: 20}, drive: func(l *batch.Loop, q *batch.Sequence, s *sink) {
			s.on = func(n int) {
				if n == 2 {
					l.End(q, nil)
				}
			}
		}, tokens: want[:2], finish: contracts.FinishStop},
		{name: "step error", spec: batch.Spec{MaxTokens: 20}, engine: failAt(3, func([]*engine.Row) error { return boom }), tokens: want[:2], is: func(err error) bool { return errors.Is(err, boom) }},
		{name: "row error", spec: batch.Spec{MaxTokens: 20}, engine: failAt(3, func(rows []*engine.Row) error { rows[0].Err = boom; return nil }), tokens: want[:2], is: func(err error) bool { return errors.Is(err, boom) }},
		{name: "engine panics", spec: batch.Spec{MaxTokens: 20}, engine: failAt(3, func([]*engine.Row) error { panic("boom") }), tokens: want[:2], is: func(err error) bool { return err != nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newFake()
			if tt.engine != nil {
				tt.engine(e)
			}
			l := startLoop(t, e)
			s := newSink()
			tt.spec.Prompt, tt.spec.Sampler, tt.spec.Sink = p, newGreedy(), s
			q := batch.NewSequence(tt.spec)
			if tt.drive != nil {
				tt.drive(l, q, s)
			}
			l.Add(q)
			tokens, end := s.wait(t)
			if !slices.Equal(tokens, tt.tokens) || end.Finish != tt.finish || (tt.is == nil) != (end.Err == nil) || tt.is != nil && !tt.is(end.Err) {
				t.Errorf("got %v, end %+v; want %v, finish %q", tokens, end, tt.tokens, tt.finish)
			}
			again := newSink() // the loop goes on
			e.before = nil
			l.Add(batch.NewSequence(batch.Spec{Prompt: p[:2], MaxTokens: 1, Sampler: newGreedy(), Sink: again}))
			if _, end := again.wait(t); end.Err != nil && tt.name != "never fits" {
				t.Errorf("the next sequence ended with %v", end.Err)
			}
			if m := e.Memory(); m.Reserved != 0 {
				t.Errorf("engine still holds %d bytes", m.Reserved)
			}
		})
	}
}

// What is to run alone shares no step, takes every other one while others run, and hurts nobody when its step fails.
func TestAlone(t *testing.T) {
	t.Parallel()
	e := newFake()
	poison := []int32{63, 63, 63, 63}
	poisoned := map[engine.Seq]bool{}
	var steps []int // rows of each
	e.before = func(rows []*engine.Row) error {
		steps = append(steps, len(rows))
		for _, r := range rows {
			if poisoned[r.Seq] = poisoned[r.Seq] || slices.Equal(r.Tokens, poison); poisoned[r.Seq] && len(r.Tokens) == 1 {
				return errors.New("boom")
			}
		}
		return nil
	}
	prompts := [][]int32{prompt(1, 5), prompt(2, 5), prompt(3, 5), prompt(4, 5), poison}
	var seqs []*batch.Sequence
	var sinks []*sink
	for i, p := range prompts {
		sinks = append(sinks, newSink())
		seqs = append(seqs, batch.NewSequence(batch.Spec{Prompt: p, MaxTokens: 10, Sampler: newGreedy(), Sink: sinks[i], Alone: i > 1}))
	}
	startLoop(t, e).Add(seqs...)
	for i, p := range prompts {
		tokens, end := sinks[i].wait(t)
		if failed := end.Err != nil; failed != (i == 4) {
			t.Errorf("sequence %d ends with %v", i, end.Err)
		} else if !failed && !slices.Equal(tokens, alone(t, p, 10)) {
			t.Errorf("sequence %d has other tokens than with nobody beside it", i)
		}
	}
	if want := []int{1, 2, 1, 2, 1, 2, 1, 2}; !slices.Equal(steps[:len(want)], want) {
		t.Errorf("rows of the first steps: %v, want %v", steps[:len(want)], want)
	}
}

func coded(c contracts.Code) func(error) bool {
	return func(err error) bool { return err != nil && contracts.CodeOf(err) == c }
}

// failAt makes step number n (from 1) do what f does.
func failAt(n int, f func([]*engine.Row) error) func(*fakeEngine) {
	return func(e *fakeEngine) {
		steps := 0
		e.before = func(rows []*engine.Row) error {
			if steps++; steps == n {
				return f(rows)
			}
			return nil
		}
	}
}

// Where it makes no difference how a token is fed, what another worker emitted is read like a prompt.
func TestReplayInOnePiece(t *testing.T) {
	t.Parallel()
	e := newFake()
	e.info.MinPrefill = 1
	want := aloneOn(t, e, prompt(3, 6), 20)
	e.steps = nil
	s := newSink()
	startLoop(t, e).Add(batch.NewSequence(batch.Spec{Prompt: prompt(3, 6), Replay: want[:10], MaxTokens: 20, Sampler: newGreedy(), Sink: s}))
	if got, end := s.wait(t); !slices.Equal(got, want[10:]) || end.Finish != contracts.FinishLength {
		t.Errorf("continued behind 10 tokens: %v, end %+v; want %v", got, end, want[10:])
	}
	if len(e.steps) != 10 || e.steps[0][0] != 16 {
		t.Errorf("rows of the steps: %v, want one of 16 and 9 of 1", e.steps)
	}
}

// Prompts that begin alike are computed once for each scope, also when they come at once, and what follows
// is what they generate alone.
func TestSharedPrompts(t *testing.T) {
	t.Parallel()
	e := newFake()
	e.info.MinPrefill = 1
	prompts := make([][]int32, 4)
	var want [][]int32
	for i := range prompts {
		prompts[i] = append(prompt(7, 100), int32(i+1), 5)
		want = append(want, aloneOn(t, e, prompts[i], 20))
	}
	e.steps = nil
	var shared atomic.Int64
	l, err := batch.New(batch.Config{Engine: sharing{e}, Logger: slog.New(slog.DiscardHandler), Stepped: func(s batch.Step) { shared.Add(int64(s.SharedTokens)) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var sinks []*sink
	for i, p := range prompts {
		for _, scope := range []string{"ann", "bob"} {
			s := newSink()
			l.Add(batch.NewSequence(batch.Spec{Prompt: p, Scope: scope, Replay: want[i][:2], MaxTokens: 20, Sampler: newGreedy(), Sink: s}))
			sinks = append(sinks, s)
		}
	}
	go func() { done <- l.Run(ctx) }()
	told := 0
	for i, s := range sinks {
		got, end := s.wait(t)
		if !slices.Equal(got, want[i/2][2:]) || end.Finish != contracts.FinishLength {
			t.Errorf("sequence %d: got %v, end %+v; want %v", i, got, end, want[i/2][2:])
		}
		told += end.Shared
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if int64(told) != shared.Load() {
		t.Errorf("the sequences' ends tell %d shared tokens, the steps %d", told, shared.Load())
	}
	// What of a step is left beside the last tokens of the first prompt, the second one computes for itself.
	if got := shared.Load(); got > 6*100 || got < 6*100-int64(e.info.MaxStepTokens) {
		t.Errorf("%d tokens were shared, want 100 for each of 6 prompts, or a step less", got)
	}
}

// What is generated is the same with guesses, in fewer steps; they fill what a step has room for.
func TestGuesses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ drafts, n int }{{3, 1}, {3, 2}, {3, 3}, {3, 4}, {15, 1}, {15, 4}, {15, 8}, {15, 9}} {
		e, plain, n := newDrafting(), newDrafting(), c.n
		e.info.Drafts, plain.info.Drafts = c.drafts, 0
		var drafted, accepted, generated int
		l, err := batch.New(batch.Config{Engine: e, Logger: slog.New(slog.DiscardHandler), Stepped: func(s batch.Step) {
			drafted, accepted = drafted+s.Drafted, accepted+s.Accepted
		}})
		if err != nil {
			t.Fatal(err)
		}
		var sinks []*sink
		for i := range n {
			s, eos := newSink(), []int32(nil)
			if i == 0 {
				eos = []int32{7} // may come behind right guesses
			}
			sinks = append(sinks, s)
			l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(i, 9), MaxTokens: 60 + i, EOS: eos, Sampler: newGreedy(), Sink: s}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		for i, s := range sinks {
			want := aloneOn(t, plain, prompt(i, 9), 60+i)
			got, end := s.wait(t)
			if i == 0 {
				if at := slices.Index(want, 7); at >= 0 {
					want, end.Finish = want[:at], contracts.FinishLength
				}
			}
			if !slices.Equal(got, want) || end.Finish != contracts.FinishLength || end.Err != nil {
				t.Errorf("%d sequences: number %d with guesses has %v, end %+v; want %v", n, i, got, end, want)
			}
			generated += len(got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for _, r := range e.rows {
			if r[1] > 0 && r[0]+r[1] > 1+c.drafts || r[1] > 7*r[0] {
				t.Errorf("a step of %d rows has %d guesses, with %d at most", r[0], r[1], c.drafts)
			}
		}
		if rows := 0; 2*n <= 1+c.drafts { // else there is no room while all of them run
			for _, r := range e.rows {
				rows += r[0]
			}
			if accepted == 0 || accepted >= drafted || rows+accepted < generated || rows+accepted > generated+2*n {
				t.Errorf("%d sequences: %d tokens in %d rows, %d guesses of which %d were right", n, generated, rows, drafted, accepted)
			}
		}
		if m := e.Memory(); m.Reserved != 0 {
			t.Errorf("%d bytes are still reserved", m.Reserved)
		}
	}
}

// An answer that is held to a form is the same with guesses, which the form invites: in fewer steps.
func TestGuessesOfForm(t *testing.T) {
	t.Parallel()
	g, err := grammar.Schema(`{"properties":{"name_of_it":{"type":"string","maxLength":5},"what_it_costs":{"type":"integer"},"sum":{"enum":["abandoned","thin"]},"itself":{"type":"null"}},"required":["name_of_it","what_it_costs","sum","itself"]}`)
	if err != nil {
		t.Fatal(err)
	}
	texts := append(strings.Split(`{}[]:," -0123456789abcdefhilmnostuw_`, ""), `":`, `{"`, "name", "name_", "_of", `_it":`, "what_it", `,"`, "at")
	end := int32(len(texts))
	v := grammar.NewVocabulary(64, func(id int32) string { return append(texts, make([]string, 64)...)[id] }, []int32{end})
	answer := func(e engine.Engine, i int, stepped func(batch.Step)) []int32 {
		l, err := batch.New(batch.Config{Engine: e, Logger: slog.New(slog.DiscardHandler), Stepped: stepped})
		if err != nil {
			t.Fatal(err)
		}
		s := newSink()
		choose := sampler.New(sampler.Params{Temperature: float32(i%3) / 2, Seed: uint64(i), RepetitionPenalty: 1 + float32(i%2)/10, Constraint: g.Matcher(v)}, prompt(i, 9))
		l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(i, 9), MaxTokens: 200, EOS: []int32{end}, Sampler: choose, Sink: s}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		got, at := s.wait(t)
		if at.Err != nil {
			t.Fatal(at.Err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return got
	}
	for i := range 12 {
		plain, steps, rightly := newDrafting(), 0, 0
		plain.info.Drafts = 0
		want := answer(plain, i, func(batch.Step) {})
		got := answer(newDrafting(), i, func(s batch.Step) { steps, rightly = steps+1, rightly+s.Accepted })
		if !slices.Equal(got, want) {
			t.Errorf("answer %d with guesses is %v, want %v", i, got, want)
		}
		if rightly < len(got)/4 || steps > len(got)+2-rightly {
			t.Errorf("answer %d: %d tokens in %d steps, %d guesses were right", i, len(got), steps, rightly)
		}
	}
}

func TestGuess(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{{"", 3, ""}, {"ab", 3, ""}, {"aaa", 3, "a"}, {"abcab", 3, "cab"}, {"abcab", 2, "ca"}, {"abcabdab", 1, "d"}, {"abcba", 3, ""}, {"abcab", 0, ""}, {"abcab", -1, ""}} {
		var text []int32
		for _, r := range c.text {
			text = append(text, r)
		}
		if got := string(batch.Guess(text, c.n)); got != c.want {
			t.Errorf("Guess(%q, %d) = %q, want %q", c.text, c.n, got, c.want)
		}
	}
}

// While a long prompt is read, running streams get a token in every step.
func TestLongPromptDoesNotStall(t *testing.T) {
	t.Parallel()
	e := newFake()
	l := startLoop(t, e)
	stream, long := newSink(), newSink()
	stream.on = func(n int) {
		if n == 2 {
			l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(2, 160), MaxTokens: 1, Sampler: newGreedy(), Sink: long}))
		}
	}
	l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(1, 10), MaxTokens: 40, Sampler: newGreedy(), Sink: stream}))
	stream.wait(t)
	long.wait(t)
	beside := 0
	for _, rows := range e.steps {
		if len(rows) == 2 && slices.Contains(rows, 1) && slices.Contains(rows, 16) {
			beside++
		}
	}
	if beside != 10 {
		t.Errorf("the prompt of 160 tokens was read beside the stream in %d steps of 16, want 10; rows: %v", beside, e.steps)
	}
}

// A step that never comes back ends the loop: every sequence hears of it, those that had no part in the step (they
// came while it ran, or later) that it was not theirs, and the engine is not called again.
func TestHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // whose steps take no time but for the one that hangs
		e := newFake()
		hang, left := make(chan struct{}), make(chan struct{})
		var l *batch.Loop
		one, two, meanwhile, late := newSink(), newSink(), newSink(), newSink()
		failAt(3, func([]*engine.Row) error {
			l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(1, 3), MaxTokens: 9, Sampler: newGreedy(), Sink: meanwhile}))
			<-hang
			close(left)
			return nil
		})(e)
		l, err := batch.New(batch.Config{Engine: e, StepTimeout: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*sink{one, two} {
			l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(1, 3), MaxTokens: 9, Sampler: newGreedy(), Sink: s}))
		}
		if err := l.Run(t.Context()); !errors.Is(err, batch.ErrHung) {
			t.Errorf("Run = %v, want %v", err, batch.ErrHung)
		}
		l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(1, 3), MaxTokens: 9, Sampler: newGreedy(), Sink: late}))
		for i, s := range []*sink{one, two, meanwhile, late} {
			want := batch.ErrHung
			if i >= 2 {
				want = batch.ErrAbandoned
			}
			if _, end := s.wait(t); !errors.Is(end.Err, want) {
				t.Errorf("sequence %d ended with %+v, want %v", i, end, want)
			}
		}
		close(hang)
		<-left
	})
}

func TestAddAfterTheEnd(t *testing.T) {
	t.Parallel()
	l, err := batch.New(batch.Config{Engine: newFake(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("over")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	if err := l.Run(ctx); err != nil {
		t.Errorf("Run = %v after its context ended", err)
	}
	s := newSink()
	l.Add(batch.NewSequence(batch.Spec{Prompt: prompt(1, 3), MaxTokens: 1, Sampler: newGreedy(), Sink: s}))
	if _, end := s.wait(t); !errors.Is(end.Err, cause) {
		t.Errorf("end %+v, want cause %v", end, cause)
	}
}

func TestLimitsThatCannotCut(t *testing.T) {
	t.Parallel()
	e := newFake()
	e.info.MaxStepTokens = 2
	if _, err := batch.New(batch.Config{Engine: e}); err == nil {
		t.Error("New accepted rows of 2 tokens with at least 2: a prompt of 3 cannot be cut")
	}
}

// An engine that finds the likeliest token by itself gives what a greedy sampler picks; another sampler is asked.
func TestLikeliest(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]sampler.Params{"greedy": {}, "drawn": {Temperature: 1, Seed: 7}, "penalized": {PresencePenalty: 3}} {
		var want []int32
		for _, e := range []engine.Engine{newFake(), finding{newFake()}} {
			s := newSink()
			startLoop(t, e).Add(batch.NewSequence(batch.Spec{Prompt: prompt(3, 20), MaxTokens: 30, Sampler: sampler.New(p, nil), Sink: s}))
			got, end := s.wait(t)
			if end.Err != nil || len(got) != 30 {
				t.Fatalf("%s: %d tokens, %+v", name, len(got), end)
			}
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v where the engine finds the likeliest token, %v where it does not", name, got, want)
			}
		}
	}
}

// A step of many sequences samples on several processors; a sampler that panics there ends its own sequence only.
func TestSamplersAtOnce(t *testing.T) {
	t.Parallel()
	want := alone(t, prompt(1, 5), 20)
	l := startLoop(t, newFake())
	var seqs []*batch.Sequence
	var sinks []*sink
	for i := range 16 {
		s, choose := newSink(), batch.Sampler(newGreedy())
		switch i {
		case 5:
			choose = broken{"broken"}
		case 6:
			choose = broken{sampler.ErrNone}
		}
		sinks = append(sinks, s)
		seqs = append(seqs, batch.NewSequence(batch.Spec{Prompt: prompt(1, 5), MaxTokens: 20, Sampler: choose, Sink: s}))
	}
	l.Add(seqs...)
	for i, s := range sinks {
		got, end := s.wait(t)
		if i == 5 {
			if end.Err == nil || !strings.Contains(end.Err.Error(), "panicked") {
				t.Errorf("the broken sampler's sequence ended with %+v", end)
			}
			continue
		}
		if i == 6 { // where nothing may follow, nothing may on another worker
			if contracts.CodeOf(end.Err) != contracts.CodeInvalidArgument {
				t.Errorf("the sequence of which nothing may follow ended with %+v", end)
			}
			continue
		}
		if end.Err != nil || !slices.Equal(got, want) {
			t.Errorf("sequence %d: %v, %+v; want %v", i, got, end, want)
		}
	}
}

type broken struct{ with any }

func (b broken) Sample([]float32, int) sampler.Choice { panic(b.with) }
func (broken) Accept(int32)                           {}
