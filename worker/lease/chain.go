package lease

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/worker/resume"
)

// Errors that end a holder's work without a word to the broker, or at once.
var (
	// ErrFenced: another worker holds the job. Stop, free the memory, say nothing.
	ErrFenced = errors.New("another worker holds the job")
	// ErrLost: the broker has lost records of this holder that it had accepted, as after a power failure, so
	// that none can follow them. Stop, say nothing: the next holder goes on after what is left.
	ErrLost = errors.New("the broker lost records that it had accepted")
	// ErrFinished: the final record is there already. Acknowledge the job.
	ErrFinished = errors.New("the job has its final record")
)

const (
	publishWait = 2 * time.Second
	retryFirst  = 20 * time.Millisecond
	retryMost   = time.Second
	// lostAfter is for how long a replica may be behind: if the leader says for longer that a record does not
	// follow its newest one, and no other holder's is seen, it is what the record follows that is gone.
	lostAfter = 5 * time.Second
)

// Broker error codes of a publish that expects a last sequence.
const (
	wrongLastSequence     = 10071 // somebody else wrote
	sequenceCheckInFlight = 10164 // somebody else is writing (replicated streams)
)

// Chain appends records to one job's stream. Each record is accepted only if it directly follows the
// previous one of this chain.
type Chain struct {
	nc     *nats.Conn
	tenant string
	job    string
	fence  uint64
	last   uint64 // stream sequence of the newest record
	own    uint64 // and of the newest one that we know to be ours, also when it seems to be gone
}

// Last is the number of the newest record in the stream of all jobs. It belongs to the goroutine that appends.
func (c *Chain) Last() uint64 { return c.last }

// Append writes one record after the last one, filling in V, Job and Fence. It returns when the broker
// has accepted it, riding out stalls until ctx ends. ErrFenced means that another worker wrote,
// ErrLost that earlier records are gone; any other error that the record was refused for good or ctx ended
// (then it may or may not be stored).
func (c *Chain) Append(ctx context.Context, chunk *contracts.Chunk) error {
	chunk.V, chunk.Job, chunk.Fence = contracts.Version, c.job, c.fence
	data, err := contracts.Encode(chunk)
	if err != nil {
		return err
	}
	pause := retryFirst
	var wrong time.Time // since when the broker says that the record does not follow
	for {
		seq, err := c.publish(ctx, data)
		switch {
		case err == nil:
			c.last, c.own = seq, seq
			return nil
		case errors.Is(err, errRefused), errors.Is(err, nats.ErrConnectionClosed): // closed for good, not away
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("append record: %w", context.Cause(ctx))
		case !errors.Is(err, errWrong):
			wrong = time.Time{}
		case wrong.IsZero():
			wrong = time.Now()
		case time.Since(wrong) > lostAfter:
			return ErrLost
		}
		stored, err := c.reread(ctx, data)
		if stored || err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("append record: %w", context.Cause(ctx))
		}
		pause = min(2*pause, retryMost)
	}
}

// Lost tells whether a record of a later fence is stored: another worker has the job, or a dispatcher
// took it away. It says no while the broker is away. Unlike Append it is safe from any goroutine.
func (c *Chain) Lost(ctx context.Context) bool {
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	last, err := resume.Last(wait, c.nc, c.tenant, c.job)
	if err != nil || last == nil {
		return false
	}
	var newest contracts.Chunk
	_ = contracts.Decode(last.Data, &newest) // one of a later version has its fence too
	return newest.Fence > c.fence
}

// errRefused marks answers that a retry does not change.
var errRefused = errors.New("the broker refuses the record")

// errWrong: the record does not follow the newest one.
var errWrong = errors.New("wrong last sequence")

func (c *Chain) publish(ctx context.Context, data []byte) (uint64, error) {
	msg := nats.NewMsg(subject.Out(c.tenant, c.job))
	msg.Header.Set("Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(c.last, 10))
	msg.Data = data
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	reply, err := c.nc.RequestMsgWithContext(wait, msg)
	if err != nil {
		if errors.Is(err, nats.ErrMaxPayload) {
			return 0, fmt.Errorf("%w of %d bytes: %w", errRefused, len(data), err)
		}
		return 0, err
	}
	var ack struct {
		Seq   uint64 `json:"seq"`
		Error *struct {
			Code        int    `json:"code"`
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("publish acknowledgement %q: %w", reply.Data, err)
	}
	switch {
	case ack.Error == nil:
		return ack.Seq, nil
	case ack.Error.ErrCode == wrongLastSequence:
		return 0, fmt.Errorf("%w: %s", errWrong, ack.Error.Description)
	case ack.Error.ErrCode == sequenceCheckInFlight || ack.Error.Code == 503:
		return 0, fmt.Errorf("broker error %d: %s", ack.Error.ErrCode, ack.Error.Description)
	}
	return 0, fmt.Errorf("%w: error %d: %s", errRefused, ack.Error.ErrCode, ack.Error.Description)
}

// reread finds out what became of a record whose acknowledgement is missing or negative. stored: it is
// there. Neither stored nor an error: it is not, and may be sent again.
func (c *Chain) reread(ctx context.Context, data []byte) (stored bool, err error) {
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	last, err := resume.Last(wait, c.nc, c.tenant, c.job)
	switch {
	case err != nil:
		return false, nil // the broker is away: the caller tries again
	case last == nil:
		// Our own records aged out of the stream and nobody claimed since: the chain starts anew. Or a replica
		// answers that is behind: then what it has later is ours, and no other holder's.
		c.last = 0
		return false, nil
	case c.last == 0 && c.own > 0 && last.Seq <= c.own:
		c.last = c.own
		return false, nil
	case last.Seq > c.last && bytes.Equal(last.Data, data):
		c.last, c.own = last.Seq, last.Seq
		return true, nil
	case last.Seq > c.last:
		return false, ErrFenced
	}
	return false, nil
}
