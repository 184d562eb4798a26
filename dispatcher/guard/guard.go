// Package guard lets jobs through or sheds them by what came of those before: the ladder of each model, and
// behind it the breakers of its classes and workers.
//
// It belongs to step 4 of the walk: dispatcher/submit.go asks it before anything is computed for a job. Previous
// step: dispatcher/intake.go or the gateway; next: dispatcher/admission. What it learns comes from the records
// that dispatcher/relay hears, and from the other dispatchers, to whom it tells each second what it saw: so all
// come to the same levels, and none asks another while a job waits.
//
// It decides with dispatcher/ladder and dispatcher/breaker and talks to nobody itself. Safe for concurrent use.
package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/retry"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/breaker"
	"github.com/pelton-run/pelton/dispatcher/ladder"
	"github.com/pelton-run/pelton/dispatcher/priority"
)

const (
	// Every is how often the ladders look at what they saw, and tell the others.
	Every = time.Second
	// maxStarts bounds the jobs whose first token is waited for to judge their worker.
	maxStarts = 65_536
	// startLasts is how long one is waited for at least when there are many.
	startLasts = 10 * time.Minute
	// maxTenants bounds the tenants whose repeats are counted.
	maxTenants = 65_536
	// again is the least that a shed caller is told to wait; it is spread over twice the time.
	again = time.Second
	// patience is how long a queued job may be without a record before it is tried whether one can be stored.
	patience = 5 * time.Second
	// bytesPerToken is about what a token of text has.
	bytesPerToken = 4
)

// Config of a [Guard]. All fields but Models, Objectives, Moved and Top are needed.
type Config struct {
	Name       string   // of the dispatcher
	Models     []string // whose jobs may be shed
	Objectives admission.Objectives
	Parts      []string                    // of the broker
	Queue      string                      // the part that takes jobs
	Records    string                      // the part that takes the records of jobs
	Write      func(context.Context) error // stores a record that belongs to no job, which is heard as others are; nil: Records is not looked after
	Away       func(error) bool            // tells errors that mean that the broker did not answer
	Logger     *slog.Logger
	Live       func() int                              // workers
	Rest       func(worker string)                     // tells one to take no jobs for a while
	Moved      func(event *contracts.Event)            // hears of every step of every ladder and breaker; must not block
	Say        func(subject string, data []byte) error // publishes
	Top        func(model string, rung float64)        // hears each second where a ladder stands
}

// Guard of all models of a dispatcher.
type Guard struct {
	cfg     Config
	ladders map[string]*ladder.Ladder
	classes *breaker.Classes
	workers *breaker.Workers
	broker  *breaker.Broker

	starts  sync.Map // live subject -> start
	pending atomic.Int64

	hears sync.Mutex // Hear and Tick of the ladders

	unheard atomic.Pointer[time.Time] // when the first job was queued since a record was heard last

	mu      sync.Mutex
	repeats map[string]*retry.Budget // by tenant
}

// start is a job that a worker took and that has no token yet.
type start struct {
	worker, model string
	class         contracts.Class
	at            time.Time
}

// level is what a dispatcher tells the others of a model.
type level struct {
	By   string           `json:"by"`
	Top  float64          `json:"top"`
	Seen [4]ladder.Counts `json:"seen"`
}

// New returns a guard that lets everything through.
func New(cfg Config) *Guard {
	if cfg.Moved == nil {
		cfg.Moved = func(*contracts.Event) {}
	}
	if cfg.Top == nil {
		cfg.Top = func(string, float64) {}
	}
	g := &Guard{cfg: cfg, ladders: map[string]*ladder.Ladder{}, repeats: map[string]*retry.Budget{}}
	g.classes = breaker.NewClasses(g.moved, cfg.Models...)
	g.workers = breaker.NewWorkers(g.moved, cfg.Live, cfg.Rest)
	g.broker = breaker.NewBroker(g.moved, cfg.Away, cfg.Parts...)
	for _, model := range cfg.Models {
		g.ladders[model] = ladder.New()
	}
	return g
}

// moved says that a ladder or a breaker moved: to the log, the trace and whoever listens on NATS.
func (g *Guard) moved(c breaker.Change) {
	g.cfg.Logger.Warn("overload control moved", "kind", c.Kind, "of", c.Of, "from", c.From, "to", c.To, "reason", c.Reason)
	e := &contracts.Event{V: contracts.Version, At: time.Now().UnixMilli(), Dispatcher: g.cfg.Name, Kind: c.Kind, Of: c.Of, From: c.From, To: c.To, Reason: c.Reason}
	g.cfg.Moved(e)
	data, err := contracts.Encode(e)
	if err == nil {
		err = g.cfg.Say(subject.SLOEvent(e.Kind), data)
	}
	if err != nil {
		g.cfg.Logger.Debug("event not sent", "kind", e.Kind, "error", err)
	}
}

// Ask runs f, which asks a part of the broker, unless its breaker is open; then the error is unavailable.
func (g *Guard) Ask(part string, f func() error) error {
	if part == g.cfg.Queue && g.Out(g.cfg.Records) {
		return breaker.Refusal(g.cfg.Records) // what is queued could not run
	}
	err := g.broker.Do(part, f)
	if err == nil && part == g.cfg.Queue {
		g.unheard.CompareAndSwap(nil, new(time.Now()))
	}
	return err
}

// Out tells whether a part of the broker does not answer. Records is out until it is known that it answers again;
// other parts only until somebody has to try.
func (g *Guard) Out(part string) bool {
	return g.broker.Out(part) || part == g.cfg.Records && !g.broker.Closed(part)
}

// heard says that a record came: they are stored.
func (g *Guard) heard() {
	if g.unheard.Load() != nil {
		g.unheard.Store(nil)
	}
}

// tryRecords stores records of no job until Records is known to take them, when jobs were queued and none of theirs
// was heard for a while, or none was taken: workers write them, and nobody else would notice that they cannot.
func (g *Guard) tryRecords(ctx context.Context, now time.Time) {
	since := g.unheard.Load()
	for first := since != nil && now.Sub(*since) > patience; first || !g.broker.Closed(g.cfg.Records); first = false {
		if g.broker.Do(g.cfg.Records, func() error { return g.cfg.Write(ctx) }) != nil {
			return
		}
	}
}

// Allow is an error while jobs such as this one are shed. A job that is let through ends with First or Gone.
func (g *Guard) Allow(j *contracts.Job, now time.Time) error {
	l := g.ladders[j.Model]
	if l == nil {
		return nil
	}
	if !l.Allow(ladder.Rung(j.Class, j.Tenant, j.ID, retries(j), now), tokens(j)) {
		return &contracts.Error{Code: contracts.CodeOverloaded, RetryAfterMS: again.Milliseconds() + rand.Int64N(again.Milliseconds()),
			Message: fmt.Sprintf("the fleet is overloaded: it serves %s only in part for a while: retry after the time given", j.Class)}
	}
	return g.classes.Allow(j.Model, j.Class, priority.Key{Tenant: j.Tenant, Job: j.ID})
}

// tokens is about what a job's input has.
func tokens(j *contracts.Job) int {
	text := len(j.Prompt)
	for i := range j.Messages {
		text += len(j.Messages[i].Content)
	}
	for _, t := range j.Input {
		text += len(t)
	}
	return text/bytesPerToken + len(j.Tokens)
}

// retries is how often a job was refused before, as far as its producer says.
func retries(j *contracts.Job) int {
	n, err := strconv.Atoi(j.Labels[retry.Label])
	if err != nil {
		return 0
	}
	return max(0, n)
}

// Refused counts a job as a request or a repeat of its tenant. e is why it is refused, nil when it is not; what
// comes back is e, or one that says not to come again because the tenant repeats too much.
func (g *Guard) Refused(j *contracts.Job, e *contracts.Error) *contracts.Error {
	if g.repeatable(j.Tenant, retries(j) > 0) || e == nil || !e.Code.Info().Retryable {
		return e
	}
	final := *e
	final.NoRetry = true
	return &final
}

func (g *Guard) repeatable(tenant string, repeat bool) bool {
	g.mu.Lock()
	b := g.repeats[tenant]
	if b == nil {
		if len(g.repeats) >= maxTenants {
			clear(g.repeats)
		}
		b = retry.NewBudget()
		g.repeats[tenant] = b
	}
	g.mu.Unlock()
	if repeat {
		return b.Take()
	}
	b.First()
	return true
}

// Record takes a claim, a release or a final record of any job of the fleet. first tells that a worker took a job
// that has no token yet.
func (g *Guard) Record(live string, job priority.Key, c *contracts.Chunk, now time.Time) (first bool) {
	g.heard()
	if c.Claim == nil {
		return false
	}
	released := c.Claim.Released
	switch {
	case released == contracts.ReleaseFailed, released == contracts.ReleaseLost, c.Final() && c.Code == contracts.CodeInternal:
		g.workers.Outcome(c.Claim.Worker, true)
	case c.Final() && c.Code == "":
		g.workers.Outcome(c.Claim.Worker, false)
	}
	if c.Final() || released != "" {
		g.over(live)
		g.Gone(c.Claim.Model, c.Claim.Class, job)
		return false
	}
	first = c.Index == 0 && c.Claim.Attempt == 1
	if first {
		g.taken(live, c.Claim.Worker, c.Claim.Model, c.Claim.Class, now)
	}
	return first
}

func (g *Guard) taken(live, worker, model string, class contracts.Class, now time.Time) {
	if g.cfg.Objectives[class] <= 0 {
		return
	}
	if _, known := g.starts.Swap(live, start{worker, model, class, now}); !known && g.pending.Add(1) > maxStarts {
		g.over(live)
	}
}

// forget drops the jobs of which nothing was heard for long: their records were missed.
func (g *Guard) forget(now time.Time) {
	if g.pending.Load() < maxStarts/2 {
		return
	}
	g.starts.Range(func(live, of any) bool {
		if now.Sub(of.(start).at) > startLasts {
			g.over(live.(string))
		}
		return true
	})
}

// over waits for the job no more.
func (g *Guard) over(live string) (of start, known bool) {
	v, known := g.starts.LoadAndDelete(live)
	if !known {
		return of, false
	}
	g.pending.Add(-1)
	return v.(start), true
}

// Piece says that a piece of a job was heard: the first one tells how fast its worker is.
func (g *Guard) Piece(live string, now time.Time) {
	g.heard()
	if s, known := g.over(live); known {
		g.workers.First(s.worker, s.model, now.Sub(s.at), g.cfg.Objectives[s.class])
	}
}

// promised is what counts of what a job wants: no less than what its class is promised, and nothing in a class
// without a promise. What a tenant asks for beyond that is its own affair: others must not be shed for it.
func (g *Guard) promised(class contracts.Class, want time.Duration) time.Duration {
	if own := g.cfg.Objectives[class]; own > 0 && want > 0 {
		return max(own, want)
	}
	return 0
}

// Waited says how long a job of this dispatcher had waited when a worker took it.
func (g *Guard) Waited(model string, class contracts.Class, waited, want time.Duration) {
	if l := g.ladders[model]; l != nil {
		l.Taken(class, waited, g.promised(class, want))
	}
}

// First says when the first token of a job of this dispatcher came that was wanted within want; 0 is whenever.
func (g *Guard) First(model string, class contracts.Class, job priority.Key, took, want time.Duration) {
	l := g.ladders[model]
	if want = g.promised(class, want); l == nil || want <= 0 {
		g.Gone(model, class, job)
		return
	}
	l.First(class, took <= want)
	g.classes.First(model, class, job, took <= want)
}

// Gone says that a job that was let through has no first token to tell of.
func (g *Guard) Gone(model string, class contracts.Class, job priority.Key) {
	g.classes.Gone(model, class, job)
}

// Run looks at the ladders and at Records each second until ctx ends.
func (g *Guard) Run(ctx context.Context) {
	var tries sync.WaitGroup
	defer tries.Wait()
	for range tick.After(ctx, Every) {
		g.Tick()
		if g.cfg.Write != nil {
			tries.Go(func() { g.tryRecords(ctx, time.Now()) })
		}
	}
}

// Tick is one look.
func (g *Guard) Tick() {
	g.forget(time.Now())
	for model, l := range g.ladders {
		g.hears.Lock()
		seen, own, c, changed := l.Tick()
		g.hears.Unlock()
		if changed {
			g.moved(breaker.Change{Kind: "ladder", Of: model, From: fmt.Sprintf("%.1f", c.From), To: fmt.Sprintf("%.1f", c.To), Reason: c.Reason})
		}
		g.cfg.Top(model, c.To)
		if seen == ([4]ladder.Counts{}) && own == ladder.Top {
			continue
		}
		data, err := json.Marshal(level{g.cfg.Name, own, seen})
		if err == nil {
			err = g.cfg.Say(subject.SLOLevel(model), data)
		}
		if err != nil {
			g.cfg.Logger.Debug("level not shared", "model", model, "error", err)
		}
	}
}

// Hear takes what another dispatcher says of a model.
func (g *Guard) Hear(model string, data []byte) {
	var v level
	l := g.ladders[model]
	if l == nil || json.Unmarshal(data, &v) != nil || v.By == g.cfg.Name {
		return
	}
	g.hears.Lock()
	l.Hear(v.Seen, v.Top)
	g.hears.Unlock()
	for i, c := range contracts.Classes {
		g.classes.Others(model, c, v.Seen[i].Good, v.Seen[i].Late)
	}
}
