package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

// pageMessages is how many records are read at once.
const pageMessages = 500

// removeOrphans removes the records of jobs that neither ended nor wait: they were admitted after the
// copy of JOBS and before that of OUT. With their records there, nobody would ever run or end them.
func removeOrphans(ctx context.Context, nc *nats.Conn) (removed []string, err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	out, err := js.Stream(ctx, topology.StreamOut)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil // not a fleet's account
	}
	if err != nil {
		return nil, err
	}
	waiting, err := waitingJobs(ctx, js)
	if err != nil {
		return nil, err
	}
	open, err := unended(ctx, out)
	if err != nil {
		return nil, err
	}
	for _, s := range open {
		if waiting[strings.TrimPrefix(s, "out.")] {
			continue
		}
		if err := out.Purge(ctx, jetstream.WithPurgeSubject(s)); err != nil {
			return removed, fmt.Errorf("purge %s: %w", s, err)
		}
		removed = append(removed, s)
	}
	return removed, nil
}

// waitingJobs are the jobs in JOBS and SCHED, as the last two tokens of their subjects.
func waitingJobs(ctx context.Context, js jetstream.JetStream) (map[string]bool, error) {
	waiting := map[string]bool{}
	for _, name := range []string{topology.StreamJobs, topology.StreamSched} {
		s, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil {
			return nil, err
		}
		for subj := range info.State.Subjects {
			tokens := strings.Split(subj, ".")
			if len(tokens) >= 3 {
				waiting[strings.Join(tokens[len(tokens)-2:], ".")] = true
			}
		}
	}
	return waiting, nil
}

// unended are the subjects of OUT whose last record is not a final one.
func unended(ctx context.Context, out jetstream.Stream) (open []string, err error) {
	c, err := out.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubject: subject.AllOut,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	left := c.CachedInfo().NumPending
	defer func() {
		if e := out.DeleteConsumer(context.WithoutCancel(ctx), c.CachedInfo().Name); err == nil {
			err = e
		}
	}()
	for left > 0 {
		page, err := c.Fetch(int(min(left, pageMessages)), jetstream.FetchMaxWait(stall))
		if err != nil {
			return nil, err
		}
		got := uint64(0)
		for m := range page.Messages() {
			got++
			var r contracts.Chunk
			if contracts.Decode(m.Data(), &r) == nil && !r.Final() {
				open = append(open, m.Subject())
			}
		}
		if got == 0 {
			return nil, errors.Join(fmt.Errorf("%d records of OUT were not delivered", left), page.Error(), ctx.Err())
		}
		left -= min(got, left)
	}
	return open, nil
}
