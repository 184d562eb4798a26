package lease

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Lease is the time-bounded right to run the job of one delivered message.
type Lease struct {
	nc       *nats.Conn
	reply    string
	delivery Delivery

	guard chan guard
	stop  context.CancelFunc
	done  chan struct{}
}

// Delivery says of a message which one it is.
type Delivery struct {
	Attempt int       // delivery count, from 1
	Queued  time.Time // when the message was stored; a job that is queued anew begins to count anew
}

// guard is what [Lease.Guard] was given.
type guard struct {
	lost func(context.Context) bool
	then func()
}

// New takes a message that a consumer of the stream JOBS delivered and keeps it alive each every until
// Stop or one of the verbs. The error says that msg was not delivered by a consumer.
func New(nc *nats.Conn, msg *nats.Msg, every time.Duration) (*Lease, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("message on %s has no acknowledgement subject: %w", msg.Subject, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Lease{nc: nc, reply: msg.Reply, delivery: Delivery{int(meta.NumDelivered), meta.Timestamp}, guard: make(chan guard, 1), stop: stop, done: make(chan struct{})}
	go func() {
		then := l.keep(ctx, every)
		close(l.done)
		if then != nil {
			then()
		}
	}()
	return l, nil
}

// Delivery is which delivery of the job this is.
func (l *Lease) Delivery() Delivery { return l.delivery }

// Guard asks lost before each time that the lease is kept alive. When it says yes, the lease ends
// silently and then is called: so a holder that has nothing to write notices as well. Call it once.
func (l *Lease) Guard(lost func(context.Context) bool, then func()) { l.guard <- guard{lost, then} }

// keep keeps the delivery alive until ctx ends, or it is lost: then it returns what to call.
func (l *Lease) keep(ctx context.Context, every time.Duration) (then func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var g guard
	for {
		select {
		case g = <-l.guard:
		case <-tick.C:
			if g.lost != nil && g.lost(ctx) {
				return g.then
			}
			if ctx.Err() != nil {
				return nil
			}
			// An error means that the connection is away; the next tick tries again.
			_ = l.nc.Publish(l.reply, []byte("+WPI"))
		case <-ctx.Done():
			return nil
		}
	}
}

// Stop ends the keep-alive and says nothing to the broker. It may be called more than once.
func (l *Lease) Stop() {
	l.stop()
	<-l.done
}

// Ack tells the broker that the job is done and waits for its confirmation.
func (l *Lease) Ack(ctx context.Context) error { return l.say(ctx, "+ACK") }

// Nak hands the job back; another worker gets it after delay.
func (l *Lease) Nak(ctx context.Context, delay time.Duration) error {
	if delay <= 0 {
		return l.say(ctx, "-NAK")
	}
	return l.say(ctx, fmt.Sprintf(`-NAK {"delay": %d}`, delay.Nanoseconds()))
}

// Term removes the job: no worker shall try it again.
func (l *Lease) Term(ctx context.Context, reason string) error { return l.say(ctx, "+TERM "+reason) }

// say ends the lease with a verb that the broker confirms. The confirmation is asked for twice; if it
// does not come, the job is delivered again after the ack wait, which finds the final record.
func (l *Lease) say(ctx context.Context, verb string) error {
	l.Stop()
	var err error
	for range 2 {
		wait, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err = l.nc.RequestWithContext(wait, l.reply, []byte(verb))
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("confirm %.4s: %w", verb, err)
	}
	return nil
}
