package emit

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/stream"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker/batch"
)

// Log is where records go; a lease.Chain is one. Append returns when the record is stored, Last is the number
// that it was stored under.
type Log interface {
	Append(ctx context.Context, c *contracts.Chunk) error
	Last() uint64
}

// Vocabulary is the decoding side of a model's tokenizer; a tokenizer.Tokenizer is one.
type Vocabulary interface {
	NewDecoder() *tokenizer.Decoder
	TokenBytes(id int32) []byte
	Text(id int32) string
}

// How records are cut unless the configuration says otherwise.
const (
	FlushInterval = 10 * time.Millisecond // least time between two records of a choice
	FlushTokens   = 8                     // tokens that go at once
)

// recordWeight bounds one record: tokens, each with its rivals.
const recordWeight = 2048

// Start is what the stream holds already of one choice.
type Start struct {
	Tokens []int32
	Finish string
}

// Config of a [Writer].
type Config struct {
	Log        Log
	Vocabulary Vocabulary
	Claim      contracts.Claim // repeated in the final record
	Prompt     int             // tokens, for the usage
	Choices    []Start         // one for each choice
	Checksum   stream.Checksum // of what the stream holds; the writer's from now on
	Stops      []string
	Logprobs   *int // nil: none; k: with the k most likely rivals

	Pace        *Pace // how long records wait for more tokens; default 10 ms, longer only while the log is slow
	FlushTokens int   // tokens that do not wait any longer, as long as Pace is at its least; default 8

	// Stop ends a choice in the batch because its text is complete; nil error.
	// Fail ends all choices because records cannot be written.
	Stop func(choice int)
	Fail func(cause error)

	Claimed    time.Time // when this holder began
	FirstToken time.Time // when an earlier holder's first token was stored; zero if there was none

	First   func(sinceSubmit time.Duration)           // optional: the job's first token was generated here
	Emitted func(tokens int, sincePrev time.Duration) // optional: a record was accepted
}

// Writer is the sink of one job. The methods of [batch.Sink] may be called from any goroutine and do
// not block; Run and Final belong to one.
type Writer struct {
	cfg     Config
	choices []*choice
	written atomic.Int64 // tokens over all choices
	turn    int          // choice that may write next
	spare   []event      // memory for the next events
	shared  int          // prompt tokens that the worker had computed before
	failure error        // the first failure of a choice, or of the log
	broken  bool         // the log takes nothing more

	mu     sync.Mutex
	events []event
	deaf   int // tokens that Run need not be woken for, because it wakes by itself in time
	signal chan struct{}

	prefilled time.Time // guarded by mu until all choices are closed
	lastToken time.Time
	firstAt   time.Time
	lastWrite time.Time
}

// event is what the loop said: a token, or (end set) the end of a choice.
type event struct {
	choice int
	token  batch.Token
	end    *batch.End
}

// New makes a writer for a job whose stream holds cfg.Choices.
func New(cfg Config) *Writer {
	if cfg.Pace == nil {
		cfg.Pace = NewPace(FlushInterval, FlushInterval, RecordRate)
	}
	cfg.FlushTokens = cmp.Or(cfg.FlushTokens, FlushTokens)
	w := &Writer{cfg: cfg, signal: make(chan struct{}, 1), firstAt: cfg.FirstToken}
	for _, s := range cfg.Choices {
		c := newChoice(cfg.Vocabulary, cfg.Stops)
		c.restore(s)
		w.choices = append(w.choices, c)
		w.written.Add(int64(c.written))
	}
	return w
}

// Complete tells whether a choice needs no more tokens, so that it must not be run.
func (w *Writer) Complete(choice int) bool { return w.choices[choice].closed }

// Tokens is how many tokens the stream holds over all choices; safe from any goroutine.
func (w *Writer) Tokens() int { return int(w.written.Load()) }

// Index is how many tokens the stream holds of choice 0. It belongs to the goroutine in Run.
func (w *Writer) Index() int { return w.choices[0].written }

// Prefilled implements [batch.Sink].
func (w *Writer) Prefilled(_ int, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.prefilled.IsZero() {
		w.prefilled = at
	}
}

// Token implements [batch.Sink].
func (w *Writer) Token(choice int, t batch.Token) { w.hear(event{choice: choice, token: t}) }

// Ended implements [batch.Sink].
func (w *Writer) Ended(choice int, e batch.End) { w.hear(event{choice: choice, end: &e}) }

func (w *Writer) hear(e event) {
	w.mu.Lock()
	w.events = append(w.events, e)
	asleep := e.end == nil && len(w.events) < w.deaf
	w.mu.Unlock()
	if asleep {
		return
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// Run writes records until every choice has ended and its tokens are written; what remains is the
// final record. It returns nil, the first failure among the choices (the cause given to batch.Loop.
// End, or what went wrong), or what the log refused with. ctx only bounds the appends.
func (w *Writer) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.absorb()
		wait, wrote := w.write(ctx, time.Now())
		if wrote {
			continue
		}
		if w.idle() {
			return w.failure
		}
		if w.sleep(wait) {
			timer.Reset(wait)
			select {
			case <-w.signal:
			case <-timer.C:
			}
		}
	}
}

// sleep tells whether nothing was heard in between, and which tokens need not wake Run: a record that
// waits until a known time takes them along. What may end a choice is heard at once.
func (w *Writer) sleep(wait time.Duration) bool {
	deaf := 0
	if wait < time.Hour && len(w.cfg.Stops) == 0 {
		deaf = w.patience()
		for _, c := range w.choices {
			switch {
			case len(c.pending) > 0:
				deaf = min(deaf, w.patience()-len(c.pending[0].Tokens))
			case !c.closed && c.since.IsZero():
				deaf = 0 // its first token does not wait
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaf = deaf
	return len(w.events) == 0
}

// patience is how many tokens a record may have before it goes at once.
func (w *Writer) patience() int {
	if w.cfg.Pace.Calm() {
		return w.cfg.FlushTokens
	}
	return recordWeight
}

// absorb turns what the loop said into pending text.
func (w *Writer) absorb() {
	w.mu.Lock()
	events := w.events
	w.events, w.spare = w.spare[:0], events
	w.deaf = 0
	w.mu.Unlock()
	for _, e := range events {
		c := w.choices[e.choice]
		if e.end != nil && e.choice == 0 {
			w.shared = e.end.Shared
		}
		switch {
		case e.end == nil:
			w.token(e.choice, c, e.token)
		case e.end.Err != nil && c.finish == "":
			c.closed, c.failure = true, e.end.Err
			if w.failure == nil {
				w.failure = e.end.Err
				w.cfg.Fail(e.end.Err) // one choice fails: the job fails
			}
		default:
			c.closed = true
			c.finish = cmp.Or(c.finish, e.end.Finish)
		}
	}
}

func (w *Writer) token(i int, c *choice, t batch.Token) {
	if c.finish != "" || w.broken {
		return // generated before the loop heard of the stop
	}
	if w.firstAt.IsZero() {
		w.firstAt = t.At
		if w.cfg.First != nil {
			w.cfg.First(w.sinceSubmit(t.At))
		}
	}
	w.lastToken = t.At
	most := recordWeight
	var l *contracts.TokenLogprob
	if top := w.cfg.Logprobs; top != nil {
		l = logprob(w.cfg.Vocabulary, t, *top)
		most = max(1, recordWeight/(1+*top))
	}
	if c.push(t.ID, l, most) {
		w.cfg.Stop(i)
	}
}

// idle tells whether the loop has nothing more to say and nothing is left to write.
func (w *Writer) idle() bool {
	for _, c := range w.choices {
		if !c.closed || (!w.broken && len(c.pending) > 0) {
			return false
		}
	}
	return true
}

// write appends at most one record. If none is due, wait says when one will be.
func (w *Writer) write(ctx context.Context, now time.Time) (wait time.Duration, wrote bool) {
	wait = time.Hour
	if w.broken {
		return wait, false
	}
	for range w.choices {
		i := w.turn
		w.turn = (w.turn + 1) % len(w.choices)
		c := w.choices[i]
		due, in := w.due(c, now)
		if !due {
			wait = min(wait, in)
			continue
		}
		w.append(ctx, c, w.cut(i, c))
		return 0, true
	}
	return wait, false
}

// due tells whether a choice has a record to write now, or in how long.
func (w *Writer) due(c *choice, now time.Time) (bool, time.Duration) {
	switch {
	case c.done:
		return false, time.Hour
	case w.ends(c):
		return true, 0
	case len(c.pending) == 0:
		return false, time.Hour
	case c.closed, c.finish != "":
		return true, 0
	}
	in := w.cfg.Pace.Interval() - now.Sub(c.since)
	return in <= 0 || len(c.pending[0].Tokens) >= w.patience(), in
}

// ends tells whether the last piece of c shall say how it finished: it did, the job has not failed, and
// another choice is left to carry the final record.
func (w *Writer) ends(c *choice) bool {
	if !c.closed || c.done || c.failure != nil || w.failure != nil {
		return false
	}
	for _, o := range w.choices {
		if o != c && !o.done {
			return true
		}
	}
	return false
}

// cut takes the next record out of what is pending.
func (w *Writer) cut(i int, c *choice) *contracts.Chunk {
	var p contracts.Chunk
	if len(c.pending) > 0 {
		p = c.pending[0]
		c.pending = c.pending[1:]
	}
	p.Index, p.Choice = c.written, i
	if len(c.pending) == 0 && w.ends(c) {
		p.Finish = c.finish
		p.Text += c.rest()
	}
	return &p
}

func (w *Writer) append(ctx context.Context, c *choice, p *contracts.Chunk) {
	began := time.Now()
	if err := w.cfg.Log.Append(ctx, p); err != nil {
		w.broken = true
		w.failure = err
		w.cfg.Fail(err)
		return
	}
	now := time.Now()
	w.cfg.Pace.Stored(w.cfg.Log.Last(), now.Sub(began), now)
	c.since = now
	c.written += len(p.Tokens)
	w.cfg.Checksum.Add(p)
	c.done = p.Finish != ""
	w.written.Add(int64(len(p.Tokens)))
	if w.cfg.Emitted != nil {
		since := time.Duration(0)
		if !w.lastWrite.IsZero() {
			since = now.Sub(w.lastWrite)
		}
		w.cfg.Emitted(len(p.Tokens), since)
	}
	w.lastWrite = now
}

func (w *Writer) sinceSubmit(t time.Time) time.Duration {
	return max(0, t.Sub(time.UnixMilli(w.cfg.Claim.Submitted)))
}
