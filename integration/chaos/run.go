package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// Target is a fleet that faults can be done to.
type Target interface {
	NATS() string
	Doors() []string
	// Strike does a fault and tells whether it hit a worker in the middle of a stream.
	Strike(ctx context.Context, f Fault) bool
	// Rest ends the run and says how many bytes of KV cache each worker still had reserved.
	Rest() map[string]int64
}

// Guarded is a target that asks who comes.
type Guarded interface {
	Producer() (*nats.Conn, error) // submits and reads live records as tenant "default", and reads no stream
	Keeper() (*nats.Conn, error)   // may read the streams
	HTTP() *http.Client            // shows the doors an API key
}

// Plan is what a run does.
type Plan struct {
	Name        string // begins the ids of the run's jobs; needed where a fleet outlives a run
	Seed        uint64
	Orders      map[string]contracts.Job // kinds of jobs
	Jobs        int                      // at least; more are submitted while the script is not over
	Flight      int                      // jobs at once
	Script      []Fault
	MaxFailures int           // as the workers have it; default topology.MaxFailures
	Limit       time.Duration // of the whole run; default 10 minutes
}

// run is a run under way.
type run struct {
	t      testing.TB
	plan   Plan
	target Target
	client *client.Client
	js     jetstream.JetStream
	http   *http.Client
	shut   bool // producers cannot read OUT
	kinds  []string

	mu      sync.Mutex
	history *History
	struck  map[Kind]int
	hits    int
}

// Run runs each kind of job once in peace, then the plan's jobs under its script, and returns what was
// left behind. It stops the target's workers.
func Run(t testing.TB, target Target, p Plan) *History {
	t.Helper()
	if p.Limit == 0 {
		p.Limit = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), p.Limit)
	defer cancel()
	r := begin(ctx, t, target, p)
	begun := time.Now()
	jobs := r.storm(ctx)
	t.Logf("%d jobs in %v under %v; %d of the faults hit a running stream", jobs, time.Since(begun).Round(time.Second), r.struck, r.hits)
	r.collect(ctx)
	return r.history
}

// begin connects to the target and runs each kind of job once.
func begin(ctx context.Context, t testing.TB, target Target, p Plan) *run {
	t.Helper()
	t.Logf("seed %d", p.Seed)
	if p.MaxFailures == 0 {
		p.MaxFailures = topology.MaxFailures
	}
	r := &run{t: t, plan: p, target: target, http: http.DefaultClient, kinds: slices.Sorted(maps.Keys(p.Orders)), struck: map[Kind]int{},
		history: &History{Kinds: map[string]string{}, Out: map[string][]Record{}, Received: map[string][]*Received{}, Dead: map[string]bool{}, References: map[string]*Answer{}, MaxFailures: p.MaxFailures}}
	r.connect()
	r.calm(ctx)
	return r
}

// connect opens the run's connections: to a guarded target, one for each role.
func (r *run) connect() {
	r.t.Helper()
	open := func() (*nats.Conn, error) { return client.Connect(r.target.NATS()) }
	producer, keeper := open, open
	if g, ok := r.target.(Guarded); ok {
		producer, keeper, r.http, r.shut = g.Producer, g.Keeper, g.HTTP(), true
	}
	nc, err := producer()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	r.client = client.New(nc, "default", client.WithIdle(2*time.Second))
	if nc, err = keeper(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	if r.js, err = jetstream.New(nc); err != nil {
		r.t.Fatal(err)
	}
}

// calm learns the answers.
func (r *run) calm(ctx context.Context) {
	r.t.Helper()
	var all sync.WaitGroup
	for _, kind := range r.kinds {
		all.Go(func() { r.job(ctx, r.plan.Name+"calm-"+kind, kind, 0) })
	}
	all.Wait()
	for _, kind := range r.kinds {
		id := r.plan.Name + "calm-" + kind
		got := r.history.Received[id]
		if len(got) != 1 || got[0].Final == nil || got[0].Final.Code != "" {
			r.t.Fatalf("%s has no calm answer", kind)
		}
		r.history.References[kind] = &got[0].Answer
	}
}

// storm keeps jobs in flight until there were enough and the script is over.
func (r *run) storm(ctx context.Context) int {
	var next atomic.Int64
	var over atomic.Bool
	var flight sync.WaitGroup
	for range r.plan.Flight {
		flight.Go(func() {
			for ctx.Err() == nil && (int(next.Load()) < r.plan.Jobs || !over.Load()) {
				i := int(next.Add(1))
				rng := rand.New(rand.NewPCG(r.plan.Seed, uint64(1000+i)))
				r.job(ctx, fmt.Sprintf("%sjob-%05d", r.plan.Name, i), r.kinds[i%len(r.kinds)], rng.IntN(3))
			}
		})
	}
	for _, f := range r.plan.Script {
		select {
		case <-time.After(f.Wait):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			r.t.Errorf("out of time before the script was over")
			break
		}
		if r.target.Strike(ctx, f) && f.Kind != Dispatch {
			r.hits++
		}
		r.struck[f.Kind]++
	}
	over.Store(true)
	flight.Wait()
	return int(next.Load())
}

// job submits one job and reads its answer, leaving and coming back leaves times.
func (r *run) job(ctx context.Context, id, kind string, leaves int) {
	order := r.plan.Orders[kind]
	order.ID = id
	rd := &reader{nats: r.target.NATS(), doors: r.target.Doors(), http: r.http, shut: r.shut, rng: rand.New(rand.NewPCG(r.plan.Seed, uint64(len(id))+uint64(leaves))), job: id,
		many: order.Params.N != nil, got: &Received{}, last: -1}
	var s *client.Stream
	for {
		var err error
		again := order
		if s, err = r.client.Run(ctx, &again); err == nil {
			break
		}
		if contracts.CodeOf(err) != contracts.CodeUnavailable || ctx.Err() != nil {
			r.t.Errorf("submit %s: %v", id, err)
			return
		}
	}
	r.mu.Lock()
	r.history.Kinds[id] = kind
	r.mu.Unlock()
	got := rd.read(ctx, s, leaves)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Received[id] = append(r.history.Received[id], got)
}

// collect reads what the broker holds after the end.
func (r *run) collect(ctx context.Context) {
	r.t.Helper()
	r.history.Queue = r.emptied(ctx)
	r.history.Reserved = r.target.Rest()
	r.records(ctx, topology.StreamOut, func(m jetstream.Msg, at time.Time) {
		if m.Subject() == subject.OutTry {
			return
		}
		_, id, err := subject.ParseJobRef("out", m.Subject())
		var c contracts.Chunk
		if err = errors.Join(err, contracts.Decode(m.Data(), &c)); err != nil {
			r.t.Errorf("record on %s: %v", m.Subject(), err)
		}
		if !strings.HasPrefix(id, r.plan.Name) {
			return // of a run before
		}
		r.history.Out[id] = append(r.history.Out[id], Record{&c, at})
	})
	r.records(ctx, topology.StreamDead, func(m jetstream.Msg, _ time.Time) {
		_, id, err := subject.ParseJobRef("dlq", m.Subject())
		if err != nil {
			r.t.Errorf("dead letter %s: %v", m.Subject(), err)
		}
		if !strings.HasPrefix(id, r.plan.Name) {
			return
		}
		r.history.Dead[id] = true
	})
}

// emptied waits until the queue is empty, the last acknowledgements being under way, and returns how
// many jobs are left.
func (r *run) emptied(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	left := -1
	for ctx.Err() == nil {
		s, err := r.js.Stream(ctx, topology.StreamJobs)
		if err == nil {
			if left = int(s.CachedInfo().State.Msgs); left == 0 {
				return 0
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return left
}

// records gives every message of a stream to take.
func (r *run) records(ctx context.Context, stream string, take func(jetstream.Msg, time.Time)) {
	r.t.Helper()
	s, err := r.js.Stream(ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	last := s.CachedInfo().State.LastSeq
	if s.CachedInfo().State.Msgs == 0 {
		return
	}
	cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		r.t.Fatal(err)
	}
	msgs, err := cons.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		r.t.Fatal(err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			r.t.Fatalf("read %s: %v", stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			r.t.Fatal(err)
		}
		take(m, meta.Timestamp)
		if meta.Sequence.Stream >= last {
			return
		}
	}
}
