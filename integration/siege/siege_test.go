package siege

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/loadgen"
)

var (
	inputs = flag.Int("inputs", 1000, "malformed or hostile inputs of TestSiege, at least")
	siege  = flag.Duration("siege", 10*time.Second, "over how long they are sent")
	ratio  = flag.Float64("ratio", 0, "most that the attack may stretch the 95th percentile of p0's time to first token; 0 does not ask")
	seed   = flag.Uint64("seed", 20261125, "of the inputs")
)

const (
	model = "sim"
	calm  = 15 * time.Second // before the attack
	rate  = 20.0             // p0 chats a second
	flood = 100              // inputs of one kind that come at once; floods are spread over the attack
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestSiege: whatever is sent, every input is answered or cut off as it should be, no process ends, no
// chat of others fails, and afterwards nothing of it is left.
func TestSiege(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p := harness.Up(t, data, "--engine", "sim", "--device", "sim:h100", "--secure", "--plain-http", "--workers", "2")
	key, err := os.ReadFile(auth.FirstKey(data))
	if err != nil {
		t.Fatal(err)
	}
	d := door{address: strings.TrimPrefix(p.HTTP, "http://"), key: strings.TrimSpace(string(key))}
	producer := connect(t, p.NATS, data)
	before := goroutines(t, d)
	begin := time.Now()
	chats := make(chan []loadgen.Sample, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { chats <- d.chats(ctx) }()
	if *ratio > 0 {
		select {
		case <-time.After(calm): // chats alone, to compare with
		case samples := <-chats:
			t.Fatalf("the chats ended early: %d", len(samples))
		}
	}
	from := time.Since(begin)
	var held []net.Conn
	t.Cleanup(func() { hangUp(held) })
	idle := idlers()
	if held, err = d.hold(idle, 100, 100); err != nil {
		t.Fatal(err)
	}
	n, err := attack(t, d, producer)
	until := time.Since(begin)
	stop()
	samples := <-chats
	t.Logf("seed %d: %d inputs in %s: %s; %d idle connections, 100 headers and 100 bodies that never end", *seed, n.all(), (until - from).Round(time.Second), n, idle)
	if err != nil {
		t.Errorf("%v\nthe end of the log:\n%s", err, p.Log())
	}
	if err == nil && n.all() < *inputs {
		t.Errorf("%d inputs, want %d", n.all(), *inputs)
	}
	compare(t, samples, from, until)
	hangUp(held)
	held = nil
	if log := p.Log(); strings.Contains(log, "panic") {
		t.Errorf("something panicked:\n%s", log)
	}
	settled(t, d, before)
	if err := d.answer(t.Context()); err != nil {
		t.Errorf("a completion after the siege: %v\n%s", err, p.Log())
	}
}

// counts are the inputs sent, by kind.
type counts struct{ document, msgpack, headers atomic.Int64 }

func (n *counts) all() int { return int(n.document.Load() + n.msgpack.Load() + n.headers.Load()) }

// String names them.
func (n *counts) String() string {
	return fmt.Sprintf("%d requests by schemathesis, %d msgpack messages, %d floods of headers and broken requests", n.document.Load(), n.msgpack.Load(), n.headers.Load())
}

// attack sends everything, at once and in floods, and returns what was wrong with the answers.
func attack(t *testing.T, d door, producer *producer) (*counts, error) {
	n := new(counts)
	g, ctx := errgroup.WithContext(t.Context())
	g.Go(func() error {
		k, err := schemathesis(ctx, t, d)
		n.document.Add(int64(k))
		return err
	})
	floods := func(kind *atomic.Int64, share int, send func(rng *rand.Rand, n int) error) func() error {
		return func() error {
			rng := rand.New(rand.NewPCG(*seed, uint64(share)))
			rounds := (share + flood - 1) / flood
			tick := time.NewTicker(*siege / time.Duration(rounds))
			defer tick.Stop()
			for range rounds {
				if err := send(rng, flood); err != nil {
					return err
				}
				kind.Add(flood)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}
	}
	g.Go(floods(&n.msgpack, *inputs*8/10, producer.flood))
	g.Go(floods(&n.headers, *inputs*2/10, d.flood))
	return n, g.Wait()
}

// chats asks p0 chats at a steady rate until ctx ends.
func (d door) chats(ctx context.Context) []loadgen.Sample {
	var plan loadgen.Plan
	for i := range 100_000 {
		plan = append(plan, loadgen.Request{At: time.Duration(float64(i) / rate * float64(time.Second)), Input: 64, Output: 8, Class: contracts.P0, Seed: uint64(i)})
	}
	samples, _ := loadgen.Run(ctx, loadgen.Config{Plan: plan, Target: &loadgen.HTTP{URL: "http://" + d.address, Model: model, Key: d.key, IgnoreEOS: true, Client: loadgen.NewClient(http.DefaultClient, 64)},
		Prompter: loadgen.Prompter{PerToken: 4}, Timeout: time.Minute})
	return samples
}

// compare judges the chats before and during the attack.
func compare(t *testing.T, samples []loadgen.Sample, from, until time.Duration) {
	t.Helper()
	during := loadgen.Reduce(samples, loadgen.Measured{WarmUp: from, Until: until}).All
	t.Logf("p0 chats under attack: %v, time to first token p50 %.1f ms, p95 %.1f ms", during.Outcomes, during.TTFT.P50, during.TTFT.P95)
	for at, tenth := from, (until-from)/10; at+tenth <= until; at += tenth {
		part := loadgen.Reduce(samples, loadgen.Measured{WarmUp: at, Until: at + tenth}).All
		t.Logf("  from %s: p50 %.1f ms, p95 %.1f ms", (at - from).Round(time.Second), part.TTFT.P50, part.TTFT.P95)
	}
	if during.Outcomes[loadgen.Completed] == 0 || during.Outcomes[loadgen.Failed]+during.Outcomes[loadgen.Expired] > 0 {
		t.Errorf("chats under attack ended as %v", during.Outcomes)
	}
	if *ratio == 0 {
		return
	}
	before := loadgen.Reduce(samples, loadgen.Measured{WarmUp: calm / 5, Until: from}).All
	got := during.TTFT.P95 / before.TTFT.P95
	t.Logf("undisturbed: %v, p50 %.1f ms, p95 %.1f ms; the attack stretches p95 %.2f times", before.Outcomes, before.TTFT.P50, before.TTFT.P95, got)
	if !(got <= *ratio) {
		t.Errorf("p95 of p0's time to first token is %.2f times that of the calm, want at most %g", got, *ratio)
	}
}

// idlers is how many idle connections the limit on open files allows, ten for each input at most.
func idlers() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 100
	}
	return min(*inputs, 10_000, int(limit.Cur)-2000)
}
