package dispatcher

import (
	"context"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/state"
)

// listRests bounds how long no other list is made after one.
const listRests = 200 * time.Millisecond

// List tells the jobs that f lets through, newest first: see [state.List]. For one job in particular ask
// Status. One list is made at a time, and after it nothing for a while: whoever asks for many waits.
func (d *Dispatcher) List(ctx context.Context, f contracts.Filter) ([]contracts.Status, error) {
	select {
	case d.lists <- struct{}{}:
	case <-ctx.Done():
		return nil, contracts.Errorf(contracts.CodeOverloaded, "others list jobs: one list is made at a time: retry later")
	}
	defer func(began time.Time) {
		time.AfterFunc(min(listRests, state.ListRest*time.Since(began)), func() { <-d.lists })
	}(time.Now())
	list, err := state.List(ctx, state.Logs{Sched: d.sched, Jobs: d.jobs, Out: d.out, Span: d.span}, f)
	if err != nil {
		return nil, d.shown("list", f.Tenant, "", err)
	}
	return list, nil
}

// span is the first and the last sequence of OUT.
func (d *Dispatcher) span(ctx context.Context) (first, last uint64, err error) {
	s, err := d.js.Stream(ctx, topology.StreamOut)
	if err != nil {
		return 0, 0, err
	}
	return s.CachedInfo().State.FirstSeq, s.CachedInfo().State.LastSeq, nil
}
