package compose

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/dispatcher/gateway/sdkcheck"
	"github.com/pelton-run/pelton/integration/chaos"
)

const realModel = "smollm2-135m-instruct"

// fault is one line of the table that the test prints.
type fault struct {
	name    string
	script  []chaos.Fault
	model   string   // simulated unless it is said
	workers int      // of the model, before it begins; 0 is as they are
	flight  int      // jobs at once; 0 is a few
	skew    []string // versions whose workers must each have finished jobs
}

// one is a script of one fault.
func one(k chaos.Kind, which int, d time.Duration) []chaos.Fault {
	return []chaos.Fault{{Wait: time.Second, Kind: k, Which: which, For: d}}
}

func faults() []fault {
	restart := func(services ...int) (out []chaos.Fault) {
		for _, s := range services {
			out = append(out, chaos.Fault{Wait: 300 * time.Millisecond, Kind: Restart, Which: s})
		}
		return out
	}
	return []fault{
		{name: "workers 1 → 4 → 1", script: append(one(Scale, 4, 0), one(Scale, 1, 0)...)},
		{name: "restart of every broker", script: restart(0, 1, 2), workers: 3},
		{name: "restart of every dispatcher", script: restart(3, 4)},
		{name: "restart of every worker", script: restart(5)},
		{name: "restart of the gateway", script: restart(7)},
		{name: "kill -9 of a worker", script: append(one(KillWorker, 0, 0), one(KillWorker, 0, 0)...)},
		{name: "kill -9 of a dispatcher", script: append(one(KillDispatcher, 0, 0), one(KillDispatcher, 1, 0)...)},
		{name: "kill -9 of the broker's leader", script: one(KillBroker, 0, 0)},
		{name: "worker paused past its lease", script: one(PauseWorker, 0, 20*time.Second)},
		{name: "broker's leader off the network", script: one(CutBroker, 0, 10*time.Second)},
		{name: "broker's leader loses its disk", script: one(LoseDisk, 0, 0)},
		{name: "real model: kill -9 of a worker", script: one(KillWorker, 0, 0), model: realModel, workers: 2},
		{name: "real model: restart of every worker", script: restart(6), model: realModel},
	}
}

// skew is a fleet with workers of several versions, which lose each other's jobs.
func skew() fault {
	c := fault{skew: []string{Version()}}
	var kills []chaos.Fault
	for i, v := range Versions {
		if i > 0 && Has(v) {
			c.skew = append(c.skew, v)
			c.script, kills = append(c.script, one(Join, i, 0)...), append(kills, one(KillWorker, i, 0)...)
		}
	}
	c.name, c.script = "workers of versions "+strings.Join(c.skew, ", "), append(append(c.script, kills...), one(Scale, 1, 0)...)
	return c
}

// TestCompose runs compose.yaml's fleet, asks it in every way that users ask, and hurts it in every way
// that machines and operators do; no stream may fail, and every answer must be that of a calm run.
func TestCompose(t *testing.T) {
	if os.Getenv("PELTON_E2E") == "" {
		t.Skip("needs a Docker engine and images: make e2e")
	}
	first, scaled := Version(), map[string]int{"worker": 1, "worker-sim": 1}
	if Has(Older) {
		first = Older // of which there is no image with ONNX
		delete(scaled, "worker")
	}
	f := Up(t, first, scaled)
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\trequests\tfailed\tworst gap\tOpenAI streams\tfailed\tresumed\tworst gap\ttook")
	n := 0
	run := func(c fault) {
		n++
		t.Run(c.name, func(t *testing.T) { f.under(t, c, fmt.Sprintf("f%d-%d-", os.Getpid(), n), w) })
	}
	if first == Older {
		run(fault{name: "upgrade in place with jobs in every state", script: one(Upgrade, 0, 0), flight: 160})
	} else {
		t.Logf("upgrade from an older version NOT RUN: there is no image %s", image(Older))
	}
	f.await("the real model's worker", func() bool { return len(f.workers(t.Context(), realModel)) == 1 })
	t.Run("readme", func(t *testing.T) { readme(t, f) })
	t.Run("clients", func(t *testing.T) { clients(t, f) })
	t.Run("producers", func(t *testing.T) { producers(t, f) })
	for _, c := range append(faults(), skew()) {
		run(c)
	}
	_ = w.Flush()
	t.Logf("seed %d\n%s", seed, &table)
	for _, service := range append([]string{"init", "model", "provisioner"}, Restarts...) {
		if bad := f.errored(service); bad != "" {
			t.Errorf("%s", bad)
		}
	}
}

const seed = 7

// under keeps load on the fleet while the faults happen, and judges what readers got.
func (f *Fleet) under(t *testing.T, c fault, name string, table *tabwriter.Writer) {
	begun := time.Now()
	whole := f.t
	defer func() { f.t = whole }()
	f.t = t // what goes wrong belongs to the case
	over, end := context.WithCancel(t.Context())
	defer end()
	target := Target{f, simulated, "worker-sim", end}
	tokens, flight, jobs, readers := 150, 6, 30, 2
	if c.model != "" {
		target.Model, target.Service, tokens, flight, jobs, readers = c.model, "worker", 40, 3, 6, 1
	}
	if c.flight > 0 {
		flight, jobs = c.flight, c.flight
	}
	if c.workers > 0 {
		target.scale(c.workers)
	}
	door, wait := f.Read(t.Context(), over, name+"chat-", target.Model, readers)
	h := chaos.Run(t, target, chaos.Plan{Name: name, Seed: seed, Orders: chaos.Orders(seed, 4, tokens, target.Model), Jobs: jobs, Flight: flight, Script: append(c.script, chaos.Fault{Wait: time.Second, Kind: Calm}), Limit: patience})
	wait()
	for i, wrong := range h.Check() {
		if i < 20 {
			t.Error(wrong)
		}
	}
	for _, wrong := range door.Failed {
		t.Error(wrong)
	}
	for _, v := range c.skew {
		if f.Shares(h)[v] == 0 {
			t.Errorf("workers of version %s finished no job: %v", v, f.Shares(h))
		}
	}
	fmt.Fprintf(table, "%s\t%d\t%d\t%v\t%d\t%d\t%d\t%v\t%v\n", c.name, len(h.Kinds), h.Failed(), h.Longest().Round(time.Millisecond),
		door.Requests, len(door.Failed), door.Resumed, door.Gap.Round(time.Millisecond), time.Since(begun).Round(time.Second))
}

// clients runs OpenAI's own clients through the gateway, on the real model.
func clients(t *testing.T, f *Fleet) {
	t.Setenv("OPENAI_API_KEY", f.key)
	bundle := f.bundle(t)
	t.Setenv("SSL_CERT_FILE", bundle)
	t.Setenv("NODE_EXTRA_CA_CERTS", bundle)
	for name, check := range map[string]func(ctx context.Context, dir, program, base, model string) (string, error){"python": sdkcheck.Python, "typescript": sdkcheck.TypeScript} {
		dir, err := filepath.Abs(filepath.Join("..", "..", "dispatcher", "gateway", "testdata", "sdk", name))
		if err != nil {
			t.Fatal(err)
		}
		out, err := check(t.Context(), dir, "check", f.Door, realModel)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// bundle is a file with the machine's certificate authorities and the fleet's.
func (f *Fleet) bundle(t testing.TB) string {
	t.Helper()
	var all []byte
	machine := os.Getenv("SSL_CERT_FILE")
	if machine == "" {
		machine = "/etc/ssl/certs/ca-certificates.crt"
	}
	for _, name := range []string{machine, f.secret("ca.pem")} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	out := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(out, all, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// producers asks over NATS from three languages.
func producers(t *testing.T, f *Fleet) {
	t.Setenv("PELTON_CREDS", f.secret("producer.creds"))
	t.Setenv("PELTON_TLS_CA", f.secret("ca.pem"))
	t.Setenv("NODE_EXTRA_CA_CERTS", f.secret("ca.pem"))
	server, _, _ := strings.Cut(f.Broker, ",")
	for _, l := range []contractstest.Language{contractstest.Python(t), contractstest.TypeScript(t)} {
		cmd := l.Producer(t.Context(), server, realModel, "Say hello.")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || len(bytes.TrimSpace(out)) == 0 {
			t.Errorf("%s: %v\n%s%s", l.Name, err, out, &stderr)
		}
	}
	nc, err := f.Producer()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s, err := client.New(nc, "").Run(t.Context(), &contracts.Job{Model: realModel, Kind: contracts.KindText, Prompt: "Once", Params: contracts.Params{MaxTokens: new(8), IgnoreEOS: true}})
	if err != nil {
		t.Fatal(err)
	}
	tokens := 0
	for c, err := range s.Chunks() {
		if err != nil || c.Err() != nil {
			t.Fatal(err, c)
		}
		tokens += len(c.Tokens)
	}
	if tokens != 8 {
		t.Errorf("go: %d tokens, want 8", tokens)
	}
}
