package emit_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker/batch"
	"github.com/pelton-run/pelton/worker/emit"
)

// fakeLog keeps records and can be told to hold or refuse them.
type fakeLog struct {
	mu      sync.Mutex
	records []contracts.Chunk
	hold    chan struct{} // while set, an append waits for one value
	refuse  error
	arrived chan struct{} // optional: told before each append
}

func (l *fakeLog) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.records))
}

func (l *fakeLog) Append(_ context.Context, c *contracts.Chunk) error {
	if l.arrived != nil {
		l.arrived <- struct{}{}
	}
	if l.hold != nil {
		<-l.hold
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		return l.refuse
	}
	l.records = append(l.records, *c)
	return nil
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func vocabulary(t fataler) *tokenizer.Tokenizer {
	t.Helper()
	v, err := tokenizer.Parse(sim.TokenizerJSON(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// text and tokens of one choice in a log.
func (l *fakeLog) choice(i int) (text string, tokens []int32) {
	for _, c := range l.records {
		if c.Choice == i {
			text += c.Text
			tokens = append(tokens, c.Tokens...)
		}
	}
	return text, tokens
}

// However tokens are grouped into records and wherever another writer takes over: the text is that of
// the tokens up to the first stop string, in whole characters, and every index is right.
func TestTextIsAFunctionOfTokens(t *testing.T) {
	t.Parallel()
	v := vocabulary(t)
	rapid.Check(t, func(t *rapid.T) {
		source := rapid.StringOfN(rapid.SampledFrom([]rune("abc é漢😀")), 0, 40, -1).Draw(t, "text")
		stops := rapid.SliceOfN(rapid.StringOfN(rapid.SampledFrom([]rune("abc é漢")), 1, 4, -1), 0, 3).Draw(t, "stops")
		bytes := []byte(source)
		if n := len(bytes); n > 0 {
			bytes = bytes[:n-rapid.IntRange(0, min(2, n)).Draw(t, "bytes cut off")]
		}
		stopper := emit.NewStopper(stops)
		want, _ := stopper.Push(v.Decode(ids(bytes)))
		want += stopper.Flush()

		log := &fakeLog{}
		var emitted []int32
		for cut := 0; ; {
			next := min(len(bytes), cut+rapid.IntRange(1, 30).Draw(t, "tokens of this holder"))
			stopped := false
			w := emit.New(emit.Config{Log: log, Vocabulary: v, Choices: []emit.Start{{Tokens: emitted}}, Stops: stops, FlushTokens: rapid.IntRange(1, 9).Draw(t, "flush"),
				Stop: func(int) { stopped = true }, Fail: func(error) {}})
			if !w.Complete(0) {
				for _, b := range bytes[cut:next] {
					w.Token(0, batch.Token{ID: int32(b)})
				}
				end := batch.End{Err: errors.New("handed on")}
				if next == len(bytes) {
					end = batch.End{Finish: contracts.FinishLength}
				}
				w.Ended(0, end)
			}
			err := w.Run(t.Context())
			_, emitted = log.choice(0)
			if err == nil {
				final, err := w.Final(t.Context(), nil)
				if err != nil || final.Index != len(emitted) || final.Usage.CompletionTokens != len(emitted) {
					t.Fatalf("final %+v after %d tokens: %v", final, len(emitted), err)
				}
				if (final.Finish == contracts.FinishStop) != stopper.Stopped() {
					t.Fatalf("finish %q (told the loop: %v), stop string in the text: %v", final.Finish, stopped, stopper.Stopped())
				}
				break
			}
			cut = len(emitted)
		}
		got, tokens := log.choice(0)
		if got != want || !slices.Equal(tokens, ids(bytes)[:len(tokens)]) {
			t.Fatalf("tokens %v, stops %q: got %q, want %q", bytes, stops, got, want)
		}
		at := 0
		for _, c := range log.records {
			if c.Index != at && !c.Final() {
				t.Fatalf("index %d after %d tokens", c.Index, at)
			}
			at += len(c.Tokens)
		}
	})
}

func ids(b []byte) []int32 {
	out := make([]int32, len(b))
	for i := range b {
		out[i] = int32(b[i])
	}
	return out
}

// While a record is on its way, tokens gather in the next one; one that would be too large is split.
func TestGathering(t *testing.T) {
	t.Parallel()
	log := &fakeLog{hold: make(chan struct{}), arrived: make(chan struct{}, 100)}
	top := 1
	w := emit.New(emit.Config{Log: log, Vocabulary: vocabulary(t), Choices: make([]emit.Start, 1), Logprobs: &top, Stop: func(int) {}, Fail: func(error) {}})
	done := make(chan error)
	go func() { done <- w.Run(context.Background()) }()
	w.Token(0, batch.Token{ID: 'a'})
	<-log.arrived // the first token went at once
	for range 1500 {
		w.Token(0, batch.Token{ID: 'b'})
	}
	w.Ended(0, batch.End{Finish: contracts.FinishLength})
	close(log.hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for _, c := range log.records {
		sizes = append(sizes, len(c.Tokens))
	}
	if !slices.Equal(sizes, []int{1, 1024, 476}) {
		t.Errorf("records of %v tokens, want 1, 1024, 476", sizes)
	}
	if w.Tokens() != 1501 {
		t.Errorf("Tokens() = %d, want 1501", w.Tokens())
	}
}

// A slow stream's tokens go at once, a fast one's are gathered for the flush interval.
func TestFlushInterval(t *testing.T) {
	t.Parallel()
	log := &fakeLog{arrived: make(chan struct{}, 100)}
	w := emit.New(emit.Config{Log: log, Vocabulary: vocabulary(t), Choices: make([]emit.Start, 1), Pace: emit.NewPace(time.Hour-1, 0, 1), FlushTokens: 4, Stop: func(int) {}, Fail: func(error) {}})
	done := make(chan error)
	go func() { done <- w.Run(context.Background()) }()
	w.Token(0, batch.Token{ID: 'a'})
	<-log.arrived
	for range 4 {
		w.Token(0, batch.Token{ID: 'b'})
	}
	<-log.arrived // four have gathered
	w.Token(0, batch.Token{ID: 'c'})
	w.Ended(0, batch.End{Finish: contracts.FinishStop})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if text, _ := log.choice(0); text != "abbbbc" || len(log.records) != 3 {
		t.Errorf("%q in %d records, want abbbbc in 3", text, len(log.records))
	}
}

// The first token of a choice goes at once, also while another choice's tokens are gathered.
func TestFirstTokenOfEachChoice(t *testing.T) {
	t.Parallel()
	v := vocabulary(t)
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{}
		w := emit.New(emit.Config{Log: log, Vocabulary: v, Choices: make([]emit.Start, 2), Pace: emit.NewPace(time.Minute, 0, 1), FlushTokens: 4, Stop: func(int) {}, Fail: func(error) {}})
		done := make(chan error)
		go func() { done <- w.Run(context.Background()) }()
		for _, choice := range []int{0, 0, 1} {
			w.Token(choice, batch.Token{ID: 'a'})
			synctest.Wait()
		}
		if len(log.records) != 2 || log.records[1].Choice != 1 {
			t.Errorf("records %+v, want the first token of both choices", log.records)
		}
		for choice := range 2 {
			w.Ended(choice, batch.End{Finish: contracts.FinishStop})
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A log that refuses ends the job's choices, and the writer waits until the batch has let go of them.
func TestRefusedRecord(t *testing.T) {
	t.Parallel()
	refused := errors.New("fenced")
	log := &fakeLog{refuse: refused}
	var w *emit.Writer
	var failed error
	w = emit.New(emit.Config{Log: log, Vocabulary: vocabulary(t), Choices: make([]emit.Start, 2), Stop: func(int) {}, Fail: func(err error) {
		failed = err
		for i := range 2 {
			w.Ended(i, batch.End{Err: err})
		}
	}})
	w.Token(1, batch.Token{ID: 'a'})
	if err := w.Run(t.Context()); !errors.Is(err, refused) || !errors.Is(failed, refused) || len(log.records) != 0 {
		t.Errorf("Run = %v, told the batch %v, %d records", err, failed, len(log.records))
	}
}

// With several choices each one's last piece says how it finished, but for the last to end, whose
// finish is in the final record.
func TestFinishes(t *testing.T) {
	t.Parallel()
	log := &fakeLog{}
	w := emit.New(emit.Config{Log: log, Vocabulary: vocabulary(t), Prompt: 3, Choices: make([]emit.Start, 3), Stops: []string{"xy"}, Stop: func(int) {}, Fail: func(error) {}})
	for i, text := range []string{"0x", "1xy2", "2"} {
		for _, b := range []byte(text) {
			w.Token(i, batch.Token{ID: int32(b)})
		}
		w.Ended(i, batch.End{Finish: contracts.FinishLength, Shared: 2 - i}) // of the first choice it counts
	}
	if err := w.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Final(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range 3 {
		text, _ := log.choice(i)
		got = append(got, text)
		for _, c := range log.records {
			if c.Choice == i && c.Finish != "" {
				got = append(got, c.Finish)
			}
		}
	}
	if want := "0x length 1 stop 2 length"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, " "), want)
	}
	last := log.records[len(log.records)-1]
	if !last.Final() || last.Index != 2 || *last.Usage != (contracts.Usage{PromptTokens: 3, CompletionTokens: 6, TotalTokens: 9, CachedTokens: 2}) {
		t.Errorf("final record %+v usage %+v", last, last.Usage)
	}
}

// A job that is canceled loses no text that was held back for a stop string, whichever choice it is of, and a
// choice whose text is complete is not run again.
func TestHeldBackOfAll(t *testing.T) {
	t.Parallel()
	log := &fakeLog{}
	w := emit.New(emit.Config{Log: log, Vocabulary: vocabulary(t), Choices: make([]emit.Start, 3), Stops: []string{"xy"}, Stop: func(int) {}, Fail: func(error) {}})
	canceled := contracts.Errorf(contracts.CodeCanceled, "canceled")
	texts := []string{"0x", "1x", "2x"}
	for i, text := range texts {
		for _, b := range []byte(text) {
			w.Token(i, batch.Token{ID: int32(b)})
		}
		w.Ended(i, batch.End{Err: canceled})
	}
	if err := w.Run(t.Context()); !errors.Is(err, canceled) {
		t.Fatal(err)
	}
	final, err := w.Final(t.Context(), canceled)
	if err != nil || final.Code != contracts.CodeCanceled || final.Finish != contracts.FinishCancelled {
		t.Fatalf("final record %+v, %v", final, err)
	}
	var order stream.Sequencer
	read := make([]string, len(texts))
	for i, c := range log.records {
		if c, gap := order.NextAt(&c, uint64(i+1), uint64(i)); c == nil || gap {
			t.Fatalf("record %d is not let through", i)
		}
		read[c.Choice] += c.Text
	}
	if !slices.Equal(read, texts) || order.Err() != nil {
		t.Errorf("read %q, want %q; %v", read, texts, order.Err())
	}
}

// The interval follows the records that the broker stores a second, whoever writes them, between its bounds.
func TestPace(t *testing.T) {
	t.Parallel()
	const least, most, budget = 10 * time.Millisecond, 100 * time.Millisecond, 1000
	p := emit.NewPace(least, most, budget)
	now, seq, store := time.Unix(0, 0), uint64(7), time.Millisecond
	run := func(rate uint64, seconds int) {
		for range 100 * seconds {
			now, seq = now.Add(10*time.Millisecond), seq+rate/100
			p.Stored(seq, store, now)
		}
	}
	for _, step := range []struct {
		rate uint64
		want time.Duration
	}{{500, least}, {2000, most}, {100, least}, {5000, most}} {
		run(step.rate, 3)
		if got := p.Interval(); got != step.want || p.Calm() != (got == least) {
			t.Errorf("after three seconds of %d records a second the interval is %v, want %v", step.rate, got, step.want)
		}
	}
	now = now.Add(time.Hour) // a silence says nothing
	p.Stored(seq+1_000_000, store, now)
	if got := p.Interval(); got != most {
		t.Errorf("after a silence the interval is %v, want %v as before", got, most)
	}
	run(budget, 3)
	if got := p.Interval(); got < most*9/10 {
		t.Errorf("at the budget the interval went to %v, want it to stay", got)
	}
	for _, slow := range []struct{ store, want time.Duration }{{20 * time.Millisecond, 160 * time.Millisecond}, {time.Hour, emit.SlowMost}, {time.Millisecond, least}} {
		store = slow.store
		run(budget/10, 3)
		if got := p.Interval(); got < slow.want-time.Millisecond || got > slow.want {
			t.Errorf("while a record takes %v to store the interval is %v, want %v", store, got, slow.want)
		}
	}
}
