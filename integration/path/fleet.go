package path

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/ops/node"
)

var together = flag.Bool("together", false, "run the fleet in the test's process, with its default settings, for -cpuprofile")

// fleet is one process with broker, dispatcher and HTTP door, and processes with workers.
type fleet struct {
	door    string // address of the HTTP door
	desk    *harness.Process
	workers []*harness.Process
}

// start brings up a fleet on simulated devices, spread over some processes, that counts prompts as
// SmolLM2 does. more are flags of the dispatcher.
func start(b *testing.B, device string, workers, processes int, more ...string) *fleet {
	b.Helper()
	dir := b.TempDir()
	file := filepath.Join(dir, "tokenizer.json")
	if err := unpack("../../runtime/tokenizer/testdata/smollm2.tokenizer.json.gz", file); err != nil {
		b.Fatal(err)
	}
	model := []string{"--engine", "sim", "--device", device, "--sim-tokenizer", file, "--sim-context", "131072", "--log-level", "warn"}
	nats, door := contractstest.Address(b), contractstest.Address(b)
	if *together {
		return startHere(b, node.SimConfig{Device: device, Tokenizer: file, Context: 131072}, workers)
	}
	f := &fleet{door: door, desk: harness.StartParts(b, append(append([]string{"up", "--workers", "0", "--nats", nats, "--http", door, "--data", filepath.Join(dir, "data")}, model...), more...)...)}
	for i := range processes {
		n := workers/processes + (i+1)*(workers%processes)/processes - i*(workers%processes)/processes
		if n > 0 {
			f.workers = append(f.workers, harness.Start(b, append([]string{"worker", "--nats", "nats://" + nats, "--workers", strconv.Itoa(n), "--name", fmt.Sprint("w", i)}, model...)...))
		}
	}
	return f
}

// startHere brings up the fleet in this process, for a profile of all of it.
func startHere(b *testing.B, device node.SimConfig, workers int) *fleet {
	b.Helper()
	served, err := device.Serve("sim")
	if err != nil {
		b.Fatal(err)
	}
	n, err := node.Start(b.Context(), node.Config{Data: b.TempDir(), Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0", Dispatcher: true, Workers: workers, Models: []node.Served{served}, Version: "bench", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = n.Stop(context.Background()) })
	return &fleet{door: n.HTTP()}
}

// stop ends the fleet; more processes of it must not disturb the next measurement.
func (f *fleet) stop() {
	for _, w := range f.workers {
		w.Stop()
	}
	if f.desk != nil {
		f.desk.Stop()
	}
}

// log is what the door's process said.
func (f *fleet) log() string {
	if f.desk == nil {
		return ""
	}
	return f.desk.Log()
}

func unpack(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}

// usage is what the parts took of the processor so far, and hold in memory.
type usage struct {
	at                        time.Time
	desk, workers, producer   time.Duration
	deskMemory, workersMemory int64 // bytes, resident
}

// Shares is what the parts took of the processor over a time, in cores, and hold in memory, in MiB.
type Shares struct {
	Desk       float64 `json:"broker_dispatcher_http_cores"`
	Workers    float64 `json:"workers_cores"`
	Producer   float64 `json:"generator_cores"`
	DeskMiB    int64   `json:"broker_dispatcher_http_mib"`
	WorkersMiB int64   `json:"workers_mib"`
	FlushMS    float64 `json:"flush_ms"` // how long records waited for more tokens at the end, the longest of the workers
}

func (f *fleet) usage() usage {
	u := usage{at: time.Now(), producer: own()}
	if f.desk != nil {
		u.desk, u.deskMemory = of(f.desk.PID())
	}
	for _, w := range f.workers {
		t, m := of(w.PID())
		u.workers, u.workersMemory = u.workers+t, u.workersMemory+m
	}
	return u
}

// since is the shares between an earlier moment and now.
func (f *fleet) since(before usage) Shares {
	u := f.usage()
	cores := func(now, then time.Duration) float64 { return (now - then).Seconds() / u.at.Sub(before.at).Seconds() }
	return Shares{
		Desk: cores(u.desk, before.desk), Workers: cores(u.workers, before.workers), Producer: cores(u.producer, before.producer),
		DeskMiB: u.deskMemory >> 20, WorkersMiB: u.workersMemory >> 20, FlushMS: f.flush(),
	}
}

// flush is how long the workers say that their records wait for more tokens, the longest of them.
func (f *fleet) flush() (longest float64) {
	resp, err := http.Get("http://" + f.door + "/v1/workers")
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	var list struct {
		Data []contracts.Heartbeat `json:"data"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&list) // without an answer it is 0
	for _, w := range list.Data {
		longest = max(longest, w.Stats.FlushMS)
	}
	return longest
}

func own() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// ticksPerSecond of /proc, the same on every Linux.
const ticksPerSecond = 100

// of is a process's time on the processor and its resident memory, zero where /proc does not say.
func of(pid int) (took time.Duration, resident int64) {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if _, rest, ok := strings.Cut(string(stat), ") "); ok {
		f := strings.Fields(rest) // the first one is the third field of proc(5)
		for _, ticks := range f[11:13] {
			n, _ := strconv.ParseInt(ticks, 10, 64)
			took += time.Duration(n) * time.Second / ticksPerSecond
		}
		pages, _ := strconv.ParseInt(f[21], 10, 64)
		resident = pages * int64(os.Getpagesize())
	}
	return took, resident
}
