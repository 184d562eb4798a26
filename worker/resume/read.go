package resume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

const (
	directGet = "$JS.API.DIRECT.GET." + topology.StreamOut
	// batchRecords is how many records one request asks for.
	batchRecords = 512
	// quiet is how long a batch may stall before the read fails.
	quiet = 5 * time.Second
)

// Record is one stored record of a job's stream.
type Record struct {
	Sequence uint64 // in the stream OUT
	Time     time.Time
	Data     []byte
}

// Last fetches the newest record of a job's stream, nil if there is none. Any replica may answer, so
// it can be slightly behind.
func Last(ctx context.Context, nc *nats.Conn, tenant, job string) (*Record, error) {
	msg, err := nc.RequestWithContext(ctx, directGet+"."+subject.Out(tenant, job), nil)
	if err != nil {
		return nil, fmt.Errorf("read last record of job %s: %w", job, err)
	}
	r, _, err := record(msg)
	if err != nil {
		return nil, fmt.Errorf("read last record of job %s: %w", job, err)
	}
	return r, nil
}

// Read fetches all records of a job's stream. It fails if the broker does not answer; what is wrong
// with the records themselves is in Transcript.Broken.
func Read(ctx context.Context, nc *nats.Conn, tenant, job string) (*Transcript, error) {
	sub, err := nc.SubscribeSync(nc.NewRespInbox())
	if err != nil {
		return nil, fmt.Errorf("read records of job %s: %w", job, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	t := &Transcript{}
	for {
		more, err := readBatch(ctx, nc, sub, subject.Out(tenant, job), t)
		if err != nil {
			return nil, fmt.Errorf("read records of job %s: %w", job, err)
		}
		if !more {
			return t, nil
		}
	}
}

// readBatch folds up to batchRecords records after t.Last into t and tells whether more may follow.
func readBatch(ctx context.Context, nc *nats.Conn, sub *nats.Subscription, out string, t *Transcript) (bool, error) {
	request, err := json.Marshal(map[string]any{"seq": t.Last + 1, "next_by_subj": out, "batch": batchRecords})
	if err != nil {
		return false, err
	}
	if err := nc.PublishRequest(directGet, sub.Subject, request); err != nil {
		return false, err
	}
	got := 0
	for {
		wait, cancel := context.WithTimeout(ctx, quiet)
		msg, err := sub.NextMsgWithContext(wait)
		cancel()
		if err != nil {
			return false, err
		}
		r, end, err := record(msg)
		switch {
		case err != nil:
			return false, err
		case end: // the server also says how many are left, zero in almost all cases
			left, _ := strconv.Atoi(msg.Header.Get("Nats-Num-Pending"))
			return got > 0 && left > 0, nil
		case r == nil:
			return false, nil
		}
		t.Add(r.Sequence, r.Time, r.Data)
		got++
	}
}

// record reads one answer of a direct get: a record, nil when there is none, or the end of a batch.
func record(msg *nats.Msg) (r *Record, end bool, err error) {
	switch status := msg.Header.Get("Status"); status {
	case "":
	case "404":
		return nil, false, nil
	case "204":
		return nil, true, nil
	case "503":
		return nil, false, nats.ErrNoResponders
	default:
		return nil, false, fmt.Errorf("stream %s answered %s %s", topology.StreamOut, status, msg.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil, false, errors.New("stream " + topology.StreamOut + " answered without a sequence")
	}
	at, _ := time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	return &Record{Sequence: seq, Time: at, Data: msg.Data}, false, nil
}
