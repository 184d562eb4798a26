// Package client is the Go client of a fleet's producers: submit a job, stream its answer, follow a job
// that runs elsewhere, cancel.
//
// It is step 2 of the walk: a [contracts.Job] is put on submit.<tenant> here, and the next step is
// dispatcher/intake.go, which reads it there. It is step 13 as well: the records that worker/emit wrote
// are read here from live.<tenant>.<job>, put in order by contracts/stream, and refilled from the
// stream OUT where the live subject lost some.
//
// It never publishes jobs or records to JetStream, and holds no state of a job but that of its readers.
// A [Client] is safe for concurrent use; a [Stream] belongs to one goroutine.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/retry"
	"github.com/pelton-run/pelton/contracts/subject"
)

// Client submits and reads the jobs of one tenant over one NATS connection, which it does not close.
type Client struct {
	nc      *nats.Conn
	tenant  string
	timeout time.Duration
	idle    time.Duration
	outage  time.Duration
	buffer  int
	replays bool
	retries int
	budget  *retry.Budget
	mayRead atomic.Bool // a subscription to live.<tenant>.… was allowed
	noOut   atomic.Bool // reading OUT was denied
}

// Option changes a Client.
type Option func(*Client)

// WithTimeout bounds the wait for each answer of a dispatcher; default 10 s. Cancel waits longer, see
// [Client.Cancel].
func WithTimeout(d time.Duration) Option { return func(c *Client) { c.timeout = d } }

// WithIdle sets after how much silence a [Stream] looks into OUT for records that the live subject
// lost, the final one above all; default 5 s, and so is 0 or less.
func WithIdle(d time.Duration) Option {
	return func(c *Client) {
		if d > 0 {
			c.idle = d
		}
	}
}

// WithOutage sets how long a [Stream] waits for a broker that does not answer, before it ends with
// [contracts.CodeUnavailable]; the job goes on, [Client.Follow] reads it. Default 2 minutes, which a restart
// takes; with 0 or less it waits as long as its ctx.
func WithOutage(d time.Duration) Option { return func(c *Client) { c.outage = d } }

// WithBuffer sets how many live records wait for a slow reader; default 1024, and so is 0 or less. What does
// not fit is dropped and read from OUT when the reader gets there.
func WithBuffer(records int) Option {
	return func(c *Client) {
		if records > 0 {
			c.buffer = records
		}
	}
}

// WithoutReplay is for connections that may not read OUT ($JS.API.DIRECT.GET.OUT): a lost record is
// then an error at once, and Follow is refused.
func WithoutReplay() Option { return func(c *Client) { c.replays = false } }

// New makes a client of tenant; the empty tenant is "default". See [Connect] for a connection that
// suits it.
func New(nc *nats.Conn, tenant string, opts ...Option) *Client {
	tenant = cmp.Or(tenant, "default")
	c := &Client{nc: nc, tenant: tenant, timeout: 10 * time.Second, idle: 5 * time.Second, outage: 2 * time.Minute, buffer: 1024, replays: true, budget: retry.NewBudget()}
	for _, o := range opts {
		o(c)
	}
	return c
}

func (c *Client) canReplay() bool { return c.replays && !c.noOut.Load() }

// errNoAnswer is the cause of a context that ran into the client's own time limit.
var errNoAnswer = errors.New("no answer in time")

// watch derives a context that also ends when the server denies subj. A denied request gets no answer,
// only an error on the connection; context.Cause tells which end it was.
func (c *Client) watch(ctx context.Context, subj string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	before := c.nc.LastError()
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := c.denied(before, subj); err != nil {
					cancel(err)
				}
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// denied is an error when the connection's last error, other than before, refuses subj.
func (c *Client) denied(before error, subj string) error {
	err := c.nc.LastError()
	if err == nil || err == before || !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subj+`"`) {
		return nil
	}
	return contracts.Errorf(contracts.CodePermissionDenied, "these credentials may not use the subject %s: use those of tenant %s, or ask the operator for it", subj, c.tenant)
}

// request asks the dispatcher on subj.
func (c *Client) request(ctx context.Context, subj string, data []byte, timeout time.Duration) ([]byte, error) {
	limited, done := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer done()
	watched, stop := c.watch(limited, subj)
	defer stop()
	msg, err := c.nc.RequestWithContext(watched, subj, data)
	if err == nil {
		return msg.Data, nil
	}
	return nil, c.explain(ctx, watched, subj, err)
}

// explain makes a coded error of a request's failure.
func (c *Client) explain(ctx, watched context.Context, subj string, err error) error {
	var coded *contracts.Error
	switch {
	case errors.As(context.Cause(watched), &coded):
		return coded
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w (%w)", noAnswer(subj, "in the caller's time"), ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("request %s: %w", subj, ctx.Err())
	case errors.Is(err, nats.ErrNoResponders):
		return contracts.Errorf(contracts.CodeUnavailable, "no dispatcher listens on %s: start one (pelton up or pelton dispatcher), or retry when it is back", subj)
	case errors.Is(err, nats.ErrMaxPayload):
		return contracts.Errorf(contracts.CodePayloadTooLarge, "the request is over the %d bytes that the NATS server takes: shorten it", c.nc.MaxPayload())
	case errors.Is(context.Cause(watched), errNoAnswer):
		if denied := c.denied(nil, subj); denied != nil {
			return denied
		}
		return noAnswer(subj, fmt.Sprintf("(connection %s)", c.nc.Status()))
	}
	return contracts.Errorf(contracts.CodeUnavailable, "request %s: %v (connection %s): retry when the broker is back, with the same job id, which never runs a job twice", subj, err, c.nc.Status())
}

// noAnswer says of a request that was sent that nobody knows what became of it.
func noAnswer(subj, why string) *contracts.Error {
	return contracts.Errorf(contracts.CodeUnavailable, "no answer on %s %s: it may have been taken; retry with the same job id, which never runs a job twice", subj, why)
}

// Cancel asks for the end of a job and returns its status once its slot in the worker is free, or at
// once when it was over already. It waits as long as ctx, at most a minute. An unknown job is
// [contracts.CodeNotFound].
func (c *Client) Cancel(ctx context.Context, job string) (contracts.Status, error) {
	return c.ask(ctx, "cancel", subject.Cancel(c.tenant, job), job, time.Minute)
}

// Status asks a dispatcher where a job is. [contracts.CodeNotFound]: it was never accepted, or it ended
// too long ago.
func (c *Client) Status(ctx context.Context, job string) (contracts.Status, error) {
	return c.ask(ctx, "status", subject.Status(c.tenant, job), job, c.timeout)
}

// ask is a request that is answered with a Status.
func (c *Client) ask(ctx context.Context, verb, subj, job string, timeout time.Duration) (contracts.Status, error) {
	if job == "" {
		return contracts.Status{}, contracts.Invalid("job", "job id is missing")
	}
	data, err := c.request(ctx, subj, nil, timeout)
	if err != nil {
		return contracts.Status{}, err
	}
	var a contracts.Answer
	if err := contracts.Decode(data, &a); err != nil {
		return contracts.Status{}, fmt.Errorf("answer to the %s of job %s: %w", verb, job, err)
	}
	if a.Outcome != "" {
		if err := a.Err(); err != nil {
			return contracts.Status{}, err
		}
	}
	var s contracts.Status
	if err := contracts.Decode(data, &s); err != nil {
		return contracts.Status{}, fmt.Errorf("answer to the %s of job %s: %w", verb, job, err)
	}
	return s, nil
}
