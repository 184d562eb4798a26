package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sim"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker"
)

// patience is how long anything may take that must come.
const patience = 2 * time.Minute

// Model is what simulated fleets serve.
const Model = "sim"

// Floor says how large a fleet in this process is.
type Floor struct {
	Workers     int           // default 3
	Dispatchers int           // default 1
	Slots       int           // sequences of each worker; default 4
	Step        time.Duration // of the simulated device; 0 is no time at all
	Topology    topology.Config
	AckWait     time.Duration                           // of the consumers; default topology.AckWait
	Worker      func(*worker.Config)                    // optional: changes every worker
	Engine      func(engine.Engine) engine.Engine       // optional: stands before every engine
	Dispatcher  func(which int, cfg *dispatcher.Config) // optional: changes every dispatcher
	Before      func(broker *nats.Conn)                 // optional: runs when there is the broker, and nothing else yet
}

// InProcess is a fleet in this process: a broker on a port, dispatchers with their HTTP doors, and
// workers on simulated devices, each on a wire of its own.
type InProcess struct {
	t      testing.TB
	floor  Floor
	broker *node.Broker
	ctl    *nats.Conn // of the operator
	model  dispatcher.Model

	mu       sync.Mutex
	born     int
	hands    []*hand
	desks    []*desk
	reserved map[string]int64
	freezes  sync.WaitGroup
}

// hand is one running worker.
type hand struct {
	*worker.Worker
	name   string
	wire   *wire
	conn   *nats.Conn
	engine *sim.Engine
	stop   context.CancelFunc
	ended  chan error
}

// desk is one running dispatcher.
type desk struct {
	*dispatcher.Dispatcher
	wire  *wire
	conn  *nats.Conn
	stop  context.CancelFunc
	ended chan error
	http  *http.Server
	url   string
}

// NewInProcess starts a fleet that ends with the test.
func NewInProcess(t testing.TB, floor Floor) *InProcess {
	t.Helper()
	floor.Workers, floor.Dispatchers, floor.Slots = max(1, floor.Workers), max(1, floor.Dispatchers), max(1, floor.Slots)
	f := &InProcess{t: t, floor: floor, reserved: map[string]int64{}}
	var err error
	f.broker, err = node.StartBroker(t.TempDir(), "127.0.0.1:0", slog.New(slog.DiscardHandler))
	f.must(err)
	t.Cleanup(func() { f.must(f.broker.Shutdown()) })
	f.ctl, err = nats.Connect(f.broker.URL())
	f.must(err)
	t.Cleanup(f.ctl.Close)
	if floor.Before != nil {
		floor.Before(f.ctl)
	}
	tok, err := tokenizer.Parse(sim.TokenizerJSON(), sim.ChatTemplate())
	f.must(err)
	f.model = dispatcher.Model{Name: Model, Tokenizer: tok, ContextLength: 8192, Vocab: 259}
	t.Cleanup(func() { f.Rest() })
	for i := range floor.Dispatchers {
		f.desks = append(f.desks, nil)
		f.open(i)
	}
	if floor.AckWait > 0 {
		f.shorten()
	}
	for i := range floor.Workers {
		f.hands = append(f.hands, nil)
		f.hire(i)
	}
	return f
}

func (f *InProcess) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// shorten makes the leases end sooner than the topology says.
func (f *InProcess) shorten() {
	js, err := jetstream.New(f.ctl)
	f.must(err)
	for _, c := range f.floor.Topology.Consumers(Model) {
		c.AckWait = f.floor.AckWait
		_, err := js.UpdateConsumer(f.t.Context(), topology.StreamJobs, c)
		f.must(err)
	}
}

// connect makes a connection over a wire that the fleet can cut.
func (f *InProcess) connect(name string) (*wire, *nats.Conn) {
	f.t.Helper()
	w := newWire()
	nc, err := nats.Connect(f.broker.URL(), nats.Name(name), nats.SetCustomDialer(w), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.PingInterval(2*time.Second), nats.ReconnectBufSize(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	f.must(err)
	return w, nc
}

// hire puts a new worker in place i.
func (f *InProcess) hire(i int) {
	f.t.Helper()
	f.born++
	h := &hand{name: fmt.Sprintf("w%d.%d", i, f.born), ended: make(chan error, 1)}
	h.wire, h.conn = f.connect(h.name)
	profile, err := sim.ProfileFor("l40s")
	f.must(err)
	profile.C0, profile.Sched, profile.PerToken = f.floor.Step, 0, f.floor.Step/500
	profile.PerRow = profile.PerToken
	h.engine = sim.New(sim.Config{Model: Model, Profile: profile, MaxSequences: f.floor.Slots, Sleep: f.sleep()})
	var e engine.Engine = h.engine
	if f.floor.Engine != nil {
		e = f.floor.Engine(e)
	}
	cfg := worker.Config{Name: h.name, Conn: h.conn, Engine: e, Tokenizer: f.model.Tokenizer.(*tokenizer.Tokenizer), EOS: sim.EOS(), AckWait: f.floor.AckWait}
	if f.floor.Worker != nil {
		f.floor.Worker(&cfg)
	}
	h.Worker, err = worker.New(cfg)
	f.must(err)
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	go func() { h.ended <- h.Run(ctx) }()
	f.mu.Lock()
	f.hands[i] = h
	f.mu.Unlock()
}

// sleep is nil, for real time, unless steps take none.
func (f *InProcess) sleep() func(context.Context, time.Duration) error {
	if f.floor.Step > 0 {
		return nil
	}
	return func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
}

// open puts a new dispatcher and its door in place i, where the old one was.
func (f *InProcess) open(i int) {
	f.t.Helper()
	d := &desk{ended: make(chan error, 1)}
	d.wire, d.conn = f.connect(fmt.Sprint("dispatcher ", i))
	cfg := dispatcher.Config{Conn: d.conn, Models: []dispatcher.Model{f.model}, Topology: f.floor.Topology}
	if f.floor.Dispatcher != nil {
		f.floor.Dispatcher(i, &cfg)
	}
	var err error
	d.Dispatcher, err = dispatcher.New(cfg)
	f.must(err)
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	go func() { d.ended <- d.Run(ctx) }()
	f.await("a dispatcher", func() bool {
		select {
		case err := <-d.ended:
			f.t.Fatalf("dispatcher %d: %v", i, err)
		default:
		}
		return d.Ready()
	})
	handler, err := gateway.New(gateway.Config{Jobs: d.Dispatcher, Models: func() []admission.ModelStatus { return []admission.ModelStatus{{Name: Model, Workers: 1}} }})
	f.must(err)
	address := "127.0.0.1:0"
	if old := f.desks[i]; old != nil {
		address = old.url[len("http://"):]
	}
	l, err := net.Listen("tcp", address)
	f.must(err)
	d.http, d.url = gateway.Server(handler), "http://"+l.Addr().String()
	go func() { _ = d.http.Serve(l) }()
	f.mu.Lock()
	f.desks[i] = d
	f.mu.Unlock()
}

// await waits for what has no signal of its own.
func (f *InProcess) await(what string, ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			f.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// NATS is the broker's URL.
func (f *InProcess) NATS() string { return f.broker.URL() }

// Doors are the URLs of the HTTP doors.
func (f *InProcess) Doors() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var urls []string
	for _, d := range f.desks {
		urls = append(urls, d.url)
	}
	return urls
}

// Strike does a fault, to the next worker that is in the middle of a stream, and tells whether one was.
func (f *InProcess) Strike(ctx context.Context, fault Fault) bool {
	f.t.Helper()
	if fault.Kind == Dispatch {
		f.reopen(fault.Which)
		return true
	}
	i, hit := f.busy(ctx, fault.Which)
	h := f.hands[i]
	switch fault.Kind {
	case Kill:
		h.wire.cut()
		h.conn.Close()
		f.bury(h)
		f.hire(i)
	case Drain:
		ctx, cancel := context.WithTimeout(ctx, fault.For)
		_ = h.Drain(ctx)
		cancel()
		f.bury(h)
		f.hire(i)
	case Freeze:
		h.wire.freeze()
		f.freezes.Go(func() {
			time.Sleep(fault.For)
			h.wire.thaw()
		})
	case Preempt:
		for _, j := range h.Snapshot().Jobs[:min(1, len(h.Snapshot().Jobs))] {
			f.must(f.ctl.Publish(subject.CtlPreempt(j.Tenant, j.Job), nil))
		}
	}
	return hit
}

// busy finds the next worker from place i on that has written tokens of a job that it still runs; it waits
// a while for one.
func (f *InProcess) busy(ctx context.Context, i int) (which int, hit bool) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(3 * time.Second); ; {
		for k := range f.hands {
			which := (i + k) % len(f.hands)
			for _, j := range f.hands[which].Snapshot().Jobs {
				if j.Index > 0 {
					return which, true
				}
			}
		}
		select {
		case <-tick.C:
		case <-late:
			return i, false
		case <-ctx.Done():
			return i, false
		}
	}
}

// bury waits until a worker is gone and notes what it still holds.
func (f *InProcess) bury(h *hand) {
	h.wire.thaw()
	h.stop()
	select {
	case err := <-h.ended:
		if err != nil && !h.conn.IsClosed() {
			f.t.Errorf("worker %s: %v", h.name, err)
		}
	case <-time.After(patience):
		f.t.Errorf("worker %s did not end within %v", h.name, patience)
	}
	h.conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reserved[h.name] = h.Snapshot().KV.Reserved + h.engine.Memory().Reserved
	_ = h.engine.Shutdown()
}

// reopen lets a dispatcher die and starts another one in its place.
func (f *InProcess) reopen(i int) {
	f.shut(f.desks[i])
	f.open(i)
	if f.floor.AckWait > 0 { // the new one made the layout its own
		f.shorten()
	}
}

func (f *InProcess) shut(d *desk) {
	d.wire.cut()
	d.conn.Close()
	d.stop()
	_ = d.http.Close()
	select {
	case err := <-d.ended:
		if err != nil && !errors.Is(err, context.Canceled) && !d.conn.IsClosed() {
			f.t.Errorf("dispatcher: %v", err)
		}
	case <-time.After(patience):
		f.t.Errorf("a dispatcher did not end within %v", patience)
	}
}

// Rest stops all workers and dispatchers and says what each worker that ever ran held at its end.
func (f *InProcess) Rest() map[string]int64 {
	f.freezes.Wait()
	for _, h := range f.hands {
		if h != nil {
			f.bury(h)
		}
	}
	for _, d := range f.desks {
		if d != nil {
			f.shut(d)
		}
	}
	f.hands, f.desks = nil, nil
	return f.reserved
}
