package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/sim"
)

// decode is the step time of the benchmarks' devices.
const decode = 8 * time.Millisecond

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// producer is a client of the fleet.
func producer(b testing.TB, f *InProcess) *client.Client {
	b.Helper()
	nc, err := client.Connect(f.NATS())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return client.New(nc, "default")
}

func order(id string, prompt, tokens int) *contracts.Job {
	j := &contracts.Job{ID: id, Model: Model, Kind: contracts.KindText, Params: contracts.Params{MaxTokens: &tokens, Temperature: new(0.0), IgnoreEOS: true}}
	for i := range prompt {
		j.Tokens = append(j.Tokens, int32('a'+i%26))
	}
	return j
}

// BenchmarkFailover kills workers one by one: how long do readers wait for the next token.
func BenchmarkFailover(b *testing.B) {
	f := NewInProcess(b, Floor{Workers: 3, Dispatchers: 2, Slots: 4, Step: decode})
	var script []Fault
	for i := range 12 {
		script = append(script, Fault{Wait: 2 * time.Second, Kind: Kill, Which: i % 3})
	}
	orders := Orders(1, 8, 150, Model)
	for kind, j := range orders { // nobody gives way, and there is room for all
		j.Class = contracts.P2
		orders[kind] = j
	}
	h := Run(b, f, Plan{Seed: 1, Orders: orders, Flight: 4, Script: script})
	var gaps []time.Duration
	for reason, g := range h.Gaps() {
		b.Logf("%d gaps %q: at most %v", len(g), reason, Quantile(g, 1))
		gaps = append(gaps, g...)
	}
	if wrong := h.Check(); len(wrong) > 0 || len(gaps) == 0 {
		b.Fatalf("%d gaps; broken: %q", len(gaps), wrong)
	}
	b.ReportMetric(ms(Quantile(gaps, 0.5)), "gap-ms-p50")
	b.ReportMetric(ms(Quantile(gaps, 0.95)), "gap-ms-p95")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkResume reads a finished answer of 500 tokens from the log, over NATS and over HTTP.
func BenchmarkResume(b *testing.B) {
	f := NewInProcess(b, Floor{Step: decode})
	c := producer(b, f)
	s, err := c.Run(b.Context(), order("j", 20, 500))
	if err != nil {
		b.Fatal(err)
	}
	if err := drainStream(s, func(*contracts.Chunk) error { return nil }); err != nil {
		b.Fatal(err)
	}
	took := map[string][]time.Duration{}
	for i := range 400 {
		r := &reader{doors: f.Doors(), rng: rand.New(rand.NewPCG(1, 1)), job: "j", got: &Received{}, last: -1}
		begin, how := time.Now(), "nats"
		if i%2 == 0 {
			how = "http"
			err = r.overHTTP(b.Context(), r.counting(1<<30))
		} else if s, err = c.Follow(b.Context(), "j", -1); err == nil {
			err = drainStream(s, r.counting(1<<30))
		}
		if r.got.Tokens() != 500 || r.got.Final == nil {
			b.Fatalf("%s: %d tokens, %v", how, r.got.Tokens(), err)
		}
		took[how] = append(took[how], time.Since(begin))
	}
	for how, d := range took {
		b.ReportMetric(ms(Quantile(d, 0.5)), how+"-ms-p50")
		b.ReportMetric(ms(Quantile(d, 0.95)), how+"-ms-p95")
	}
	b.ReportMetric(0, "ns/op")
}

// counted is an engine that counts its steps and knows at which one a sequence was closed.
type counted struct {
	engine.Engine
	steps, closed atomic.Int64
}

func (e *counted) Step(ctx context.Context, rows []*engine.Row) error {
	e.steps.Add(1)
	return e.Engine.Step(ctx, rows)
}

func (e *counted) Close(s engine.Seq) {
	e.Engine.Close(s)
	e.closed.Store(e.steps.Load())
}

// BenchmarkCancel: how many decode steps run from the caller's cancel until the slot is free.
func BenchmarkCancel(b *testing.B) {
	var e *counted
	f := NewInProcess(b, Floor{Step: decode, Engine: func(inner engine.Engine) engine.Engine {
		e = &counted{Engine: inner}
		return e
	}})
	c := producer(b, f)
	var steps, took []time.Duration
	for i := range 200 {
		s, err := c.Run(b.Context(), order(fmt.Sprint("j", i), 20, 4000))
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		err = drainStream(s, func(*contracts.Chunk) error {
			if n++; n == 3 {
				return errLeave
			}
			return nil
		})
		at, begin := e.steps.Load(), time.Now()
		status, failed := c.Cancel(b.Context(), s.Job())
		if failed != nil || status.State != contracts.StateCanceled {
			b.Fatalf("cancel after %v: %+v, %v", err, status, failed)
		}
		took = append(took, time.Since(begin))
		steps = append(steps, time.Duration(e.closed.Load()-at))
	}
	b.ReportMetric(float64(Quantile(steps, 0.5)), "steps-p50")
	b.ReportMetric(float64(Quantile(steps, 0.99)), "steps-p99")
	b.ReportMetric(ms(Quantile(took, 0.5)), "confirmed-ms-p50")
	b.ReportMetric(ms(Quantile(took, 0.99)), "confirmed-ms-p99")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFirstToken: what the durable path adds to the time to first token, one job at a time on a
// device that takes no time.
func BenchmarkFirstToken(b *testing.B) {
	f := NewInProcess(b, Floor{})
	c := producer(b, f)
	var through, direct []time.Duration
	for i := range 500 {
		j := order(fmt.Sprint("j", i), 64, 1)
		begin := time.Now()
		s, err := c.Run(b.Context(), j)
		if err != nil {
			b.Fatal(err)
		}
		for chunk, err := range s.Chunks() {
			if err != nil {
				b.Fatal(err)
			}
			if len(chunk.Tokens) > 0 {
				through = append(through, time.Since(begin))
			}
		}
	}
	e := instant()
	defer func() { _ = e.Shutdown() }()
	for range 500 {
		begin := time.Now()
		q, err := e.Open(65)
		if err != nil {
			b.Fatal(err)
		}
		if err := e.Step(b.Context(), []*engine.Row{{Seq: q, Tokens: order("", 64, 1).Tokens, Sample: true}}); err != nil {
			b.Fatal(err)
		}
		e.Close(q)
		direct = append(direct, time.Since(begin))
	}
	b.ReportMetric(ms(Quantile(through, 0.5)-Quantile(direct, 0.5)), "added-ms-p50")
	b.ReportMetric(ms(Quantile(through, 0.99)-Quantile(direct, 0.99)), "added-ms-p99")
	b.ReportMetric(0, "ns/op")
}

func instant() *sim.Engine {
	return sim.New(sim.Config{Model: Model, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }})
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTokenCPU: processor time of a token, all parts together, with each token in a record of its
// own: through queue, log and client, and beside it the same engine that publishes on plain core NATS.
func BenchmarkTokenCPU(b *testing.B) {
	const streams, tokens = 16, 400
	f := NewInProcess(b, Floor{Slots: streams, Step: 10 * time.Millisecond})
	c := producer(b, f)
	begin := cpu(b)
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			s, err := c.Run(b.Context(), order(fmt.Sprint("j", i), 20, tokens))
			if err == nil {
				err = drainStream(s, func(*contracts.Chunk) error { return nil })
			}
			if err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
	durable := (cpu(b) - begin) / (streams * tokens)
	begin = cpu(b)
	plain(b, f, streams, tokens)
	core := (cpu(b) - begin) / (streams * tokens)
	b.ReportMetric(float64(durable.Nanoseconds())/1e3, "durable-us/token")
	b.ReportMetric(float64(core.Nanoseconds())/1e3, "core-us/token")
	b.ReportMetric(0, "ns/op")
}

// plain runs the same streams on the same device and publishes each token on core NATS.
func plain(b *testing.B, f *InProcess, streams, tokens int) {
	b.Helper()
	var heard sync.WaitGroup
	heard.Add(streams * tokens)
	sub, err := f.ctl.Subscribe("plain.*", func(m *nats.Msg) {
		var c contracts.Chunk
		if contracts.Decode(m.Data, &c) == nil {
			heard.Done()
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	nc, err := nats.Connect(f.NATS())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	profile, _ := sim.ProfileFor("l40s")
	profile.C0, profile.Sched, profile.PerToken = 10*time.Millisecond, 0, 20*time.Microsecond
	e := sim.New(sim.Config{Model: Model, Profile: profile})
	defer func() { _ = e.Shutdown() }()
	var rows []*engine.Row
	for range streams {
		q, err := e.Open(20 + tokens)
		if err != nil {
			b.Fatal(err)
		}
		rows = append(rows, &engine.Row{Seq: q, Tokens: order("", 20, 1).Tokens, Sample: true})
	}
	for i := range tokens {
		if err := e.Step(b.Context(), rows); err != nil {
			b.Fatal(err)
		}
		for k, r := range rows {
			id := int32(slices.Index(r.Logits, slices.Max(r.Logits)))
			data, err := contracts.Encode(&contracts.Chunk{V: 1, Job: "j", Fence: 1, Index: i, Tokens: []int32{id}, Text: string(rune(id))})
			if err != nil {
				b.Fatal(err)
			}
			if err := nc.Publish(fmt.Sprint("plain.", k), data); err != nil {
				b.Fatal(err)
			}
			r.Tokens = []int32{id}
		}
	}
	heard.Wait()
}
