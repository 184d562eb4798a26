package loadgen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Outcome is what became of a planned request.
type Outcome string

// The outcomes.
const (
	Completed Outcome = "completed"
	Refused   Outcome = "refused"  // turned away for load or quota: HTTP 429 or 503
	Expired   Outcome = "expired"  // its deadline or our time limit passed
	Canceled  Outcome = "canceled" // given up as planned
	Failed    Outcome = "failed"   // anything else
	Unsent    Outcome = "unsent"   // this generator had too many requests open: the run says nothing of the server
)

// Outcomes lists all of them.
var Outcomes = []Outcome{Completed, Refused, Expired, Canceled, Failed, Unsent}

// Answer is how a request ended. The counts are the server's own, 0 when it gave none.
type Answer struct {
	Outcome      Outcome
	Message      string // why, when it did not complete
	InputTokens  int    // of the prompt
	OutputTokens int    // generated
}

// Target carries requests to a server.
type Target interface {
	// Send asks and reads the answer to its end. It calls got when a piece of the answer that has
	// content arrives, and gives up when ctx ends. It is safe for concurrent use.
	Send(ctx context.Context, r Request, prompt string, got func()) Answer
}

// Sample is one request as the producer saw it. Times count from the start of the run.
type Sample struct {
	Request
	Answer
	Sent   time.Duration
	Pieces []time.Duration // arrivals of content; a piece may hold several tokens
	End    time.Duration   // of the answer
}

// DefaultTimeout is how long an answer is waited for when nothing else is said.
const DefaultTimeout = 10 * time.Minute

// Config says how a plan is run.
type Config struct {
	Plan        Plan
	Target      Target
	Prompter    Prompter
	Concurrency int           // closed loop: so many requests at all times, planned times do not count; 0 is the open loop
	Until       time.Duration // closed loop: no request is sent later; 0 is the whole plan
	MaxInFlight int           // open loop: most requests open at once; 0 is 4096
	Timeout     time.Duration // of each request; 0 is [DefaultTimeout]
}

// errGaveUp is the cause of a context that ended because the plan says so.
var errGaveUp = errors.New("given up as planned")

// runner is a run under way.
type runner struct {
	Config
	start   time.Time
	mu      sync.Mutex
	samples []Sample
}

// Run sends the plan and returns a sample for each request that came to its turn, in the order of the
// plan's times. The end of ctx ends the run early: requests that are open are dropped from the result.
func Run(ctx context.Context, cfg Config) ([]Sample, error) {
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 4096)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	r := &runner{Config: cfg, start: time.Now()}
	if cfg.Concurrency > 0 {
		r.closedLoop(ctx)
	} else {
		r.openLoop(ctx)
	}
	slices.SortStableFunc(r.samples, func(a, b Sample) int { return int(a.At - b.At) })
	if len(r.samples) == 0 {
		return nil, fmt.Errorf("stopped before any request was answered: %w", context.Cause(ctx))
	}
	return r.samples, nil
}

func (r *runner) openLoop(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	open := make(chan struct{}, r.MaxInFlight)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, q := range r.Plan {
		prompt := r.Prompter.Prompt(q) // before the time has come: writing takes a while
		timer.Reset(time.Until(r.start.Add(q.At)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case open <- struct{}{}:
			wg.Go(func() {
				r.send(ctx, q, prompt)
				<-open
			})
		default:
			r.add(Sample{Request: q, Answer: Answer{Outcome: Unsent}, Sent: q.At, End: q.At})
		}
	}
}

func (r *runner) closedLoop(ctx context.Context) {
	next := make(chan Request)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(next)
	for range r.Concurrency {
		wg.Go(func() {
			for q := range next {
				prompt := r.Prompter.Prompt(q)
				q.At = time.Since(r.start)
				r.send(ctx, q, prompt)
			}
		})
	}
	var over <-chan time.Time
	if r.Until > 0 {
		timer := time.NewTimer(time.Until(r.start.Add(r.Until)))
		defer timer.Stop()
		over = timer.C
	}
	for _, q := range r.Plan {
		select {
		case <-ctx.Done():
			return
		case <-over: // also while all are open
			return
		case next <- q:
		}
	}
}

// send asks one question and notes its sample.
func (r *runner) send(ctx context.Context, q Request, prompt string) {
	run := ctx
	ctx, stop := context.WithTimeout(ctx, r.Timeout)
	defer stop()
	if q.CancelAfter > 0 {
		var giveUp context.CancelFunc
		ctx, giveUp = context.WithTimeoutCause(ctx, q.CancelAfter, errGaveUp)
		defer giveUp()
	}
	s := Sample{Request: q, Sent: time.Since(r.start)}
	s.Answer = r.Target.Send(ctx, q, prompt, func() { s.Pieces = append(s.Pieces, time.Since(r.start)) })
	s.End = time.Since(r.start)
	switch {
	case s.Outcome == Completed:
	case errors.Is(context.Cause(ctx), errGaveUp):
		s.Outcome = Canceled
	case run.Err() != nil:
		return // the run was interrupted: this says nothing of the server
	case ctx.Err() != nil:
		s.Outcome = Expired
	case s.Outcome == Refused && len(s.Pieces) > 0:
		s.Outcome = Failed // it was let in, and broke off
	}
	r.add(s)
}

func (r *runner) add(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s)
}
