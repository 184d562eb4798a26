package dispatcher

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/contracts/trace"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

// Model is a model whose jobs the dispatcher admits; the first one of the configuration is the default.
type Model = admission.Model

// Config of a [Dispatcher].
type Config struct {
	Conn     *nats.Conn      // needed; stays the caller's to close, after Run has returned
	Doors    *nats.Conn      // by which producers' jobs come and are answered, so that however many come hold nothing else up; stays the caller's too; default Conn
	Asks     *nats.Conn      // by which cancels and questions after jobs come, likewise; default Doors
	Models   []Model         // needed; the first is the default
	Topology topology.Config // of the streams, which Run creates when they are missing
	Logger   *slog.Logger    // default: nothing is logged
	Trace    *Trace          // default: nothing is reported

	DefaultMaxTokensChat int // tokens; default 512
	DefaultMaxTokensText int // tokens; default 16

	MaxSubmits int           // jobs taken in at once, each 64 KiB that came over NATS counted as one, a tenant's share bounded (dispatcher/gate); beyond them a submit is overloaded; default 1024
	MaxCancels int           // cancels waited for at once, a tenant's share bounded too; default 1024
	Buffer     int           // records that wait for one reader; default 256
	Idle       time.Duration // silence after which a reader looks into OUT; default 10 s
	WorkerTTL  time.Duration // silence after which a worker is gone; default 2 s
	Timeout    time.Duration // of one answer of the broker; default 5 s
	CancelWait time.Duration // how long the NATS door waits for a cancel; default 30 s
	Rescan     time.Duration // how often the queue is searched for deadlines of other dispatchers' jobs; default 30 s

	Overload backlog.Settings // what is done when more comes than the fleet can do
}

func (c Config) withDefaults() Config {
	c.DefaultMaxTokensChat = cmp.Or(c.DefaultMaxTokensChat, 512)
	c.DefaultMaxTokensText = cmp.Or(c.DefaultMaxTokensText, 16)
	c.MaxSubmits = cmp.Or(c.MaxSubmits, 1024)
	c.MaxCancels = cmp.Or(c.MaxCancels, 1024)
	c.Buffer = cmp.Or(c.Buffer, 256)
	c.Idle = cmp.Or(c.Idle, 10*time.Second)
	c.WorkerTTL = cmp.Or(c.WorkerTTL, fleet.DefaultTTL)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	c.CancelWait = cmp.Or(c.CancelWait, 30*time.Second)
	c.Rescan = cmp.Or(c.Rescan, 30*time.Second)
	c.Doors = cmp.Or(c.Doors, c.Conn)
	c.Asks = cmp.Or(c.Asks, c.Doors)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.Trace = trace.Full(c.Trace)
	return c
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Conn == nil {
		errs = append(errs, fmt.Errorf("no connection: Conn is needed"))
	}
	if _, err := admission.NewCatalog(c.Models); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.Overload.Validate())
	for name, v := range map[string]int{"DefaultMaxTokensChat": c.DefaultMaxTokensChat, "DefaultMaxTokensText": c.DefaultMaxTokensText,
		"MaxSubmits": c.MaxSubmits, "MaxCancels": c.MaxCancels, "Buffer": c.Buffer} {
		if v < 0 {
			errs = append(errs, fmt.Errorf("%s is %d, it must not be negative", name, v))
		}
	}
	for name, v := range map[string]time.Duration{"Idle": c.Idle, "WorkerTTL": c.WorkerTTL, "Timeout": c.Timeout, "CancelWait": c.CancelWait, "Rescan": c.Rescan} {
		if v < 0 {
			errs = append(errs, fmt.Errorf("%s is %v, it must not be negative", name, v))
		}
	}
	return errors.Join(errs...)
}
