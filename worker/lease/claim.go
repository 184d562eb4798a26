package lease

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/worker/resume"
)

// claimTries bounds how often a claim is repeated because somebody else wrote in between.
const claimTries = 16

// Opening makes the first record of a new holder from what is in the stream: a claim, or a final
// record at once for a job that shall not run.
type Opening func(t *resume.Transcript) *contracts.Chunk

// Take makes the caller, who has a delivery of a job, its holder: it reads what is there and appends the
// opening record under a new fence, which shuts out every older holder. The transcript is what was there
// before. ErrFinished: the final record is there (in the transcript). ErrFenced: a later delivery holds the
// job. Other errors: the broker does not answer.
func Take(ctx context.Context, nc *nats.Conn, tenant, job string, d Delivery, open Opening) (*Chain, *resume.Transcript, error) {
	t := &resume.Transcript{}
	var err error
	if d.Attempt > 1 { // a first delivery usually finds nothing; if it does, the append says so
		if t, err = resume.Read(ctx, nc, tenant, job); err != nil {
			return nil, nil, err
		}
	}
	for range claimTries {
		if t.Final != nil {
			return nil, t, ErrFinished
		}
		if t.Attempt > d.Attempt && !d.Queued.After(t.Claimed) {
			return nil, t, ErrFenced
		}
		c := &Chain{nc: nc, tenant: tenant, job: job, fence: t.Fence + 1, last: t.Last}
		err := c.Append(ctx, open(t))
		if err == nil {
			return c, t, nil
		}
		if !errors.Is(err, ErrFenced) {
			return nil, t, err
		}
		if t, err = resume.Read(ctx, nc, tenant, job); err != nil {
			return nil, nil, err
		}
	}
	return nil, t, contracts.Errorf(contracts.CodeUnavailable, "the claim lost %d races", claimTries)
}
