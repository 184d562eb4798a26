package gateway

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gate"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// Jobs is what the gateway needs of the dispatcher. All methods are safe for concurrent use, return
// [*contracts.Error] failures and stop when ctx ends.
type Jobs interface {
	Streams
	Operations
	// Status is CodeNotFound for a job that was never accepted or is past retention.
	Status(ctx context.Context, tenant, job string) (contracts.Status, error)
	// Cancel returns after the job's slot is free.
	Cancel(ctx context.Context, tenant, job string) (contracts.Status, error)
	// List is the jobs that pass the filter.
	List(ctx context.Context, filter contracts.Filter) ([]contracts.Status, error)
	// Quota is what a tenant's requests and tokens of a minute allow now; a limit of 0 is none.
	Quota(tenant string) (requests, tokens quota.State)
}

// Streams takes jobs in and reads what becomes of them.
type Streams interface {
	// Submit puts a job into the fleet, under the answer's id when it brings none; a job id that is known already attaches to that job, or is a
	// conflict when it asked for something else.
	Submit(ctx context.Context, job *contracts.Job) (*contracts.Answer, error)
	// Start is Submit with the job's stream from its beginning, subscribed before the job is published.
	// Leaving the stream does not cancel the job. It must be ranged over once.
	Start(ctx context.Context, job *contracts.Job) (*contracts.Answer, iter.Seq2[*contracts.Chunk, error], error)
	// Stream replays the pieces whose index is above after (-1: all), goes on live and ends after the
	// final record, which always comes.
	Stream(ctx context.Context, tenant, job string, after int) iter.Seq2[*contracts.Chunk, error]
	// Leave is told that a reader of a job left; it cancels the job if that asked for it and has no other reader.
	Leave(ctx context.Context, tenant, job string) error
}

// Operations are what is looked at and set beside jobs that run.
type Operations interface {
	DeadLetters
	Queues
	Workers
}

// DeadLetters are the jobs that were given up.
type DeadLetters interface {
	ListDead(ctx context.Context, tenant string, limit int) ([]contracts.Dead, error)
	DeadLetter(ctx context.Context, tenant, job string) (*contracts.Dead, error)
	RetryDead(ctx context.Context, tenant, job, id string) (*contracts.Answer, error)
	RemoveDead(ctx context.Context, tenant, job string) error
}

// Value is what a path answers as JSON.
type Value func(context.Context) (any, error)

// Config says what a gateway stands in front of.
type Config struct {
	Jobs   Jobs                           // needed
	Models func() []admission.ModelStatus // needed; the default model first
	Ready  func() error                   // nil error: jobs can be served; default always
	// Tenant says whom a request belongs to, or refuses it with unauthenticated or permission_denied.
	// Default: nobody is asked, jobs belong to tenant "default", and ?tenant= shows any tenant's jobs.
	Tenant func(*http.Request) (string, error)
	// Refused hears of requests for jobs that Jobs was not given, because they were refused before. Default: nobody.
	Refused func(*contracts.Error)
	Metrics http.Handler     // served at /metrics; default none
	Beside  map[string]Value // paths of GET beside the gateway's own
	Logger  *slog.Logger     // default: discard
	Version string           // default "dev"

	MaxBody     int64         // bytes of a request's body; default 4 MiB
	MaxInFlight int           // requests with a body or a stream at once, each further 64 KiB of a body counted as one; more are refused as overloaded, those of one tenant earlier; default 4096
	KeepAlive   time.Duration // between comments on a silent stream; default 15 s
	HoldHeaders time.Duration // how long a stream's status waits for its first chunk, so that an early failure has a status of its own; default 1 s
	ReadTime    time.Duration // for a body to arrive; default 30 s
	WriteTime   time.Duration // for one write to be taken; default 30 s
	CancelTime  time.Duration // for a cancellation after the caller left; default 30 s
}

func (c Config) withDefaults() Config {
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Refused == nil {
		c.Refused = func(*contracts.Error) {}
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.Version = cmp.Or(c.Version, "dev")
	c.MaxBody = cmp.Or(c.MaxBody, 4<<20)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, 4096)
	c.KeepAlive = cmp.Or(c.KeepAlive, 15*time.Second)
	c.HoldHeaders = cmp.Or(c.HoldHeaders, time.Second)
	c.ReadTime = cmp.Or(c.ReadTime, 30*time.Second)
	c.WriteTime = cmp.Or(c.WriteTime, writeTime)
	c.CancelTime = cmp.Or(c.CancelTime, 30*time.Second)
	return c
}

// Validate returns all problems of c at once.
func (c Config) Validate() error {
	var errs []error
	if c.Jobs == nil {
		errs = append(errs, errors.New("gateway config: Jobs is missing"))
	}
	if c.Models == nil {
		errs = append(errs, errors.New("gateway config: Models is missing"))
	}
	if c.MaxBody < 0 || c.MaxInFlight < 0 {
		errs = append(errs, errors.New("gateway config: MaxBody and MaxInFlight must not be negative"))
	}
	if min(c.KeepAlive, c.HoldHeaders, c.ReadTime, c.WriteTime, c.CancelTime) < 0 {
		errs = append(errs, errors.New("gateway config: durations must not be negative"))
	}
	return errors.Join(errs...)
}

// gateway is the handlers' shared state.
type gateway struct {
	cfg   Config
	slots *gate.Gate // a place for each request in flight
}

//go:embed openapi.json
var openAPI []byte

// New makes the handler of all routes. It starts no goroutine that outlives a request.
func New(cfg Config) (http.Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	g := &gateway{cfg: cfg, slots: gate.New("requests", cfg.MaxInFlight)}
	g.slots.Open()
	return g.handler(), nil
}

// writeTime is the default time for one write to be taken.
const writeTime = 30 * time.Second

// Server wraps a gateway's handler (or one that contains it) with the time-outs that its handlers
// count on. The caller sets the address or listens itself, and calls Shutdown.
func Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// For handlers beside the gateway's, whose whole answer is one write; the gateway's own allow each.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// ReadTimeout and WriteTimeout would cut streams: handlers set a deadline for each read and write.
	}
}
