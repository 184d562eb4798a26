package worker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/worker/batch"
)

const (
	// recent is the weight of the newest step in the running means.
	recent = 0.1
	// Fade is what each step takes from the weight of all before it: they last for about 500.
	Fade = 0.002
	// Heartbeat is the time between two heartbeats unless the configuration says otherwise.
	Heartbeat = 500 * time.Millisecond
)

// stats are a worker's counters. Safe from any goroutine.
type stats struct {
	done, failed, prompt, output atomic.Int64

	mu     sync.Mutex
	stepMS float64
	rows   float64
	sums   contracts.StepSums
}

func (s *stats) step(b batch.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	took, rows := float64(b.Duration)/float64(time.Millisecond), float64(b.Rows)
	if b.Err == nil {
		s.sums.Add(float64(b.PrefillTokens), float64(b.DecodeRows), took, Fade)
	}
	if s.rows == 0 {
		s.stepMS, s.rows = took, rows
		return
	}
	s.stepMS += recent * (took - s.stepMS)
	s.rows += recent * (rows - s.rows)
}

func (s *stats) snapshot(resident int64) contracts.WorkerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return contracts.WorkerStats{
		JobsDone: s.done.Load(), JobsFailed: s.failed.Load(), PromptTokens: s.prompt.Load(), OutputTokens: s.output.Load(),
		StepMS: s.stepMS, Batch: s.rows, ResidentBytes: resident,
	}
}

// steps is what the heartbeat says of the steps; budget is the prompt tokens of one.
func (s *stats) steps(budget int) *contracts.StepSums {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sums.N == 0 {
		return nil
	}
	sums := s.sums
	sums.Budget = budget
	return &sums
}

// beats sends a heartbeat at once, at each interval and at each change of state, until ctx ends.
func (w *Worker) beats(ctx context.Context) {
	started := time.NewTicker(w.cfg.Heartbeat)
	defer started.Stop()
	for {
		w.sendBeat()
		select {
		case <-started.C:
		case <-w.beat:
		case <-ctx.Done():
			return
		}
	}
}

func (w *Worker) setState(s contracts.WorkerState) {
	w.mu.Lock()
	w.state = s
	w.mu.Unlock()
	select {
	case w.beat <- struct{}{}:
	default:
	}
}

// Snapshot is what a heartbeat would say now.
func (w *Worker) Snapshot() contracts.Heartbeat {
	var memory engine.Memory
	if w.cfg.Engine != nil {
		memory = w.cfg.Engine.Memory()
	}
	total, _ := w.room.Size()
	free, _ := w.room.Free()
	h := contracts.Heartbeat{
		V: contracts.Version, Worker: w.cfg.Name, Sent: time.Now().UnixMilli(), Started: w.born.UnixMilli(),
		Model: w.info.Model, Variant: w.info.Variant, Backend: w.info.Backend, Device: w.info.Device,
		Fingerprint: w.info.Fingerprint, ContextLength: w.info.ContextLength, Slots: w.info.MaxSequences,
		KV:    contracts.KVMemory{Total: total, Reserved: total - free, Used: memory.Used, PerToken: w.info.KVBytesPerToken, Block: w.info.BlockTokens},
		Stats: w.stats.snapshot(w.cfg.Resident()), Asleep: !w.room.Awake(), Steps: w.stats.steps(w.budget),
	}
	h.Stats.FlushMS = float64(w.pace.Interval()) / float64(time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	h.State = w.state
	for _, j := range w.jobs {
		kv, slots := j.room.Held()
		h.Jobs = append(h.Jobs, contracts.RunningJob{Job: j.ref.Job, Tenant: j.ref.Tenant, Class: j.ref.Class, Index: j.tokens(),
			Started: j.claimed.UnixMilli(), KV: kv, Slots: slots, Yields: j.yields()})
	}
	slices.SortFunc(h.Jobs, func(a, b contracts.RunningJob) int {
		return strings.Compare(a.Tenant+"\x00"+a.Job, b.Tenant+"\x00"+b.Job)
	})
	return h
}

// sendBeat publishes a heartbeat; while the broker is away it is lost, which is what its absence says.
func (w *Worker) sendBeat() {
	h := w.Snapshot()
	data, err := contracts.Encode(&h)
	if err != nil {
		w.cfg.Logger.Error("heartbeat", "worker", w.cfg.Name, "err", err)
		return
	}
	_ = w.cfg.Conn.Publish(subject.Heartbeat(w.cfg.Name), data)
	w.cfg.Trace.Heartbeat(&h)
}
