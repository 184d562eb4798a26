package worker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/contracts/trace"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/worker/emit"
	"github.com/pelton-run/pelton/worker/intake"
)

// Config of a [Worker].
type Config struct {
	Name      string          // unique in the fleet
	Conn      *nats.Conn      // stays the caller's, who closes it after Run
	Engine    engine.Engine   // stays the caller's, who shuts it down after Run; its KV budget is set
	Tokenizer emit.Vocabulary // the decoding side of the model's tokenizer
	EOS       []int32         // tokens that end a generation
	Calls     *Calls          // a model that answers in one call, instead of Engine, Tokenizer and EOS

	// Memory is where jobs reserve their KV bytes; default: a budget of its own of what the engine has.
	// It may be shared with other workers (see intake.Shared).
	Memory intake.Bytes

	Logger *slog.Logger // default: discards
	Trace  *Trace       // default: none

	Heartbeat     time.Duration // default 500 ms
	PrefillTokens int           // prompt tokens in one step; default Engine.Info().MaxStepTokens
	FlushInterval time.Duration // least time between two records of a choice; default 10 ms
	RecordRate    float64       // records a second of the whole fleet above which the interval grows; default emit.RecordRate
	FlushTokens   int           // tokens that go at once, as long as the interval has not grown; default 8
	Sweep         time.Duration // how often the whole queue is asked unasked; default intake.Sweep
	AckWait       time.Duration // of the consumers; a job is kept alive each third of it; default topology.AckWait
	MaxFailures   int           // holders that may fail before a job is given up; default topology.MaxFailures
	StepTimeout   time.Duration // one forward pass that takes longer hangs, and Run ends; default 60 s
	StopGrace     time.Duration // how long handing jobs back may take; default 5 s

	// Resident tells the process's resident bytes for the heartbeat; default: 0.
	Resident func() int64
}

func (c Config) withDefaults() Config {
	c.FlushInterval = cmp.Or(c.FlushInterval, emit.FlushInterval)
	c.RecordRate = cmp.Or(c.RecordRate, emit.RecordRate)
	c.Heartbeat = cmp.Or(c.Heartbeat, Heartbeat)
	c.AckWait = cmp.Or(c.AckWait, topology.AckWait)
	c.StopGrace = cmp.Or(c.StopGrace, 5*time.Second)
	c.StepTimeout = cmp.Or(c.StepTimeout, time.Minute)
	c.MaxFailures = cmp.Or(c.MaxFailures, topology.MaxFailures)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.Trace = trace.Full(c.Trace)
	if c.Memory == nil && c.Engine != nil {
		c.Memory = memory.NewBudget(c.Engine.Memory().Budget)
	}
	if c.Resident == nil {
		c.Resident = func() int64 { return 0 }
	}
	return c
}

// Validate returns all problems of c at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Name == "" || len(c.Name) > contracts.MaxNameLength, "worker name must be 1 to %d bytes, got %d", contracts.MaxNameLength, len(c.Name))
	bad(c.Conn == nil, "a connection to the broker is needed")
	bad(c.Tokenizer == nil && c.Calls == nil, "a tokenizer is needed")
	bad((c.Engine == nil) == (c.Calls == nil), "an engine is needed, or calls instead")
	if c.Calls != nil {
		errs = append(errs, c.Calls.validate()...)
		bad(c.Memory == nil, "memory for the calls is needed")
	}
	bad(c.Heartbeat < 0 || c.FlushInterval < 0 || c.Sweep < 0 || c.AckWait < 0 || c.StopGrace < 0 || c.StepTimeout < 0, "durations must not be negative")
	bad(!(c.RecordRate > 0), "the fleet's records a second must be above 0, not %v", c.RecordRate)
	bad(c.PrefillTokens < 0 || c.FlushTokens < 0 || c.MaxFailures < 0, "counts must not be negative")
	if c.Engine != nil {
		info, kv := c.Engine.Info(), c.Memory.Total()
		bad(info.MaxSequences < 1 || info.ContextLength < 1 || info.Vocab < 1, "the engine holds %d sequences of %d tokens over a vocabulary of %d: each must be at least 1", info.MaxSequences, info.ContextLength, info.Vocab)
		bad(kv < info.KVBytes(1), "the KV budget of %d bytes is less than one block of %d: give the worker more memory", kv, info.KVBytes(1))
	}
	return errors.Join(errs...)
}
