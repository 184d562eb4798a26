package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/topology"
)

// growth is what a run may grow by in all, or in each ten minutes if it is longer.
var growth = map[string]float64{"heap MiB": 8, "goroutines": 40, "handles": 40, "resident MiB": 48}

// gauges are what must not grow.
func gauges(t *testing.T) map[string]float64 {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	handles, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(stat))[1])
	if err != nil {
		t.Fatal(err)
	}
	return map[string]float64{"heap MiB": float64(m.HeapAlloc) / (1 << 20), "goroutines": float64(runtime.NumGoroutine()),
		"handles": float64(len(handles)), "resident MiB": float64(pages*os.Getpagesize()) / (1 << 20)}
}

// TestSoak keeps a fleet busy, with a worker that dies now and then: every answer is right, and memory,
// goroutines and file handles stay where they are after the first third.
func TestSoak(t *testing.T) {
	f := NewInProcess(t, Floor{Workers: 3, Slots: 4, Step: 4 * time.Millisecond, Topology: topology.Config{OutMaxAge: 30 * time.Second}})
	orders := Orders(*seed, 8, 100, Model)
	h := Run(t, f.lasting(), Plan{Seed: *seed, Orders: orders})
	nc, err := client.Connect(f.NATS())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := client.New(nc, "default", client.WithIdle(2*time.Second))
	var load sync.WaitGroup
	var done atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	kinds := slices.Sorted(maps.Keys(orders))
	for n := range 12 {
		load.Go(func() {
			rng := rand.New(rand.NewPCG(*seed, uint64(n)))
			for i := 0; ctx.Err() == nil; i++ {
				kind := kinds[rng.IntN(len(kinds))]
				j := orders[kind]
				j.ID = fmt.Sprintf("soak-%d-%d", n, i)
				s, err := c.Run(context.WithoutCancel(ctx), &j)
				if err != nil {
					t.Errorf("submit: %v", err)
					return
				}
				r := &reader{nats: f.NATS(), doors: f.Doors(), rng: rng, job: j.ID, many: j.Params.N != nil, got: &Received{}, last: -1}
				got := r.read(context.WithoutCancel(ctx), s, rng.IntN(2))
				if d := got.differs(h.References[kind], false); d != "" || len(got.Wrong) > 0 {
					t.Errorf("job %s: %s %q", j.ID, d, got.Wrong)
				}
				done.Add(1)
			}
		})
	}
	f.watch(t, *soak, &done)
	stop()
	load.Wait()
	for name, n := range f.Rest() {
		if n != 0 {
			t.Errorf("worker %s ended with %d bytes reserved", name, n)
		}
	}
}

// watch kills a worker each ten seconds and looks at the gauges each second, then says what grew.
func (f *InProcess) watch(t *testing.T, limit time.Duration, done *atomic.Int64) {
	t.Helper()
	series := map[string][]float64{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begin := time.Now()
	for n := 1; time.Since(begin) < limit; n++ {
		<-tick.C
		if n%10 == 5 {
			f.Strike(t.Context(), Fault{Kind: Kill, Which: n % len(f.hands)})
		}
		if time.Since(begin) > limit/3 {
			for name, v := range gauges(t) {
				series[name] = append(series[name], v)
			}
		}
	}
	t.Logf("%d jobs in %v", done.Load(), limit)
	if limit < time.Minute {
		return // too short for a trend
	}
	lengths := max(1, (limit*2/3).Minutes()/10)
	for _, name := range slices.Sorted(maps.Keys(growth)) {
		v := series[name]
		grew := Slope(v)
		t.Logf("%-12s from %.1f to %.1f, trend %+.1f over %v, allowed %+.1f", name, v[0], v[len(v)-1], grew, (limit * 2 / 3).Round(time.Second), growth[name]*lengths)
		if grew > growth[name]*lengths {
			t.Errorf("%s grew by %.1f, allowed are %.1f", name, grew, growth[name]*lengths)
		}
	}
}

// lasting is f without its end: a run on it leaves it working.
func (f *InProcess) lasting() Target { return lasting{f} }

type lasting struct{ *InProcess }

func (lasting) Rest() map[string]int64 { return nil }
