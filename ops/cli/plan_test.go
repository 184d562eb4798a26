package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/ops/cli"
)

// TestPlan: a load that a worker cannot do is told as what it is, with the workers that it needs; a dispatcher that
// began anew between the looks is not taken for one.
func TestPlan(t *testing.T) {
	t.Parallel()
	steps := contracts.StepSums{Budget: 512}
	for i := range 100 { // 10 ms a step, 0.1 ms a prompt token, 0.5 ms a row
		p, rows := float64(i%7*50), float64(i%9)
		steps.Add(p, rows, 10+0.1*p+0.5*rows, 0)
	}
	workers, err := json.Marshal(map[string]any{"data": []contracts.Heartbeat{{Worker: "w", Model: "m", State: contracts.WorkerReady, Slots: 8, KV: contracts.KVMemory{Total: 1 << 30, PerToken: 1 << 10}, Steps: &steps}}})
	if err != nil {
		t.Fatal(err)
	}
	var looks atomic.Int64
	name := func(int64) string { return "d" }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/load":
			n := looks.Add(1)
			_, _ = fmt.Fprintf(w, `{"dispatcher":%q,"models":{"m":{"jobs":%d,"prompt_tokens":%d,"output_tokens":%d}}}`, name(n), 1000*n, 100_000*n, 1_000_000*n)
		case "/v1/workers":
			_, _ = w.Write(workers)
		case "/v1/queues":
			_, _ = io.WriteString(w, `{"data":[{"model":"m","pending":3,"running":4},{"model":"m","held":5}]}`)
		}
	}))
	t.Cleanup(s.Close)
	run := func(format string) (out string, code int) {
		var b, stderr bytes.Buffer
		code = cli.Main([]string{"plan", "--over", "100ms", "--server", s.URL, "-o", format}, strings.NewReader(""), &b, &stderr)
		return b.String() + stderr.String(), code
	}
	out, code := run("json")
	var plans []struct {
		Model                       string
		Workers, Needed, Jobs, Held int
		Load                        float64
		Output                      float64 `json:"output_tokens_per_second"`
		Why                         string
	}
	if err := json.Unmarshal([]byte(out), &plans); err != nil || code != 0 || len(plans) != 1 {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	p := plans[0]
	if p.Model != "m" || p.Workers != 1 || p.Jobs != 12 || p.Held != 5 || p.Output <= 0 || p.Load <= 1 || float64(p.Needed) < p.Load || float64(p.Needed) >= p.Load+1 {
		t.Errorf("the plan is %+v", p)
	}
	if !strings.Contains(p.Why, fmt.Sprintf("%.2f workers busy for 70 %%", p.Load)) || !strings.Contains(p.Why, "5 held back") {
		t.Errorf("why: %s", p.Why)
	}
	if out, code = run("table"); code != 0 || !strings.Contains(out, "NEEDED") || !strings.Contains(out, "workers busy for 70 %") {
		t.Errorf("exit code %d: %s", code, out)
	}
	name = func(n int64) string { return fmt.Sprint("d", n) }
	if out, code = run("table"); code != 5 || !strings.Contains(out, "began anew") {
		t.Errorf("a dispatcher that began anew: exit code %d: %s", code, out)
	}
}
