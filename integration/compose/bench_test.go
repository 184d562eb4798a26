package compose

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	workers = flag.Int("workers", 20, "simulated workers of the benchmark")
	rates   = flag.String("rates", "25,50,100,200", "requests a second that are offered, one after the other")
	lasting = flag.Duration("lasting", 20*time.Second, "how long each rate is offered")
)

// trace has 199 requests a second in its first ten minutes; its lengths are ServeGen's means.
const (
	trace       = "../../ops/loadgen/testdata/servegen_m-large.csv"
	traceRate   = 199.3
	input       = "914"
	output      = "155"
	objective   = 200 // ms, of the time to the first token at the 95th percentile
	clockTicks  = 100 // a second, of /proc's times
	loadProcess = "load generator"
	elsewhere   = "everything else" // the kernel's own threads, the engine, health checks, other work
)

// BenchmarkFleet offers the shape of ServeGen's m-large to the secured fleet of containers with simulated
// GPUs, at rising rates, and prints what each part of it costs.
func BenchmarkFleet(b *testing.B) {
	if os.Getenv("PELTON_E2E") == "" {
		b.Skip("needs a Docker engine and images: make bench-compose")
	}
	b.Setenv("PELTON_SIM_DEVICE", cmp.Or(os.Getenv("PELTON_SIM_DEVICE"), "sim:h100"))
	b.Setenv("PELTON_WORKER_HEALTH", cmp.Or(os.Getenv("PELTON_WORKER_HEALTH"), "60s"))
	f := Up(b, Version(), map[string]int{"worker-sim": *workers})
	b.Setenv("SSL_CERT_FILE", f.bundle(b))
	b.Setenv("PELTON_API_KEY", f.key)
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "offered/s\tanswered/s\tother ends\tTTFT p50\tp95\tTPOT p50\tpieces/s\tcores\tof them\t")
	broke := ""
	for rate := range strings.SplitSeq(*rates, ",") {
		share, err := strconv.ParseFloat(rate, 64)
		if err != nil {
			b.Fatal(err)
		}
		before, busy, at := f.seconds(), busySeconds(b), time.Now()
		r, load := f.replay(b, share/traceRate)
		after, all, took := f.seconds(), busySeconds(b)-busy, time.Since(at).Seconds()
		used := map[string]float64{loadProcess: load / took, elsewhere: (all - load) / took}
		for part, s := range after {
			used[part] = (s - before[part]) / took
			used[elsewhere] -= used[part]
		}
		sum := all / took
		parts := slices.SortedFunc(maps.Keys(used), func(x, y string) int { return cmp.Compare(used[y], used[x]) })
		var of []string
		for _, p := range parts {
			of = append(of, fmt.Sprintf("%s %.2f", p, used[p]))
		}
		fmt.Fprintf(w, "%s\t%.1f\t%d\t%.0f ms\t%.0f ms\t%.1f ms\t%.0f\t%.2f of %d\t%s\t\n", rate, float64(r.Completed)/r.Duration, r.Failed,
			r.TTFT50, r.TTFT95, r.TPOT50, float64(r.Pelton.All.Pieces)/r.Duration, sum, runtime.NumCPU(), strings.Join(of, ", "))
		fmt.Printf("%s requests/s: TTFT p95 %.0f ms, objective %d ms\n", rate, r.TTFT95, objective)
		if broke == "" && (r.TTFT95 > objective || r.Failed > 0) {
			broke = fmt.Sprintf("broken at %s requests/s, where %s and %s take most of the processors\n", rate, parts[0], parts[1])
		}
	}
	_ = w.Flush()
	fmt.Printf("%d simulated workers, m-large: %s tokens in, %s out\n%s%s", *workers, input, output, &table, broke)
}

// replayed is what pelton replay reports.
type replayed struct {
	Completed int     `json:"completed"`
	Failed    int     `json:"failed"`
	Duration  float64 `json:"duration"`
	TTFT50    float64 `json:"p50_ttft_ms"`
	TTFT95    float64 `json:"p95_ttft_ms"`
	TPOT50    float64 `json:"p50_tpot_ms"`
	Pelton    struct {
		All struct{ Pieces int }
	}
}

// replay offers a share of the trace, and tells also how many seconds of a core that took.
func (f *Fleet) replay(b *testing.B, share float64) (r replayed, load float64) {
	b.Helper()
	report := filepath.Join(b.TempDir(), "report.json")
	cmd := exec.CommandContext(b.Context(), "../../bin/pelton", "replay", trace, "--url", f.Door, "--model", simulated, "--share", strconv.FormatFloat(share, 'f', 4, 64),
		"--duration", lasting.String(), "--input-tokens", input, "--output-tokens", output, "--seed", strconv.Itoa(seed), "--timeout", "60s", "--json", report)
	out, err := cmd.CombinedOutput()
	b.Logf("%s", out)
	data, readErr := os.ReadFile(report)
	if readErr != nil {
		b.Fatal(err, readErr)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		b.Fatal(err)
	}
	return r, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

// seconds of a core that the containers of each service used since they began.
func (f *Fleet) seconds() map[string]float64 {
	out := map[string]float64{}
	for _, c := range [...][2]string{{"brokers", "nats-"}, {"dispatchers", "dispatcher-"}, {"gateway", "gateway"}, {"workers", "worker-sim"}} {
		for pid := range strings.FieldsSeq(f.docker(append([]string{"inspect", "-f", "{{.State.Pid}}"}, f.matching(c[1])...)...)) {
			out[c[0]] += spent(pid)
		}
	}
	return out
}

// busySeconds of all cores since the machine began.
func busySeconds(b *testing.B) (s float64) {
	b.Helper()
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	cpu, _, _ := strings.Cut(string(stat), "\n")
	for i, ticks := range strings.Fields(cpu)[1:8] { // user, nice, system, idle, iowait, irq, softirq
		if n, err := strconv.ParseFloat(ticks, 64); err == nil && i != 3 && i != 4 {
			s += n / clockTicks
		}
	}
	return s
}

// matching are the containers whose service's name begins so.
func (f *Fleet) matching(service string) []string {
	return strings.Fields(f.docker("ps", "-q", "--filter", "label=com.docker.compose.project="+project, "--filter", "name="+project+"-"+service))
}

// spent are the seconds of a core that a process and its children used; HAProxy works in a child.
func spent(pid string) (s float64) {
	for _, p := range append([]string{pid}, children(pid)...) {
		stat, err := os.ReadFile("/proc/" + p + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		for _, ticks := range strings.Fields(rest)[11:13] { // utime and stime
			n, _ := strconv.ParseFloat(ticks, 64)
			s += n / clockTicks
		}
	}
	return s
}

func children(pid string) []string {
	list, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	return strings.Fields(string(list))
}
