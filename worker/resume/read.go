package resume

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/stored"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

const (
	// batchRecords is how many records one request asks for.
	batchRecords = 512
	// quiet is how long a batch may stall before the read fails.
	quiet = 5 * time.Second
)

// Last fetches the newest record of a job's stream, nil if there is none. Any replica may answer, so
// it can be slightly behind.
func Last(ctx context.Context, nc *nats.Conn, tenant, job string) (*stored.Message, error) {
	last, err := stored.One(ctx, nc, topology.StreamOut, stored.Query{LastFor: subject.Out(tenant, job)})
	if err != nil {
		return nil, fmt.Errorf("read last record of job %s: %w", job, err)
	}
	return last, nil
}

// Read fetches all records of a job's stream. It fails if the broker does not answer; what is wrong
// with the records themselves is in Transcript.Broken.
func Read(ctx context.Context, nc *nats.Conn, tenant, job string) (*Transcript, error) {
	t := &Transcript{}
	for more := true; more; {
		var err error
		q := stored.Query{Seq: t.Last + 1, NextFor: subject.Out(tenant, job), Batch: batchRecords}
		_, more, err = stored.Batch(ctx, nc, topology.StreamOut, q, quiet, func(m *stored.Message) bool {
			t.Add(m.Seq, m.Time, m.Data)
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("read records of job %s: %w", job, err)
		}
	}
	return t, nil
}
