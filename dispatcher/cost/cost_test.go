package cost_test

import (
	"math"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/cost"
)

func near(got, want, share float64) bool { return math.Abs(got-want) <= share*want+1e-9 }

// Two workers of one device, one of them new, and one that drains.
func TestSpeed(t *testing.T) {
	t.Parallel()
	var sums contracts.StepSums
	sums.Budget = 512
	for i := range 100 {
		prompt, rows := float64(i*37%513), float64(i*13%100)
		sums.Add(prompt, rows, 10+0.02*prompt+0.1*rows, 0.002)
	}
	beat := func(change func(*contracts.Heartbeat)) contracts.Heartbeat {
		h := contracts.Heartbeat{Model: "m", State: contracts.WorkerReady, Device: "d", Slots: 8, Steps: &sums}
		change(&h)
		return h
	}
	workers := []contracts.Heartbeat{
		beat(func(h *contracts.Heartbeat) {
			h.Jobs = []contracts.RunningJob{{Index: 3, Slots: 2}, {Slots: 1}}
		}),
		beat(func(h *contracts.Heartbeat) { h.Steps = nil }),
		beat(func(h *contracts.Heartbeat) { h.State = contracts.WorkerDraining }),
		beat(func(h *contracts.Heartbeat) { h.Model = "other" }),
	}
	s := cost.SpeedOf(workers, "m")
	step := 10 + 0.02*512 + 0.1*2
	if s.Workers != 2 || !s.Known || s.Rows != 2 || s.Slots != 16 || s.Free != 14 || !near(s.Prompt, 2*1000*512/step, 1e-4) || s.Budget != 1024 {
		t.Errorf("speed %+v, want 2 workers, 2 rows, 14 of 16 slots free, %.0f prompt tokens/s", s, 2*1000*512/step)
	}
	if got, want := s.Feed(s.Prompt/2, 0.5), time.Second; (got - want).Abs() > time.Millisecond {
		t.Errorf("half a second's tokens with half the fleet take %v, want %v", got, want)
	}
	if got, want := s.Prefill(600), 2*10.2+0.02*600; !near(float64(got)/1e6, want, 1e-3) {
		t.Errorf("600 prompt tokens take %v, want %.1f ms", got, want)
	}
	if s := cost.SpeedOf(workers[1:2], "m"); s.Known || s.Feed(1000, 1) != 0 || s.Workers != 1 {
		t.Errorf("of a worker that has done nothing: %+v", s)
	}
}

// A worker whose memory holds fewer sequences than it has slots takes only so many.
func TestMemoryBoundsSpeed(t *testing.T) {
	t.Parallel()
	const each = 100
	h := contracts.Heartbeat{Model: "m", State: contracts.WorkerReady, Slots: 256, KV: contracts.KVMemory{Total: 6 * each}}
	free := func() int { return cost.SpeedOf([]contracts.Heartbeat{h}, "m").Free }
	if got := free(); got != 256 {
		t.Errorf("of a worker that has nothing %d are free, want its slots", got)
	}
	for jobs := 1; jobs <= 6; jobs++ {
		h.Jobs = append(h.Jobs, contracts.RunningJob{Index: 1, Slots: 1, KV: each})
		if got := free(); got != 6-jobs {
			t.Errorf("with %d of 6 sequences that fit, %d more are free", jobs, got)
		}
	}
	if h.Jobs[5].Index = 0; free() != 1 {
		t.Errorf("beside a job without a token there is room for %d, want its own", free())
	}
}

func TestLengths(t *testing.T) {
	t.Parallel()
	l := cost.NewLengths()
	for range 7 {
		l.Observe("m", "a", 100)
	}
	if n, known := l.Expect("m", "a", 500); known || n != 500 {
		t.Errorf("after 7 answers: %d, %v, want the most and not known", n, known)
	}
	for i := range 100 {
		l.Observe("m", "a", 10+i) // 80 % are at most 89
	}
	if n, known := l.Expect("m", "a", 500); !known || n < 85 || n > 110 {
		t.Errorf("of 10 to 109 tokens the 80 %% quantile is %d, want 90 to within a tenth or so above", n)
	}
	if n, _ := l.Expect("m", "a", 50); n != 50 {
		t.Errorf("most is 50, expected %d", n)
	}
	if _, known := l.Expect("m", "b", 50); known {
		t.Error("another tenant's answers are known")
	}
	for range 2000 {
		l.Observe("m", "a", 1000)
	}
	if n, _ := l.Expect("m", "a", 5000); n < 1000 {
		t.Errorf("habits changed to 1,000 tokens, expected %d", n)
	}
}
