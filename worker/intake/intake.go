package intake

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

const (
	apiNext = "$JS.API.CONSUMER.MSG.NEXT." + topology.StreamJobs + "."
	apiInfo = "$JS.API.CONSUMER.INFO." + topology.StreamJobs + "."
	// answerWait is how long the broker may take to answer a pull.
	answerWait = 5 * time.Second
	// lookWait is how long it may take to say how many jobs wait.
	lookWait = 2 * time.Second
)

// Config of an [Intake].
type Config struct {
	Conn  *nats.Conn
	Model string
	Room  *Room
	// Cost is the memory in bytes that a job of a size class may need on this worker.
	Cost func(contracts.Size) int64
	// Handle takes over a job and its reservation; it must end with Reservation.Close. Calls come one
	// at a time, and nothing is pulled while one lasts.
	Handle func(ctx context.Context, msg *nats.Msg, r *Reservation)
	Sweep  time.Duration // how often all lines are asked of its own accord; default 10 s
	Logger *slog.Logger
}

// Intake takes jobs from the lines of one model.
type Intake struct {
	cfg   Config
	asker *Asker
	msgs  chan *nats.Msg // what arrives on the inbox
	rings chan Line

	missed   atomic.Bool // more rang than rings holds
	inbox    string
	requests uint64
	bell     *nats.Subscription
}

// New makes an intake that waits for Run.
func New(cfg Config) *Intake {
	cfg.Sweep = cmp.Or(cfg.Sweep, Sweep)
	return &Intake{
		cfg: cfg, asker: NewAsker(cfg.Cost), inbox: cfg.Conn.NewRespInbox(),
		msgs: make(chan *nats.Msg, 64), rings: make(chan Line, 256),
	}
}

// Run takes jobs until ctx ends. A job whose message was on its way then is handed back.
func (i *Intake) Run(ctx context.Context) error {
	sub, err := i.cfg.Conn.ChanSubscribe(i.inbox+".*", i.msgs)
	if err != nil {
		return fmt.Errorf("intake: %w", err)
	}
	defer func() {
		i.deaf()
		_ = sub.Unsubscribe()
		for len(i.msgs) > 0 {
			i.handBack(<-i.msgs)
		}
	}()
	sweep := time.NewTicker(i.cfg.Sweep)
	defer sweep.Stop()
	for ctx.Err() == nil {
		i.hear(sweep.C)
		now := time.Now()
		free, slots := i.cfg.Room.Takes(now)
		act := i.asker.Next(free, slots, now)
		i.listen()
		switch act.Do {
		case Pull:
			if r := i.cfg.Room.Reserve(act.Cost, 1); r != nil {
				i.pull(ctx, act, r)
			} else if i.look(ctx, act.Line) { // a model must be loaded or unloaded first
				i.cfg.Room.Want(act.Cost)
				i.wait(ctx, sweep.C)
			}
		case Look:
			i.look(ctx, act.Line)
		case Wait:
			i.cfg.Room.Want(act.Cost)
			i.wait(ctx, sweep.C)
		}
	}
	return nil
}

// listen subscribes to the bell while there is room, before anything is asked, and rings it for those that
// have room when there is none here any more.
func (i *Intake) listen() {
	if !i.asker.Listens() {
		i.deaf()
		for _, l := range i.asker.Passed() {
			_ = i.cfg.Conn.Publish(subject.Bell(i.cfg.Model), subject.Ring(l.Class, l.Size)) // else a sweep finds it
		}
		return
	}
	if i.bell != nil {
		return
	}
	bell, err := i.cfg.Conn.QueueSubscribe(subject.Bell(i.cfg.Model), "workers", func(m *nats.Msg) {
		class, size, _ := strings.Cut(string(m.Data), ".")
		select {
		case i.rings <- Line{contracts.Class(class), contracts.Size(size)}:
		default:
			i.missed.Store(true)
		}
	})
	if err != nil {
		i.cfg.Logger.Warn("bell", "model", i.cfg.Model, "err", err)
		return
	}
	i.bell = bell
}

// deaf ends the subscription.
func (i *Intake) deaf() {
	if i.bell != nil {
		_ = i.bell.Unsubscribe()
		i.bell = nil
	}
}

// hear takes note of what happened while jobs were pulled, so that an urgent one is asked for next.
func (i *Intake) hear(sweep <-chan time.Time) {
	if i.missed.Swap(false) {
		i.asker.Doubt()
	}
	for {
		select {
		case ring := <-i.rings:
			i.asker.Ring(ring)
			continue
		case <-sweep:
			i.asker.Doubt()
			continue
		default:
		}
		return
	}
}

// wait blocks until something may have changed.
func (i *Intake) wait(ctx context.Context, sweep <-chan time.Time) {
	again := time.NewTimer(i.asker.Again(time.Now()))
	defer again.Stop()
	select {
	case ring := <-i.rings:
		i.asker.Ring(ring)
	case <-again.C: // a pause is over
	case <-i.cfg.Room.Freed():
		i.asker.Forget()
	case <-i.cfg.Room.Fed(): // there are slots again, with the next look
	case <-sweep:
		i.asker.Doubt()
	case msg := <-i.msgs:
		i.late(ctx, msg)
	case <-ctx.Done():
	}
}

// pull asks a line for one job, for which room is reserved.
func (i *Intake) pull(ctx context.Context, act Action, r *Reservation) {
	msg := i.next(ctx, act.Line)
	if msg == nil {
		r.Close()
		i.asker.Empty(act.Line, time.Now())
		return
	}
	i.asker.Took(act.Line, left(msg), time.Now())
	i.hand(ctx, msg, r)
}

// next is the next job of a line, nil when it has none.
func (i *Intake) next(ctx context.Context, of Line) *nats.Msg {
	i.requests++
	reply := i.inbox + "." + strconv.FormatUint(i.requests, 10)
	consumer := subject.Consumer(i.cfg.Model, of.Class, of.Size)
	if err := i.cfg.Conn.PublishRequest(apiNext+consumer, reply, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
		return nil
	}
	timeout := time.NewTimer(answerWait)
	defer timeout.Stop()
	done := ctx.Done()
	for {
		select {
		case msg := <-i.msgs:
			switch {
			case msg.Header.Get("Status") == "":
				return msg
			case msg.Subject == reply: // 404: no job; 503: no such consumer (yet); 409: not now
				return nil
			}
		case <-timeout.C: // an answer that still comes is late
			i.cfg.Logger.Warn("pull got no answer", "model", i.cfg.Model, "line", consumer)
			return nil
		case <-done: // the answer is waited for all the same, or a job would be lost for an ack wait
			done = nil
			timeout.Reset(time.Second)
		}
	}
}

// left is how many jobs the broker says are left in the line that msg came from, beside those that were
// handed back.
func left(msg *nats.Msg) uint64 {
	meta, err := msg.Metadata()
	if err != nil {
		return 1 // not known; the lease will refuse it
	}
	return meta.NumPending
}

// late handles a message that comes when nobody waits for it: the answer to a pull that timed out.
func (i *Intake) late(ctx context.Context, msg *nats.Msg) {
	if msg.Header.Get("Status") != "" {
		return
	}
	job, err := subject.ParseJob(msg.Subject)
	if err != nil {
		i.handBack(msg)
		return
	}
	if r := i.cfg.Room.Reserve(i.cfg.Cost(job.Size), 1); r != nil {
		i.hand(ctx, msg, r)
		return
	}
	i.handBack(msg)
}

func (i *Intake) hand(ctx context.Context, msg *nats.Msg, r *Reservation) {
	if ctx.Err() != nil {
		r.Close()
		i.handBack(msg)
		return
	}
	i.cfg.Handle(ctx, msg, r)
}

func (i *Intake) handBack(msg *nats.Msg) {
	if msg.Header.Get("Status") == "" && msg.Reply != "" {
		_ = i.cfg.Conn.Publish(msg.Reply, []byte("-NAK"))
	}
}

// look asks whether a job waits in a line without keeping it. The broker does not count those that were handed back: they
// are found only by taking one.
func (i *Intake) look(ctx context.Context, of Line) bool {
	once, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	msg, err := i.cfg.Conn.RequestWithContext(once, apiInfo+subject.Consumer(i.cfg.Model, of.Class, of.Size), nil)
	var info struct {
		NumPending    uint64 `json:"num_pending"`
		NumAckPending uint64 `json:"num_ack_pending"`
		Paused        bool   `json:"paused"` // an operator's doing: nothing comes out, whatever waits
	}
	waits := err == nil && json.Unmarshal(msg.Data, &info) == nil && info.NumPending > 0 && !info.Paused
	if !waits && info.NumAckPending > 0 && !info.Paused {
		if msg := i.next(ctx, of); msg != nil {
			i.handBack(msg)
			waits = true
		}
	}
	if !waits {
		i.asker.Empty(of, time.Now())
		return false
	}
	i.asker.Waits(of)
	return true
}
