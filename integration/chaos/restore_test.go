package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/admin"
)

// TestRestore backs a fleet up in the middle of its work and loses it, broker and all. In a new fleet made
// of the backup every job that was admitted before ends exactly once, with the answer of a calm run; so do
// those that were admitted meanwhile, when their producer submits them again.
func TestRestore(t *testing.T) {
	t.Parallel()
	floor := Floor{Workers: 2, Slots: 3, Step: 8 * time.Millisecond, AckWait: 2 * time.Second}
	old := NewInProcess(t, floor)
	orders, dir := Orders(*seed, 8, 80, Model), filepath.Join(t.TempDir(), "backup")
	r := begin(t.Context(), t, old, Plan{Seed: *seed, Orders: orders})
	for i := range 24 {
		r.order(t, fmt.Sprintf("before-%02d", i), i, time.Duration(i%4/3)*1500*time.Millisecond)
	}
	old.await("running streams", func() bool { return old.streaming("") > 1 })
	var late sync.Once
	_, err := admin.Backup(t.Context(), old.ctl, dir, func(stream string, _, _ int64) {
		if stream != topology.StreamDead { // JOBS is copied, OUT is not
			return
		}
		late.Do(func() {
			done := old.streaming("")
			r.order(t, "during-00", 0, 0)
			old.await("progress while the backup runs", func() bool { return old.streaming("during-00") > 0 || old.streaming("") < done })
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	old.Rest()
	var restored *admin.Restored
	floor.Before = func(nc *nats.Conn) {
		if restored, err = admin.Restore(t.Context(), nc, dir, admin.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	fleet := NewInProcess(t, floor)
	t.Logf("restored %+v", restored)
	again := r.moved(t, fleet)
	again.order(t, "during-00", 0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for _, id := range slices.Sorted(maps.Keys(again.history.Kinds)) {
		all.Go(func() {
			rd := &reader{nats: fleet.NATS(), doors: fleet.Doors(), rng: rand.New(rand.NewPCG(*seed, 3)), job: id, many: orders[again.history.Kinds[id]].Params.N != nil, got: &Received{}, last: -1}
			got := rd.read(ctx, nil, 1)
			again.mu.Lock()
			defer again.mu.Unlock()
			again.history.Received[id] = append(again.history.Received[id], got)
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		again.missing(t)
	}
	again.collect(ctx)
	report(t, again.history)
}

// missing says of each job that has no final record where the broker has it.
func (r *run) missing(t *testing.T) {
	t.Helper()
	for id, got := range r.history.Received {
		if got[0].Final != nil {
			continue
		}
		t.Errorf("%s: %d tokens came, then nothing; out of order: %v", id, got[0].Tokens(), got[0].Wrong)
		for _, stream := range []string{topology.StreamSched, topology.StreamJobs, topology.StreamDead, topology.StreamOut} {
			s, err := r.js.Stream(t.Context(), stream)
			if err != nil {
				t.Errorf("stream %s: %v", stream, err)
				continue
			}
			info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(">"))
			if err != nil {
				t.Errorf("stream %s: %v", stream, err)
				continue
			}
			for subject, n := range info.State.Subjects {
				if strings.HasSuffix(subject, "."+id) || stream == topology.StreamJobs {
					t.Errorf("stream %s has %d messages on %s", stream, n, subject)
				}
			}
		}
	}
}

// order submits the job of kind number i, to begin after a while.
func (r *run) order(t *testing.T, id string, i int, after time.Duration) {
	t.Helper()
	kind := r.kinds[i%len(r.kinds)]
	j := r.plan.Orders[kind]
	if j.ID = id; after > 0 {
		j.NotBefore = time.Now().Add(after).UnixMilli()
	}
	for {
		again := j
		_, err := r.client.Submit(t.Context(), &again)
		if err == nil {
			break
		}
		if contracts.CodeOf(err) != contracts.CodeUnavailable || t.Context().Err() != nil {
			t.Fatalf("submit %s: %v", id, err)
		}
	}
	r.history.Kinds[id] = kind
}

// moved is r on another fleet that holds the same jobs.
func (r *run) moved(t *testing.T, to *InProcess) *run {
	t.Helper()
	n := begin(t.Context(), t, to, Plan{Seed: r.plan.Seed, Orders: nil})
	n.plan, n.kinds = r.plan, r.kinds
	n.history.Kinds, n.history.References = maps.Clone(r.history.Kinds), r.history.References
	return n
}

// streaming counts the jobs that are running and have tokens: all, or the one named.
func (f *InProcess) streaming(job string) (n int) {
	for _, h := range f.hands {
		for _, j := range h.Snapshot().Jobs {
			if j.Index > 0 && (job == "" || j.Job == job) {
				n++
			}
		}
	}
	return n
}
