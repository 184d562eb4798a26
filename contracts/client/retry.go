package client

import (
	"context"
	"maps"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/retry"
)

// leastWait is the least that is waited before a job is submitted again; it doubles each time.
const leastWait = 100 * time.Millisecond

// WithRetries makes the client submit a job again, up to so many times, that was refused for load or quota, or
// that nobody answered for. It waits as long as the refusal says and up to half as long again, so that those who
// were refused together do not come back together; not at all when the job's deadline or ctx would be over by
// then; and never when too many of its requests are repeats already: at most [retry.Share] of them and
// [retry.Burst]. The label [retry.Label] tells the dispatcher. Default: none.
func WithRetries(most int) Option { return func(c *Client) { c.retries = most } }

// persist is submit and, after a refusal that may pass, submit again under the same id.
func (c *Client) persist(ctx context.Context, j *contracts.Job, data []byte) (*contracts.Answer, error) {
	c.budget.First()
	for again := 1; ; again++ {
		a, err := c.submit(ctx, j.ID, data)
		if err == nil || again > c.retries {
			return a, err
		}
		e := contracts.AsError(err)
		wait, may := pauseFor(e, j, again, time.Now())
		if !may || ctx.Err() != nil || !c.budget.Take() {
			return a, err
		}
		if d, ok := ctx.Deadline(); ok && time.Until(d) < wait {
			return a, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return a, err
		}
		repeat := *j
		repeat.Labels = maps.Clone(j.Labels)
		if repeat.Labels == nil {
			repeat.Labels = map[string]string{}
		}
		repeat.Labels[retry.Label] = strconv.Itoa(again)
		if more, encoded := c.prepare(&repeat); encoded == nil { // else there is no room for the label
			data = more
		}
	}
}

// pauseFor is how long to wait before a job is submitted again that was refused with e.
func pauseFor(e *contracts.Error, j *contracts.Job, again int, now time.Time) (wait time.Duration, may bool) {
	switch e.Code {
	case contracts.CodeOverloaded, contracts.CodeQuotaExceeded, contracts.CodeUnavailable:
	default:
		return 0, false
	}
	wait = max(leastWait<<min(again-1, 6), time.Duration(e.RetryAfterMS)*time.Millisecond)
	wait += rand.N(wait/2 + 1)
	late := j.Deadline > 0 && now.Add(wait).UnixMilli() >= j.Deadline
	return wait, !e.NoRetry && !late
}
