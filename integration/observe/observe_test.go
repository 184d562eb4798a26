package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/integration/harness"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/loadgen"
)

const (
	deploy   = "../../ops/deploy"
	model    = "sim"
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestObserve: promtool accepts configuration, rules and the names of our metrics; the rules' own tests
// pass; Prometheus scrapes the fleet as compose.yaml's does, evaluates every rule, and every query of the
// dashboard has data.
func TestObserve(t *testing.T) {
	if os.Getenv("PELTON_OBSERVE") == "" {
		t.Skip("make observe-check runs this; it needs prometheus and promtool")
	}
	promtool(t, "", "check", "rules", "alerts.yml")
	promtool(t, "", "test", "rules", "alerts_test.yml")
	data := t.TempDir()
	fleet := harness.Up(t, data, "--engine", "sim", "--secure")
	secrets := []string{"--tls-ca", auth.CertsIn(data).CA, "--nats", fleet.NATS, "--creds", filepath.Join(data, "creds", "worker.creds")}
	worker := contractstest.Address(t)
	second := harness.Start(t, append([]string{"worker", "--engine", "sim", "--http", worker}, secrets...)...)
	third := harness.Start(t, append([]string{"worker", "--engine", "sim"}, secrets...)...)

	p := prometheus(t, data, strings.TrimPrefix(fleet.HTTP, "https://"), worker)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); load(ctx, t, fleet, data) }()
	p.wait(t, `sum(pelton_running_jobs) > 3`)
	third.Kill() // its jobs are handed over
	moved := p.wait(t, `sum(pelton_dispatcher_moves_total{cause="dead"}) > 0`)
	second.Signal(syscall.SIGSTOP) // its jobs too, and it finds out when it wakes up
	p.wait(t, `sum(pelton_dispatcher_moves_total{cause="dead"}) > `+moved)
	second.Signal(syscall.SIGCONT)
	for _, q := range queries(t) {
		p.wait(t, q)
	}
	p.rules(t)
	stop()
	<-done
	lint(t, fleet, data)
}

// load keeps long answers of all classes running.
func load(ctx context.Context, t *testing.T, fleet *harness.Process, data string) {
	client, key, err := door(data)
	if err != nil {
		t.Error(err)
		return
	}
	var plan loadgen.Plan
	for i := range 100_000 {
		plan = append(plan, loadgen.Request{At: time.Duration(i) * 50 * time.Millisecond, Input: 100, Output: 400, Class: contracts.Classes[i%4], Seed: uint64(i)})
	}
	_, _ = loadgen.Run(ctx, loadgen.Config{Plan: plan, Prompter: loadgen.Prompter{PerToken: 4}, Timeout: patience,
		Target: &loadgen.HTTP{URL: fleet.HTTP, Model: model, Key: key, IgnoreEOS: true, Client: loadgen.NewClient(client, 256)}})
}

// server is a running Prometheus.
type server struct {
	url string
	log string
}

// prometheus starts one with the configuration of ops/deploy, in which only files and addresses differ.
func prometheus(t *testing.T, data, dispatcher, worker string) server {
	t.Helper()
	text, err := os.ReadFile(deploy + "/prometheus/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	var cfg map[string]any
	if err := yaml.Unmarshal(text, &cfg); err != nil {
		t.Fatal(err)
	}
	rules, err := filepath.Abs(deploy + "/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	cfg["rule_files"] = []string{rules}
	cfg["global"] = map[string]any{"scrape_interval": "1s", "evaluation_interval": "1s"}
	for _, job := range cfg["scrape_configs"].([]any) {
		job := job.(map[string]any)
		targets := []string{worker}
		if job["job_name"] == "dispatcher" {
			targets = []string{dispatcher}
			job["authorization"].(map[string]any)["credentials_file"] = auth.FirstKey(data)
			job["tls_config"].(map[string]any)["ca_file"] = auth.CertsIn(data).CA
		}
		delete(job, "dns_sd_configs")
		job["static_configs"] = []map[string]any{{"targets": targets}}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if text, err = yaml.Marshal(cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "check", "config", file)
	s := server{log: filepath.Join(dir, "log")}
	address := contractstest.Address(t)
	s.url = "http://" + address
	cmd := exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	if err := harness.Begin(cmd); err != nil {
		t.Fatalf("prometheus: %v: apt-get install prometheus", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	})
	return s
}

// wait until a query has data that is a number, and return the first.
func (s server) wait(t *testing.T, query string) string {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last string
	for end := time.After(patience); ; {
		var answer struct {
			Status, Error string
			Data          struct {
				Result []struct{ Value [2]any }
			}
		}
		if err := s.get(t.Context(), "/api/v1/query?"+url.Values{"query": {query}}.Encode(), &answer); err != nil {
			last = err.Error()
		} else if answer.Status == "error" {
			t.Fatalf("%s: %s", query, answer.Error)
		}
		for _, r := range answer.Data.Result {
			if v := fmt.Sprint(r.Value[1]); v != "NaN" {
				t.Logf("%d series, the first is %s: %s", len(answer.Data.Result), v, query)
				return v
			}
		}
		select {
		case <-tick.C:
		case <-end:
			log, _ := os.ReadFile(s.log)
			t.Errorf("no data within %s for %s %s\n%.4000s", patience, query, last, log)
			return "0"
		}
	}
}

// rules must all have been evaluated without an error.
func (s server) rules(t *testing.T) {
	t.Helper()
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
	}
	if err := s.get(t.Context(), "/api/v1/rules", &answer); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health != "ok" {
				t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if n < 6 {
		t.Errorf("%d rules are loaded", n)
	}
}

func (s server) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return json.NewDecoder(resp.Body).Decode(into)
}

// selector is a metric of ours with the labels that a rule wants of it.
var selector = regexp.MustCompile(`pelton_\w+({[^}]*})?`)

// queries are those of the dashboard, as Grafana sends them, and one for each metric that a rule names, with its labels.
func queries(t *testing.T) (out []string) {
	t.Helper()
	text, err := os.ReadFile(deploy + "/grafana/dashboards/fleet.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			out = append(out, strings.NewReplacer("$model", ".*", "$__rate_interval", "20s").Replace(q.Expr))
		}
	}
	if len(out) < 15 {
		t.Fatalf("%d queries on the dashboard", len(out))
	}
	if text, err = os.ReadFile(deploy + "/prometheus/alerts.yml"); err != nil {
		t.Fatal(err)
	}
	return append(out, selector.FindAllString(string(text), -1)...)
}

// lint lets promtool judge names and help texts.
func lint(t *testing.T, fleet *harness.Process, data string) {
	t.Helper()
	client, key, err := door(data)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fleet.HTTP+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = resp.Body
	if out, err := cmd.CombinedOutput(); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("/metrics: %s, %v\n%s", resp.Status, err, out)
	}
}

func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	if cmd.Dir = dir; dir == "" {
		cmd.Dir = deploy + "/prometheus"
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("promtool %v: %v (apt-get install prometheus)\n%s", args, err, out)
	}
}
