package lease

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Lease is the time-bounded right to run the job of one delivered message.
type Lease struct {
	nc      *nats.Conn
	reply   string
	attempt int

	once sync.Once
	stop chan struct{}
	done chan struct{}
}

// New takes a message that a consumer of the stream JOBS delivered and keeps it alive each every until
// Stop or one of the verbs. The error says that msg was not delivered by a consumer.
func New(nc *nats.Conn, msg *nats.Msg, every time.Duration) (*Lease, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("message on %s has no acknowledgement subject: %w", msg.Subject, err)
	}
	l := &Lease{nc: nc, reply: msg.Reply, attempt: int(meta.NumDelivered), stop: make(chan struct{}), done: make(chan struct{})}
	go l.keep(every)
	return l, nil
}

// Attempt is the delivery count of the job, from 1.
func (l *Lease) Attempt() int { return l.attempt }

func (l *Lease) keep(every time.Duration) {
	defer close(l.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// An error means that the connection is away; the next tick tries again.
			_ = l.nc.Publish(l.reply, []byte("+WPI"))
		case <-l.stop:
			return
		}
	}
}

// Stop ends the keep-alive and says nothing to the broker. It may be called more than once.
func (l *Lease) Stop() {
	l.once.Do(func() { close(l.stop) })
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
