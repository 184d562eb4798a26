package intake

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
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

// echoes are the pauses after which a line that rang and then had no job is asked again: the broker
// acknowledges a publish, after which the bell rings, a moment before its consumers see the message.
var echoes = []time.Duration{time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 125 * time.Millisecond}

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
	Sweep  time.Duration // how often all lines are asked in case a bell was missed; default 1 s
	Logger *slog.Logger
}

// Intake takes jobs from the lines of one model.
type Intake struct {
	cfg   Config
	lines *Lines
	msgs  chan *nats.Msg // what arrives on the inbox
	rings chan Line

	inbox    string
	requests uint64
	bell     *nats.Subscription
	had      bool // there was room when we last looked
	rung     map[Line]*echo
}

// echo is a line that rang lately.
type echo struct {
	tries int
	at    time.Time // when to ask again; zero while the line is marked
}

// New makes an intake that waits for Run.
func New(cfg Config) *Intake {
	if cfg.Sweep == 0 {
		cfg.Sweep = time.Second
	}
	return &Intake{
		cfg: cfg, lines: NewLines(cfg.Cost), inbox: cfg.Conn.NewRespInbox(),
		msgs: make(chan *nats.Msg, 64), rings: make(chan Line, 256),
		rung: map[Line]*echo{},
	}
}

// Run takes jobs until ctx ends. A job whose message was on its way then is handed back.
func (i *Intake) Run(ctx context.Context) error {
	sub, err := i.cfg.Conn.ChanSubscribe(i.inbox+".*", i.msgs)
	if err != nil {
		return fmt.Errorf("intake: %w", err)
	}
	defer func() {
		i.listen(false)
		_ = sub.Unsubscribe()
		for len(i.msgs) > 0 {
			i.handBack(<-i.msgs)
		}
	}()
	sweep := time.NewTicker(i.cfg.Sweep)
	defer sweep.Stop()
	for ctx.Err() == nil {
		i.hear(sweep.C)
		free, slots := i.cfg.Room.Takes()
		i.listen(slots > 0 && free >= i.lines.Smallest())
		act := i.lines.Next(free, slots)
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

// listen subscribes to the bell while there is room. Getting room marks all lines: bells that rang
// meanwhile were heard by others, or by nobody.
func (i *Intake) listen(room bool) {
	if room == i.had {
		return
	}
	i.had = room
	if !room {
		if i.bell != nil {
			_ = i.bell.Unsubscribe()
			i.bell = nil
		}
		return
	}
	i.lines.MarkAll()
	bell, err := i.cfg.Conn.QueueSubscribe(subject.Bell(i.cfg.Model), "workers", func(m *nats.Msg) {
		class, size, _ := strings.Cut(string(m.Data), ".")
		select {
		case i.rings <- Line{contracts.Class(class), contracts.Size(size)}:
		default: // so many rings wait that the lines will be asked anyway
		}
	})
	if err != nil {
		i.cfg.Logger.Warn("bell", "model", i.cfg.Model, "err", err)
		return
	}
	i.bell = bell
}

// hear takes note of what happened while jobs were pulled, so that an urgent one is asked for next.
func (i *Intake) hear(sweep <-chan time.Time) {
	for {
		select {
		case ring := <-i.rings:
			i.ring(ring)
			continue
		case <-sweep:
			i.lines.MarkAll()
			continue
		default:
		}
		i.markEchoes()
		return
	}
}

// wait blocks until something may have changed.
func (i *Intake) wait(ctx context.Context, sweep <-chan time.Time) {
	again := time.NewTimer(i.nextEcho())
	defer again.Stop()
	select {
	case ring := <-i.rings:
		i.ring(ring)
	case <-again.C: // the echo is heard before the next decision
	case <-i.cfg.Room.Freed():
		i.lines.Forget()
	case <-i.cfg.Room.Fed(): // there are slots again, with the next look
	case <-sweep:
		i.lines.MarkAll()
	case msg := <-i.msgs:
		i.late(ctx, msg)
	case <-ctx.Done():
	}
}

func (i *Intake) ring(of Line) {
	if i.lines.Mark(of) {
		i.rung[of] = &echo{}
	}
}

// empty notes that a line had no job; if it rang lately, it will be asked again.
func (i *Intake) empty(of Line) {
	i.lines.Empty(of)
	e := i.rung[of]
	switch {
	case e == nil:
	case e.tries == len(echoes):
		delete(i.rung, of)
	default:
		e.at = time.Now().Add(echoes[e.tries])
		e.tries++
	}
}

// nextEcho is how long until a line must be asked again.
func (i *Intake) nextEcho() time.Duration {
	wait := time.Hour
	for _, e := range i.rung {
		if !e.at.IsZero() {
			wait = min(wait, time.Until(e.at))
		}
	}
	return wait
}

func (i *Intake) markEchoes() {
	for line, e := range i.rung {
		if !e.at.IsZero() && time.Until(e.at) <= 0 {
			e.at = time.Time{}
			i.lines.Mark(line)
		}
	}
}

// pull asks a line for one job, for which room is reserved.
func (i *Intake) pull(ctx context.Context, act Action, r *Reservation) {
	i.requests++
	reply := i.inbox + "." + strconv.FormatUint(i.requests, 10)
	consumer := subject.Consumer(i.cfg.Model, act.Line.Class, act.Line.Size)
	if err := i.cfg.Conn.PublishRequest(apiNext+consumer, reply, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
		r.Close()
		i.empty(act.Line)
		return
	}
	timeout := time.NewTimer(answerWait)
	defer timeout.Stop()
	done := ctx.Done()
	for {
		select {
		case msg := <-i.msgs:
			switch {
			case msg.Header.Get("Status") == "":
				i.lines.Took(act.Line)
				i.hand(ctx, msg, r)
				return
			case msg.Subject == reply: // 404: no job; 503: no such consumer (yet); 409: not now
				r.Close()
				i.empty(act.Line)
				return
			}
		case <-timeout.C: // an answer that still comes is late
			i.cfg.Logger.Warn("pull got no answer", "model", i.cfg.Model, "line", consumer)
			r.Close()
			i.empty(act.Line)
			return
		case <-done: // the answer is waited for all the same, or a job would be lost for an ack wait
			done = nil
			timeout.Reset(time.Second)
		}
	}
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

// look asks whether a job waits in a line without taking it.
func (i *Intake) look(ctx context.Context, of Line) bool {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	msg, err := i.cfg.Conn.RequestWithContext(ctx, apiInfo+subject.Consumer(i.cfg.Model, of.Class, of.Size), nil)
	var info struct {
		NumPending uint64 `json:"num_pending"`
	}
	if err != nil || json.Unmarshal(msg.Data, &info) != nil || info.NumPending == 0 {
		i.empty(of)
		return false
	}
	i.lines.Waits(of)
	return true
}
