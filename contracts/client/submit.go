package client

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

// Submit hands j to a dispatcher and returns its answer once the job waits durably in JetStream. It
// fills in what j lacks of V, ID (a UUIDv7), Tenant and Submitted. A refusal comes back as an
// [*contracts.Error]. Submitting the same job with the same ID again never runs it twice, so a call
// that failed with [contracts.CodeUnavailable] can be repeated.
func (c *Client) Submit(ctx context.Context, j *contracts.Job) (*contracts.Answer, error) {
	data, err := c.prepare(j)
	if err != nil {
		return nil, err
	}
	return c.persist(ctx, j, data)
}

// prepare completes, checks and encodes j.
func (c *Client) prepare(j *contracts.Job) ([]byte, error) {
	j.V = cmp.Or(j.V, contracts.Version)
	if j.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("draw a job id: %w", err)
		}
		j.ID = id.String()
	}
	j.Tenant = cmp.Or(j.Tenant, c.tenant)
	if j.Tenant != c.tenant {
		return nil, &contracts.Error{Code: contracts.CodePermissionDenied, Param: "tenant", Message: fmt.Sprintf("job of tenant %q on a client of tenant %q: make a client for it", j.Tenant, c.tenant)}
	}
	if j.Submitted == 0 {
		j.Submitted = time.Now().UnixMilli()
	}
	if err := j.Validate(); err != nil {
		return nil, err
	}
	data, err := contracts.Encode(j)
	if err != nil {
		return nil, err
	}
	if limit := c.nc.MaxPayload(); limit > 0 && int64(len(data)) > limit {
		return nil, contracts.Errorf(contracts.CodePayloadTooLarge, "the job has %d bytes, the NATS server takes %d: shorten the prompt", len(data), limit)
	}
	return data, nil
}

func (c *Client) submit(ctx context.Context, id string, data []byte) (*contracts.Answer, error) {
	reply, err := c.request(ctx, subject.Submit(c.tenant), data, c.timeout)
	if err != nil {
		return nil, fmt.Errorf("submit job %s: %w", id, err)
	}
	var a contracts.Answer
	if err := contracts.Decode(reply, &a); err != nil {
		return nil, fmt.Errorf("answer to job %s: %w", id, err)
	}
	if err := a.Err(); err != nil {
		return &a, err
	}
	return &a, nil
}
