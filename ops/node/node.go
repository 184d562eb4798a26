// Package node assembles the parts of the fleet that one process runs: an embedded broker, a
// dispatcher with its HTTP door, workers with their engines.
//
// Previous step of the walk: ops/cli, which reads the settings. Next steps: dispatcher, worker,
// runtime/onnx. The package reads no flags, no environment and no configuration file, and decides
// nothing about jobs.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/metrics"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/tokenizer"
	"github.com/pelton-run/pelton/worker"
	"github.com/pelton-run/pelton/worker/batch"
)

// Config says what one process runs.
type Config struct {
	Data   string // folder of the embedded broker; needed unless Remote is set
	Listen string // address of the embedded broker; "" is this process only
	Remote Remote // an external broker instead of the embedded one
	Security

	Dispatcher bool
	HTTP       string // address of the HTTP door; "" is none
	Workers    int    // for each model
	WorkerName string // default host name; a random suffix is added, so that a worker that starts again is another one
	Models     []Served
	Memory     int64         // upper bound of each worker's resident bytes, of which all models have a part; 0 is what the machine allows
	Grace      time.Duration // how long a drain may take; default 30 s
	Topology   topology.Config
	BatchDelay time.Duration    // how long a call of a model that answers in one call waits for others to join it
	Overload   backlog.Settings // of the dispatcher

	Version string
	Log     *slog.Logger
	Metrics *metrics.Registry // default: a new one
}

// Node is the running process.
type Node struct {
	cfg        Config
	broker     *Broker
	conns      []*nats.Conn
	dispatcher *dispatcher.Dispatcher
	workers    []*worker.Worker
	memory     *sharing // of the engines; nil without any, or with modelled ones
	http       *http.Server
	listener   net.Listener
	keys       *apikey.Ring // of the HTTP door; nil lets everybody in

	draining atomic.Bool
	stop     context.CancelCauseFunc
	running  sync.WaitGroup
	failed   chan error
	serving  atomic.Int64  // workers that have not left, and one for the start
	left     chan struct{} // closed when it is 0
}

// Start brings everything up and returns when the dispatcher answers and the workers pull. On an
// error what was started is stopped again. The node runs until Stop; ctx only bounds the start.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New()
	}
	cfg.Grace = cmp.Or(cfg.Grace, 30*time.Second)
	run, stop := context.WithCancelCause(context.Background())
	n := &Node{cfg: cfg, stop: stop, failed: make(chan error, 16), left: make(chan struct{})}
	n.serving.Store(1)
	if err := n.start(ctx, run); err != nil {
		kill, cancel := context.WithCancel(context.Background())
		cancel()
		if stopped := n.Stop(kill); !errors.Is(stopped, context.Canceled) { // that is kill, not why the start failed
			err = errors.Join(err, stopped)
		}
		return nil, err
	}
	n.leave()
	return n, nil
}

func (n *Node) start(ctx, run context.Context) error {
	if n.cfg.Remote.URL == "" {
		if err := n.startBroker(ctx, run); err != nil {
			return err
		}
	}
	if n.cfg.Dispatcher {
		if err := n.startDispatcher(ctx, run); err != nil {
			return err
		}
	}
	if err := n.startWorkers(ctx, run); err != nil {
		return err
	}
	return n.startHTTP()
}

// Connect makes one more connection to the node's broker, as a producer of the tenant "default" where
// it asks for credentials; the caller closes it.
func (n *Node) Connect(name string) (*nats.Conn, error) { return n.connectAs(auth.Producer, name) }

// connect makes a connection that Stop closes.
func (n *Node) connect(role auth.Role, name string) (*nats.Conn, error) {
	nc, err := n.connectAs(role, name)
	if err == nil {
		n.conns = append(n.conns, nc)
	}
	return nc, err
}

func (n *Node) startDispatcher(ctx, run context.Context) error {
	nc, err := n.connect(auth.Dispatcher, "pelton dispatcher")
	if err != nil {
		return err
	}
	doors, err := n.connect(auth.Dispatcher, "pelton dispatcher doors")
	if err != nil {
		return err
	}
	asks, err := n.connect(auth.Dispatcher, "pelton dispatcher asks")
	if err != nil {
		return err
	}
	var models []dispatcher.Model
	var names []string
	for _, m := range n.cfg.Models {
		models, names = append(models, m.Model()), append(names, m.Name)
		if m.Tokenizer != nil && errors.Is(m.Tokenizer.ChatError(), tokenizer.ErrTemplate) {
			n.cfg.Log.Warn("chats are refused, plain prompts are taken", "model", m.Name, "error", m.Tokenizer.ChatError())
		}
	}
	d, err := dispatcher.New(dispatcher.Config{
		Conn: nc, Doors: doors, Asks: asks, Models: models, Topology: n.cfg.Topology, Overload: n.cfg.Overload, Logger: n.cfg.Log, Trace: n.cfg.Metrics.Dispatcher(names...),
	})
	if err != nil {
		return err
	}
	n.dispatcher = d
	n.goRun("dispatcher", func() error { return d.Run(run) })
	return n.await(ctx, "dispatcher", d.Ready)
}

func (n *Node) startWorkers(ctx, run context.Context) error {
	name := workerName(n.cfg.WorkerName)
	var engines, answering []*Served
	for i := range n.cfg.Models {
		for range n.cfg.Workers {
			if s := &n.cfg.Models[i]; s.answers != nil {
				answering = append(answering, s)
			} else {
				engines = append(engines, s)
			}
		}
	}
	graphs, err := openGraphs(n.cfg, answering) // first, so that the engines plan with the rest of the memory
	if err != nil {
		return err
	}
	for i, g := range graphs {
		cfg := answering[i].answers.worker(g, n.cfg)
		cfg.Name = fmt.Sprintf("%s-%s-%d", name, answering[i].Name, i)
		if err := n.startWorker(run, cfg, g.Shutdown, func() {}); err != nil {
			return err
		}
	}
	opened, err := n.openEngines(ctx, engines)
	if err != nil {
		return err
	}
	if n.memory != nil {
		n.goRun("memory", func() error { return n.memory.run(run) })
	}
	for i, e := range opened {
		id := name
		if len(opened) > 1 {
			id = fmt.Sprintf("%s-%d", name, i)
		}
		cfg := worker.Config{Name: id, Engine: e.Engine, Tokenizer: engines[i].Tokenizer, EOS: engines[i].EOS, Trace: n.cfg.Metrics.Worker(e.Info().Model), Memory: e.Bytes}
		if err := n.startWorker(run, cfg, e.Shutdown, e.abandon); err != nil {
			return err
		}
	}
	if n.dispatcher == nil || len(opened)+len(graphs) == 0 {
		return nil
	}
	return n.await(ctx, "workers", func() bool { return len(n.dispatcher.Workers()) >= len(opened)+len(graphs) })
}

// startWorker runs a worker, and behind it end, or hung when a call that hangs still uses what end would free.
func (n *Node) startWorker(run context.Context, cfg worker.Config, end func() error, hung func()) (err error) {
	if cfg.Conn, err = n.connect(auth.Worker, "pelton worker "+cfg.Name); err != nil {
		return err
	}
	cfg.Logger, cfg.Resident = n.cfg.Log, memory.Resident
	w, err := worker.New(cfg)
	if err != nil {
		return err
	}
	n.workers = append(n.workers, w)
	n.serving.Add(1)
	n.goRun("worker "+cfg.Name, func() error {
		err := w.Run(run)
		if errors.Is(err, batch.ErrHung) {
			hung()
		} else {
			_ = end()
		}
		if err == nil {
			n.leave()
		}
		return err
	})
	return nil
}

func (n *Node) startHTTP() error {
	if n.cfg.HTTP == "" {
		return nil
	}
	handler, err := n.guarded()
	if err != nil {
		return err
	}
	l, err := n.listen()
	if err != nil {
		return err
	}
	n.listener, n.http = l, gateway.Server(handler)
	n.http.ErrorLog = slog.NewLogLogger(n.cfg.Log.Handler(), slog.LevelDebug) // clients that cannot speak TLS, and the like
	n.goRun("http", func() error {
		if err := n.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

func (n *Node) goRun(what string, run func() error) {
	n.running.Go(func() {
		if err := run(); err != nil && !errors.Is(err, context.Canceled) {
			n.failed <- fmt.Errorf("%s: %w", what, err)
		}
	})
}

// await waits until ready says yes, a part fails or ctx ends.
func (n *Node) await(ctx context.Context, what string, ready func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case err := <-n.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// Failed delivers the error of a part that ended by itself.
func (n *Node) Failed() <-chan error { return n.failed }

// leave counts a worker that left as it was told.
func (n *Node) leave() {
	if n.serving.Add(-1) == 0 && n.dispatcher == nil {
		close(n.left)
	}
}

// Left is closed when every worker of a process that runs nothing else was drained: it has nothing more to do.
func (n *Node) Left() <-chan struct{} { return n.left }

// HTTP is the address of the HTTP door, "" when there is none.
func (n *Node) HTTP() string {
	if n.listener == nil {
		return ""
	}
	return n.listener.Addr().String()
}

// NATS is the URL of the broker for other processes, "" when there is none.
func (n *Node) NATS() string {
	if n.broker == nil {
		return n.cfg.Remote.URL
	}
	return n.broker.URL()
}

// Ready is nil when jobs can be served: the dispatcher answers and a worker has joined.
func (n *Node) Ready() error {
	if n.draining.Load() {
		return contracts.Errorf(contracts.CodeUnavailable, "the fleet is draining")
	}
	if n.dispatcher == nil {
		return nil
	}
	if !n.dispatcher.Ready() {
		return contracts.Errorf(contracts.CodeUnavailable, "the dispatcher takes no jobs: it starts or ends, or the broker does not answer (pelton admin status, or its log)")
	}
	for _, m := range n.dispatcher.Models() {
		if m.Workers > 0 {
			return nil
		}
	}
	return contracts.Errorf(contracts.CodeUnavailable, "no worker has joined yet")
}

// Stop drains: takes nothing new, finishes running jobs until ctx ends, hands the rest back, and stops
// all parts.
func (n *Node) Stop(ctx context.Context) error {
	var errs []error
	n.draining.Store(true)
	if n.http != nil {
		n.http.SetKeepAlivesEnabled(false)
	}
	var drains sync.WaitGroup
	for _, w := range n.workers {
		drains.Go(func() { _ = w.Drain(ctx) })
	}
	drains.Wait()
	if n.dispatcher != nil {
		errs = append(errs, n.dispatcher.Drain(ctx))
	}
	if n.http != nil {
		if n.http.Shutdown(ctx) != nil {
			_ = n.http.Close()
		}
	}
	n.stop(errStopped)
	n.running.Wait()
	for _, nc := range n.conns {
		nc.Close()
	}
	if n.broker != nil {
		errs = append(errs, n.broker.Shutdown())
	}
	return errors.Join(errs...)
}

var errStopped = errors.New("node stopped")
