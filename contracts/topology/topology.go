// Package topology is the fleet's JetStream layout as data, and Ensure, which makes a broker match it.
//
// It is step 6 of the walk: what the dispatcher publishes waits here until a worker pulls it.
// Ensure is idempotent and may run in several processes at once. The package never reads or writes
// messages.
package topology

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// Names of the streams.
const (
	StreamJobs  = "JOBS"  // admitted jobs, deleted when acknowledged
	StreamOut   = "OUT"   // the records of every job's stream
	StreamSched = "SCHED" // jobs that wait for their time or their turn
	StreamDead  = "DLQ"   // jobs that were given up, with cause and payload
)

// ConsumerDue is the consumer by which dispatchers take the jobs whose time has come.
const ConsumerDue = "due"

// Timing of the leases, shared by dispatcher and worker.
const (
	AckWait     = 15 * time.Second // a job that is not kept alive for so long goes to another worker
	MaxFailures = 3                // holders that may fail before a job is given up
	MaxPreempt  = 3                // how often a job gives way to more urgent ones before it keeps its slot
)

// MaxRecord is the most bytes of one record in OUT.
const MaxRecord = 4 << 20

// Config sizes the layout. The zero value is the embedded single-server fleet.
type Config struct {
	Replicas     int           // of every stream; 0 is as they are, of a new one as many as the others have, or 1
	JobsMaxBytes int64         // default 2 GiB
	JobsMaxAge   time.Duration // default 24 h
	OutMaxBytes  int64         // default 1 GiB; the oldest records go first
	OutMaxAge    time.Duration // how long a finished job can be read; default 24 h
	MaxJobBytes  int32         // largest admitted job; default 1 MiB
	DeadMaxBytes int64         // default 1 GiB; the oldest go first
	DeadMaxAge   time.Duration // how long a job that was given up is kept; default 7 days
	Memory       bool          // keep streams in memory (tests)
}

func (c Config) withDefaults() Config {
	c.JobsMaxBytes = cmp.Or(c.JobsMaxBytes, 2<<30)
	c.OutMaxBytes = cmp.Or(c.OutMaxBytes, 1<<30)
	c.JobsMaxAge = cmp.Or(c.JobsMaxAge, 24*time.Hour)
	c.OutMaxAge = cmp.Or(c.OutMaxAge, 24*time.Hour)
	c.DeadMaxBytes = cmp.Or(c.DeadMaxBytes, 1<<30)
	c.DeadMaxAge = cmp.Or(c.DeadMaxAge, 7*24*time.Hour)
	c.MaxJobBytes = cmp.Or(c.MaxJobBytes, 1<<20)
	return c
}

// Streams is the layout of the streams.
func (c Config) Streams() []jetstream.StreamConfig {
	c = c.withDefaults()
	storage := jetstream.FileStorage
	if c.Memory {
		storage = jetstream.MemoryStorage
	}
	return []jetstream.StreamConfig{
		{
			Name: StreamJobs, Description: "admitted jobs, one subject each",
			Subjects:  []string{subject.AllJobs},
			Retention: jetstream.WorkQueuePolicy, Storage: storage, Replicas: c.Replicas,
			Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1,
			MaxMsgs: 100_000, MaxBytes: c.JobsMaxBytes, MaxAge: c.JobsMaxAge, MaxMsgSize: c.MaxJobBytes,
			AllowMsgTTL: true, AllowDirect: true, Duplicates: 10 * time.Minute,
		},
		{
			// Records stay on disk with the jobs, so that a restart of the whole fleet loses neither;
			// each job's records are bounded by its max_tokens, the stream by bytes and age.
			Name: StreamOut, Description: "records of job streams, one subject a job",
			Subjects:  []string{subject.AllOut},
			Retention: jetstream.LimitsPolicy, Storage: storage, Replicas: c.Replicas,
			Discard: jetstream.DiscardOld, MaxMsgsPerSubject: -1,
			MaxBytes: c.OutMaxBytes, MaxAge: c.OutMaxAge, MaxMsgSize: MaxRecord,
			AllowDirect: true, DenyDelete: true,
			// Duplicates is the window of Nats-Msg-Id, which this stream does not use.
			Duplicates: 100 * time.Millisecond,
			RePublish:  &jetstream.RePublish{Source: "out.*.*", Destination: "live.{{wildcard(1)}}.{{wildcard(2)}}"},
		},
		{
			// The broker moves a job from sched.… to due.… at its time; a dispatcher takes one from hold.… when
			// it is its turn. Schedules and DiscardNew exclude
			// each other, so the bound on bytes is watched by the dispatcher before it publishes.
			Name: StreamSched, Description: "jobs that wait for their time or turn, one subject each",
			Subjects:  []string{subject.AllSched, subject.AllDue, subject.AllHeld},
			Retention: jetstream.WorkQueuePolicy, Storage: storage, Replicas: c.Replicas,
			Discard: jetstream.DiscardOld, MaxMsgsPerSubject: 1, MaxMsgs: 100_000, MaxBytes: c.JobsMaxBytes, MaxMsgSize: c.MaxJobBytes,
			AllowMsgTTL: true, AllowMsgSchedules: true, AllowDirect: true, Duplicates: 10 * time.Minute,
		},
		{
			Name: StreamDead, Description: "jobs that were given up, one subject each",
			Subjects:  []string{subject.AllDead},
			Retention: jetstream.LimitsPolicy, Storage: storage, Replicas: c.Replicas,
			Discard: jetstream.DiscardOld, MaxMsgsPerSubject: 1, MaxBytes: c.DeadMaxBytes, MaxAge: c.DeadMaxAge, MaxMsgSize: 2 * c.MaxJobBytes,
			AllowDirect: true, Duplicates: 100 * time.Millisecond,
		},
	}
}

// Consumers is the layout of a model's consumers: one for each class and size, most urgent first,
// small before large. They have as many copies as their stream, also after its number changed.
func (c Config) Consumers(model string) []jetstream.ConsumerConfig {
	c = c.withDefaults()
	var out []jetstream.ConsumerConfig
	for _, class := range contracts.Classes {
		for _, size := range contracts.Sizes {
			out = append(out, jetstream.ConsumerConfig{
				Durable:       subject.Consumer(model, class, size),
				Description:   fmt.Sprintf("%s jobs of size %s", class, size),
				FilterSubject: subject.JobsOf(model, class, size),
				AckPolicy:     jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
				AckWait: AckWait, MaxDeliver: -1, MaxAckPending: 10_000, MaxWaiting: 4096,
				MaxRequestBatch: 64, MaxRequestExpires: 30 * time.Second,
			})
		}
	}
	return out
}

// Drift is one difference between the layout and what the broker had.
type Drift struct {
	Object string // "stream OUT", "consumer m-p0-s"
	Change string // Ensure: "created", "updated"; Check: "missing", "differs"
}

// Values of Drift.Change here.
const (
	created = "created"
	updated = "updated"
	missing = "missing"
	differs = "differs"
)

// Ensure creates what is missing and updates what differs: the streams, and the consumers of models.
// It reports every change it made. A difference that the broker cannot change in place is an error
// that names it.
func Ensure(ctx context.Context, js jetstream.JetStream, c Config, models ...string) ([]Drift, error) {
	return (&walk{js: js, create: true, update: true}).layout(ctx, c.withDefaults(), models)
}

// Check reports what Ensure would create or update, and changes nothing.
func Check(ctx context.Context, js jetstream.JetStream, c Config, models ...string) ([]Drift, error) {
	return (&walk{js: js}).layout(ctx, c.withDefaults(), models)
}

// Mend creates the consumers that are missing, and changes nothing else. A stream that is missing is an error: what
// was in it may come back from a backup.
func Mend(ctx context.Context, js jetstream.JetStream, c Config, models ...string) ([]Drift, error) {
	c = c.withDefaults()
	streams, w := &walk{js: js}, &walk{js: js, create: true}
	if err := streams.streams(ctx, c); err != nil {
		return nil, err
	}
	for _, d := range streams.drift {
		if d.Change == missing {
			return nil, fmt.Errorf("%s is missing: restore it from a backup, or start a dispatcher (with credentials: pelton provision) to have an empty one", d.Object)
		}
	}
	err := w.consumers(ctx, c, models)
	return slices.DeleteFunc(w.drift, func(d Drift) bool { return d.Change != created }), err
}

// walk goes through the layout and notes what the broker has otherwise.
type walk struct {
	js             jetstream.JetStream
	create, update bool // what is missing, what differs
	drift          []Drift
	untils         map[string]*time.Time // by model, of those of which consumers were missing
}

func (w *walk) layout(ctx context.Context, c Config, models []string) ([]Drift, error) {
	err := w.streams(ctx, c)
	if err == nil {
		err = w.consumers(ctx, c, models)
	}
	return w.drift, err
}

func (w *walk) streams(ctx context.Context, c Config) error {
	for _, want := range c.Streams() {
		if err := w.note("stream "+want.Name, func() (string, error) { return w.stream(ctx, want) }); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) consumers(ctx context.Context, c Config, models []string) error {
	consumers := map[string][]jetstream.ConsumerConfig{StreamSched: {c.due()}}
	for _, model := range models {
		consumers[StreamJobs] = append(consumers[StreamJobs], c.Consumers(model)...)
	}
	for _, stream := range []string{StreamSched, StreamJobs} {
		for _, want := range consumers[stream] {
			if err := w.note("consumer "+want.Durable, func() (string, error) { return w.consumer(ctx, stream, want) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// due is the consumer of the jobs whose time has come.
func (c Config) due() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{Durable: ConsumerDue, Description: "jobs whose time has come", FilterSubject: subject.AllDue,
		AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy, AckWait: AckWait, MaxDeliver: -1,
		MaxAckPending: 1000, MaxWaiting: 512}
}

func (w *walk) note(object string, match func() (change string, err error)) error {
	change, err := match()
	if err != nil {
		return fmt.Errorf("%s: %w", object, err)
	}
	if change != "" {
		w.drift = append(w.drift, Drift{object, change})
	}
	return nil
}

func (w *walk) stream(ctx context.Context, want jetstream.StreamConfig) (string, error) {
	s, err := w.js.Stream(ctx, want.Name)
	if err == nil && want.Replicas == 0 {
		want.Replicas = s.CachedInfo().Config.Replicas
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound) && !w.create:
		return missing, nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if want.Replicas == 0 {
			if want.Replicas, err = w.copies(ctx); err != nil {
				return "", err
			}
		}
		_, err = w.js.CreateOrUpdateStream(ctx, want)
		return created, err
	case err != nil:
		return "", err
	case sameStream(s.CachedInfo().Config, want):
		return "", nil
	case !w.update:
		return differs, nil
	}
	_, err = w.js.UpdateStream(ctx, want)
	return updated, err
}

// copies is how many the streams have that are there, so that a new one beside them survives what they do.
func (w *walk) copies(ctx context.Context) (most int, err error) {
	for _, name := range []string{StreamJobs, StreamOut, StreamSched, StreamDead} {
		s, err := w.js.Stream(ctx, name)
		switch {
		case err == nil:
			most = max(most, s.CachedInfo().Config.Replicas)
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return 0, err
		}
	}
	return most, nil
}

func (w *walk) consumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) (string, error) {
	c, err := w.js.Consumer(ctx, stream, want.Durable)
	switch {
	case (errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)) && !w.create:
		return missing, nil
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		if want.PauseUntil, err = w.until(ctx, want.Durable); err != nil {
			return "", err
		}
		if _, err = w.js.CreateOrUpdateConsumer(ctx, stream, want); err != nil {
			err = fmt.Errorf("it is missing and could not be made; with credentials that is for pelton provision: %w", err)
		}
		return created, err
	case err != nil:
		return "", err
	case sameConsumer(c.CachedInfo().Config, want):
		return "", nil
	case !w.update:
		return differs, nil
	}
	_, err = w.js.UpdateConsumer(ctx, stream, want)
	return updated, err
}

// until is what the state of its queue is kept by (see [Queue]) in the consumers beside one that is missing: made without
// it, that one would give out jobs of a paused queue. nil when none is told any.
func (w *walk) until(ctx context.Context, name string) (until *time.Time, err error) {
	model, _, _, notOfQueue := subject.ParseConsumer(name)
	if known, ok := w.untils[model]; ok || notOfQueue != nil {
		return known, nil
	}
	for _, beside := range (Config{}).Consumers(model) {
		c, err := w.js.Consumer(ctx, StreamJobs, beside.Durable)
		switch {
		case err == nil:
			until = cmp.Or(until, c.CachedInfo().Config.PauseUntil)
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, err
		}
	}
	if w.untils == nil {
		w.untils = map[string]*time.Time{}
	}
	w.untils[model] = until
	return until, nil
}

// sameStream compares the fields that the layout sets; the broker fills in others.
func sameStream(a, b jetstream.StreamConfig) bool {
	subjects := len(a.Subjects) == len(b.Subjects)
	for i := 0; subjects && i < len(a.Subjects); i++ {
		subjects = a.Subjects[i] == b.Subjects[i]
	}
	republish := (a.RePublish == nil) == (b.RePublish == nil) && (a.RePublish == nil || *a.RePublish == *b.RePublish)
	return subjects && republish && a.Retention == b.Retention && a.Storage == b.Storage && a.Replicas == b.Replicas &&
		a.Discard == b.Discard && a.DiscardNewPerSubject == b.DiscardNewPerSubject &&
		a.MaxMsgsPerSubject == b.MaxMsgsPerSubject && a.MaxBytes == b.MaxBytes && a.MaxAge == b.MaxAge &&
		a.MaxMsgSize == b.MaxMsgSize && a.AllowMsgTTL == b.AllowMsgTTL && a.AllowMsgSchedules == b.AllowMsgSchedules && a.AllowDirect == b.AllowDirect &&
		a.DenyDelete == b.DenyDelete && a.Duplicates == b.Duplicates && a.Description == b.Description
}

func sameConsumer(a, b jetstream.ConsumerConfig) bool {
	return a.FilterSubject == b.FilterSubject && a.AckPolicy == b.AckPolicy && a.AckWait == b.AckWait &&
		a.MaxDeliver == b.MaxDeliver && a.MaxAckPending == b.MaxAckPending && a.MaxWaiting == b.MaxWaiting &&
		a.Replicas == b.Replicas && a.MaxRequestBatch == b.MaxRequestBatch && a.MaxRequestExpires == b.MaxRequestExpires &&
		a.Description == b.Description
}
