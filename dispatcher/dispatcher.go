package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/time/rate"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/agenda"
	"github.com/pelton-run/pelton/dispatcher/backlog"
	"github.com/pelton-run/pelton/dispatcher/fleet"
	"github.com/pelton-run/pelton/dispatcher/gate"
	"github.com/pelton-run/pelton/dispatcher/guard"
	"github.com/pelton-run/pelton/dispatcher/priority"
	"github.com/pelton-run/pelton/dispatcher/relay"
	"github.com/pelton-run/pelton/dispatcher/room"
	"github.com/pelton-run/pelton/dispatcher/state"
	"github.com/pelton-run/pelton/dispatcher/turn"
)

// group is the queue group of the dispatchers: each request reaches one of them.
const group = "dispatcher"

// doorWaiting is how many requests wait at a door to be looked at, a second's or two. More are dropped: they would
// hold memory, and all others up.
const doorWaiting = 65_536

// lookAround is how often a dispatcher checks whether it lost live records.
const lookAround = 250 * time.Millisecond

// Dispatcher admits jobs and brings their streams back.
//
//	new ──Run──▶ starting ──streams and doors ready──▶ ready ──Drain──▶ draining ──ctx ends──▶ stopped
//	                                                     └──────────────ctx ends──────────────▶
//
// Submits and cancels are taken while it is ready; streams are served until it stops.
type Dispatcher struct {
	cfg         Config
	log         *slog.Logger
	trace       *Trace
	js          jetstream.JetStream
	catalog     *admission.Catalog
	limits      admission.Limits
	fleet       *fleet.Watch
	relay       *relay.Relay
	out, jobs   *relay.Log
	sched, dead *relay.Log
	room        *room.Room
	deadlines   *agenda.Agenda
	clock       agenda.Clock
	urgent      *fleet.Urgent
	guard       *guard.Guard
	backlog     *backlog.Backlog
	name        string // among the dispatchers
	turns       *turn.Turns
	submits     *gate.Gate
	cancels     *gate.Gate
	looks       chan struct{}           // full while many ask about jobs
	ids         gate.Keys[priority.Key] // of the jobs that are being submitted
	lists       *state.Lists
	keeps       atomic.Int64   // how long JOBS keeps a message, in nanoseconds
	said        rate.Sometimes // say
	ready       atomic.Bool
	started     atomic.Bool

	mu    sync.Mutex
	doors []*nats.Subscription // by which requests come in
}

// New checks the configuration. It does not talk to the broker; Run does.
func New(cfg Config) (*Dispatcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("dispatcher configuration: %w", err)
	}
	cfg = cfg.withDefaults()
	catalog, err := admission.NewCatalog(cfg.Models)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(cfg.Conn, jetstream.WithDefaultTimeout(cfg.Timeout))
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	d := &Dispatcher{
		cfg: cfg, log: cfg.Logger, trace: cfg.Trace, js: js, catalog: catalog,
		limits:  admission.Limits{ChatMaxTokens: cfg.DefaultMaxTokensChat, TextMaxTokens: cfg.DefaultMaxTokensText},
		fleet:   fleet.NewWatch(cfg.WorkerTTL),
		sched:   relay.NewLog(cfg.Conn, topology.StreamSched, cfg.Timeout),
		dead:    relay.NewLog(cfg.Conn, topology.StreamDead, cfg.Timeout),
		out:     relay.NewLog(cfg.Conn, topology.StreamOut, cfg.Timeout),
		jobs:    relay.NewLog(cfg.Conn, topology.StreamJobs, cfg.Timeout),
		submits: gate.New("submits", cfg.MaxSubmits),
		cancels: gate.New("cancels", cfg.MaxCancels),
		looks:   make(chan struct{}, maxLooks),
		name:    nuid.Next(),
		said:    rate.Sometimes{Interval: time.Second},
	}
	d.room = room.New(d.sched)
	d.lists = state.NewLists(state.Logs{Sched: d.sched, Jobs: d.jobs, Out: d.out, Dead: d.dead})
	d.backlog = backlog.New(cfg.Overload, d.fleet.Live)
	d.deadlines, d.urgent = agenda.New(d.clock.Now, d.expire), fleet.NewUrgent()
	d.turns = d.newTurns()
	d.guard = d.newGuard()
	d.relay = relay.New(relay.Config{Conn: cfg.Conn, Out: d.out, Buffer: cfg.Buffer, Idle: cfg.Idle, Refilled: cfg.Trace.Refilled, Holder: d.onHolder, Piece: d.onPiece})
	return d, nil
}

// Run makes the broker match the topology, opens the doors and serves until ctx ends, which is not an
// error. It can be called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	if d.started.Swap(true) {
		return errors.New("dispatcher: Run was called before")
	}
	if err := d.ensure(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	d.askTime(ctx)
	if err := d.turns.Recall(ctx); err != nil {
		d.log.Warn("tokens of the day not read, trying again", "error", err)
	}
	run, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer func() {
		d.ready.Store(false)
		stop()
		d.relay.Close()
		for _, g := range []*gate.Gate{d.submits, d.cancels} {
			<-g.Shut("the dispatcher has stopped")
		}
		work.Wait()
	}()
	for _, g := range []*gate.Gate{d.submits, d.cancels} {
		g.Open()
	}
	live, side, err := d.subscribe(run)
	defer func() { d.unsubscribe(append(side, live)...) }()
	defer d.closeDoors()
	if err != nil {
		return err
	}
	service, err := d.announce()
	if err != nil {
		return err
	}
	defer func() { _ = service.Stop() }() // it only answers questions; nothing is lost with it
	d.ready.Store(true)
	d.log.Info("dispatcher ready", "models", d.catalog.Names())
	work.Go(func() { d.deadlines.Run(run) })
	work.Go(func() { d.rescan(run) })
	work.Go(func() { d.serveDue(run) })
	work.Go(func() { d.probe(run) })
	work.Go(func() { d.handOvers(run) })
	work.Go(func() { d.findHeld(run) })
	work.Go(func() { d.preempt(run) })
	work.Go(func() { d.turns.Run(run) })
	work.Go(func() { d.guard.Run(run) })
	work.Go(func() { d.sweeps(run) })
	work.Go(func() { d.operates(run) })
	return d.watch(run, live)
}

// ensure creates the streams and consumers; a broker that is not up yet is waited for.
func (d *Dispatcher) ensure(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		drift, err := topology.Ensure(ctx, d.js, d.cfg.Topology, d.catalog.Names()...)
		for _, c := range drift {
			d.log.Info("topology changed", "object", c.Object, "change", c.Change)
		}
		if err == nil {
			err = d.operate(ctx)
		}
		if err == nil {
			d.limits.MaxRecord = min(int(d.cfg.Conn.MaxPayload()), topology.MaxRecord)
			d.limits.MaxBytes = min(int(d.cfg.Conn.MaxPayload())-headerRoom, int(d.cfg.Topology.Streams()[0].MaxMsgSize)-headerRoom)
			return nil
		}
		if !transient(err) {
			return fmt.Errorf("topology: %w", err)
		}
		d.log.Warn("broker not ready, retrying", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// away tells whether err means that the broker did not answer a submit.
func away(err error) bool {
	return transient(err) || contracts.CodeOf(err) == contracts.CodeUnavailable
}

// transient tells whether the broker may be all right a moment later.
func transient(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == 503
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, jetstream.ErrJetStreamNotEnabled)
}

// subscribe opens the relay, the fleet's view and, last, the doors.
func (d *Dispatcher) subscribe(ctx context.Context) (live *nats.Subscription, side []*nats.Subscription, err error) {
	conns := []*nats.Conn{d.cfg.Conn, d.cfg.Doors, d.cfg.Asks}
	var before [3]error
	for i, c := range conns {
		before[i] = c.LastError()
	}
	if live, err = d.relay.Subscribe(); err != nil {
		return nil, nil, err
	}
	heartbeats, err := d.fleet.Subscribe(d.cfg.Conn)
	if err != nil {
		return live, nil, err
	}
	side = append(side, heartbeats)
	for all, hear := range map[string]nats.MsgHandler{subject.AllLoads: d.onShare, subject.AllLevels: d.onLevel} {
		sub, err := d.cfg.Conn.Subscribe(all, hear)
		if err != nil {
			return live, side, fmt.Errorf("subscribe %s: %w", all, err)
		}
		side = append(side, sub)
	}
	for _, door := range []struct {
		conn    *nats.Conn
		subject string
		handle  func(context.Context, *nats.Msg)
	}{{d.cfg.Doors, subject.AllSubmits, d.onSubmit}, {d.cfg.Asks, subject.AllCancels, d.onJob("cancel", d.cfg.CancelWait, d.cancel)}, {d.cfg.Asks, subject.AllStatus, d.onJob("status", d.cfg.Timeout, d.where)}} {
		sub, err := door.conn.QueueSubscribe(door.subject, group, func(m *nats.Msg) { door.handle(ctx, m) })
		if err != nil {
			return live, side, fmt.Errorf("subscribe %s: %w", door.subject, err)
		}
		if err := sub.SetPendingLimits(doorWaiting, nats.DefaultSubPendingBytesLimit); err != nil {
			return live, side, fmt.Errorf("subscribe %s: %w", door.subject, err)
		}
		d.mu.Lock()
		d.doors = append(d.doors, sub)
		d.mu.Unlock()
	}
	flush, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	for i, c := range conns {
		if err := c.FlushWithContext(flush); err != nil {
			return live, side, fmt.Errorf("open the doors: %w", err)
		}
		if denied := c.LastError(); denied != before[i] && errors.Is(denied, nats.ErrPermissionViolation) {
			return live, side, fmt.Errorf("open the doors: %w: use the dispatcher's credentials (pelton auth init)", denied)
		}
	}
	return live, side, nil
}

func (d *Dispatcher) closeDoors() {
	d.mu.Lock()
	doors := d.doors
	d.doors = nil
	d.mu.Unlock()
	d.unsubscribe(doors...)
}

func (d *Dispatcher) unsubscribe(subs ...*nats.Subscription) {
	for _, s := range subs {
		if s == nil {
			continue
		}
		if err := s.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
			d.log.Warn("subscription not ended", "subject", s.Subject, "error", err)
		}
	}
}

// watch blocks until ctx ends or the connection is closed. It makes readers look into OUT when live
// records may have been lost.
func (d *Dispatcher) watch(ctx context.Context, live *nats.Subscription) error {
	states := d.cfg.Conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer d.cfg.Conn.RemoveStatusListener(states)
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	dropped := 0
	for !d.cfg.Conn.IsClosed() && !d.cfg.Doors.IsClosed() && !d.cfg.Asks.IsClosed() { // also before anybody listened for it
		select {
		case <-ctx.Done():
			return nil
		case <-states:
			d.fleet.Restart()
			d.doubt()
		case <-tick.C:
			if n, err := live.Dropped(); err == nil && n != dropped {
				d.log.Warn("live records dropped, readers refill", "dropped", n-dropped)
				dropped = n
				d.doubt()
			}
		}
	}
	return errors.New("dispatcher: the connection to the broker was closed")
}

// doubt says that live records may have been lost.
func (d *Dispatcher) doubt() {
	d.relay.Doubt()
	d.turns.Doubt()
}

// Ready tells whether submits are taken: Run has opened the doors, no drain has begun, and the broker is
// connected and answers those that it is to queue.
func (d *Dispatcher) Ready() bool {
	return d.ready.Load() && d.cfg.Conn.IsConnected() && !slices.ContainsFunc([]string{partReads, topology.StreamJobs, topology.StreamOut}, d.guard.Out)
}

// Drain takes nothing new and waits until the submits and cancels that are inside are answered, or ctx
// ends. Streams go on until Run's context ends.
func (d *Dispatcher) Drain(ctx context.Context) error {
	d.ready.Store(false)
	d.closeDoors()
	for _, g := range []*gate.Gate{d.submits, d.cancels} {
		select {
		case <-g.Shut("the dispatcher is draining"):
		case <-ctx.Done():
			return fmt.Errorf("dispatcher drain: %w", context.Cause(ctx))
		}
	}
	return nil
}
