package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/worker/lease"
	"github.com/pelton-run/pelton/worker/resume"
)

// giveUp ends a job with which too many holders failed: it is kept with its history in the dead letters, then its
// stream gets the final record. It does not run, so it can do no more harm. If the dead letter cannot be stored, the
// job is given back.
func (j *job) giveUp(hard context.Context, chain *lease.Chain, t *resume.Transcript) (*contracts.Chunk, error) {
	j.room.Close()
	last := t.Failure
	if last == nil {
		last = contracts.Errorf(contracts.CodeInternal, "its worker was lost")
	}
	failure := contracts.Errorf(last.Code, "given up after %d failures and kept in the dead letters; the last one: %s", j.failures, last.Message)
	if err := j.bury(hard, t, failure); err != nil {
		return nil, err
	}
	final := j.final(t, failure)
	return final, chain.Append(hard, final)
}

// bury writes the job's dead letter and waits until it is stored. A repetition replaces it.
func (j *job) bury(ctx context.Context, t *resume.Transcript, failure *contracts.Error) error {
	data, err := contracts.Encode(&contracts.Dead{
		V: contracts.Version, Job: j.ref.Job, Tenant: j.ref.Tenant, Code: failure.Code, Message: failure.Message,
		Died: time.Now().UnixMilli(), History: t.History, Tokens: t.Tokens(), Admitted: j.admitted,
	})
	if err != nil {
		return err
	}
	js, err := jetstream.New(j.w.cfg.Conn)
	if err != nil {
		return err
	}
	if _, err := js.Publish(ctx, subject.Dead(j.ref.Tenant, j.ref.Job), data); err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}
