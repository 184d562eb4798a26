package fleet

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/tick"
)

// MostGrace is the longest time that a draining worker's jobs may be given.
const MostGrace = 24 * time.Hour

// Drain tells a live worker to take no more jobs, to let those that it runs go on for grace, hand the rest back and
// leave. It returns what the worker said last, when that is that it drains or it left. To repeat it is safe; the
// grace that ends first counts. CodeNotFound: no such worker lives.
func (w *Watch) Drain(ctx context.Context, nc *nats.Conn, worker string, grace time.Duration) (contracts.Heartbeat, error) {
	if _, lives := w.find(worker); !lives {
		return contracts.Heartbeat{}, contracts.Errorf(contracts.CodeNotFound, "no live worker %q: see pelton worker ls", worker)
	}
	if err := nc.Publish(subject.CtlDrain(worker), strconv.AppendInt(nil, grace.Milliseconds(), 10)); err != nil {
		return contracts.Heartbeat{}, contracts.Errorf(contracts.CodeUnavailable, "worker %q is not told (%v): retry", worker, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience*w.ttl)
	defer cancel()
	for range tick.Now(ctx, w.ttl/100) {
		h, lives := w.find(worker)
		if !lives {
			h = contracts.Heartbeat{Worker: worker, State: contracts.WorkerStopped}
		}
		if h.State != contracts.WorkerReady {
			return h, nil
		}
	}
	if denied := nc.LastError(); errors.Is(denied, nats.ErrPermissionViolation) { // it shows as silence
		return contracts.Heartbeat{}, contracts.Errorf(contracts.CodeUnavailable, "worker %q does not drain (%v): renew the rights of the roles with pelton auth init and reload the broker", worker, denied)
	}
	return contracts.Heartbeat{}, contracts.Errorf(contracts.CodeUnavailable, "worker %q lives and does not drain: it is older than this dispatcher, or its role's rights are (pelton auth init renews them); end its process with SIGTERM, which drains it too", worker)
}

// find is what a live worker said last.
func (w *Watch) find(worker string) (h contracts.Heartbeat, lives bool) {
	live := w.Live()
	i := slices.IndexFunc(live, func(h contracts.Heartbeat) bool { return h.Worker == worker })
	if i < 0 {
		return h, false
	}
	return live[i], true
}
