// Package state says where jobs are, from the streams alone.
//
// It stands beside the walk: dispatcher/status.go asks it what the messages of a job mean. A job is scheduled or held while only SCHED has it, queued while only JOBS has it, running once OUT
// has a record of it, and over when the last record is final. It writes nothing and keeps nothing.
package state

import (
	"context"
	"fmt"
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher/relay"
)

// Queued is the status of a job that only JOBS or SCHED has; a is nil when its message is damaged.
func Queued(m *relay.Message, a *contracts.Admitted) (contracts.Status, error) {
	if !InJobs(m) {
		return scheduled(m, a)
	}
	ref, err := subject.ParseJob(m.Subject)
	s := contracts.Status{Job: ref.Job, State: contracts.StateQueued, Class: ref.Class, Model: ref.Model, Tenant: ref.Tenant, Submitted: m.Time.UnixMilli()}
	if a != nil {
		s.Submitted = a.Job.Submitted
	}
	return s, err
}

// ClaimOf is the claim that holds for a job's last record, nil when there is none, and the record
// decoded. A record without a claim has it in the first record; when a later worker took the job over,
// the fences differ and all records are read.
func ClaimOf(ctx context.Context, out *relay.Log, last *relay.Message) (*contracts.Claim, *contracts.Chunk, error) {
	record, err := Decode(last)
	if err != nil || record.Claim != nil {
		return record.Claim, record, err
	}
	m, err := out.Next(ctx, last.Subject, 1)
	if m == nil || err != nil {
		return nil, record, err
	}
	first, err := Decode(m)
	if err != nil || first.Fence == record.Fence {
		return first.Claim, record, err
	}
	claim := first.Claim
	err = out.Read(ctx, last.Subject, m.Seq+1, func(m *relay.Message) bool {
		if c, err := Decode(m); err == nil && c.IsClaim() {
			claim = c.Claim
		}
		return m.Seq < last.Seq
	})
	return claim, record, err
}

// Decode is the record that a message of OUT holds.
func Decode(m *relay.Message) (*contracts.Chunk, error) {
	var c contracts.Chunk
	if err := contracts.Decode(m.Data, &c); err != nil {
		return &c, contracts.Errorf(contracts.CodeInternal, "record %d on %s is damaged: %v", m.Seq, m.Subject, err)
	}
	return &c, nil
}

// Ended tells whether the last record of a job, nil if it has none, is a final one. A damaged one is, since no worker
// can go on behind it.
func Ended(last *relay.Message) bool {
	if last == nil {
		return false
	}
	c, err := Decode(last)
	return err != nil || c.Final()
}

// scheduled is the status of a job that only SCHED has; a is nil when its message is damaged.
func scheduled(m *relay.Message, a *contracts.Admitted) (contracts.Status, error) {
	tenant, job, err := parseSched(m.Subject)
	s := contracts.Status{Job: job, State: contracts.StateScheduled, Tenant: tenant, Submitted: m.Time.UnixMilli()}
	if strings.HasPrefix(m.Subject, "hold.") {
		s.State = contracts.StateHeld
	}
	if a != nil {
		s.Class, s.Model, s.Submitted = a.Job.Class, a.Job.Model, a.Job.Submitted
	}
	return s, err
}

func parseSched(s string) (tenant, job string, err error) {
	prefix, _, _ := strings.Cut(s, ".")
	if prefix != "sched" && prefix != "due" && prefix != "hold" {
		return "", "", fmt.Errorf("subject %q is not one of SCHED", s)
	}
	return subject.ParseJobRef(prefix, s)
}

// InJobs tells whether a message is one of JOBS, and not of SCHED.
func InJobs(m *relay.Message) bool { return strings.HasPrefix(m.Subject, "jobs.") }
