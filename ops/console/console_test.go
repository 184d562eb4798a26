package console_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
	"github.com/pelton-run/pelton/ops/node"
)

// fleet is a whole one in the process, behind a door that asks for keys.
func fleet(t *testing.T) (base, operator, tenant string) {
	t.Helper()
	served, err := node.ServeSim("sim", "sim:h100")
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.json")
	key := func(name string, operator bool) string {
		k, _, err := apikey.Add(keys, name, operator, 0)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	operator, tenant = key("ops", true), key("ann", false)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := node.Start(ctx, node.Config{Data: t.TempDir(), Dispatcher: true, Workers: 1, HTTP: "127.0.0.1:0", Models: []node.Served{served},
		Security: node.Security{APIKeys: keys}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = n.Stop(ctx)
	})
	return "http://" + n.HTTP(), operator, tenant
}

func get(t *testing.T, url, key string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

var (
	loads = regexp.MustCompile(`(?:href|src)="([\w.]+)"|from "\./([\w.]+)"`)
	asks  = regexp.MustCompile(`ask\("([^"]+)"\)`)
)

// TestPage: the page and all that it loads come without a key and under a strict policy; what it asks for
// is an operator's.
func TestPage(t *testing.T) {
	t.Parallel()
	base, operator, tenant := fleet(t)
	resp, page := get(t, base+"/console/", "")
	for name, want := range map[string]string{"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "Content-Type": "text/html"} {
		if got := resp.Header.Get(name); !strings.Contains(got, want) {
			t.Errorf("%s is %q, want %q in it", name, got, want)
		}
	}
	_, script := get(t, base+"/console/page.js", "")
	seen := 0
	for _, m := range loads.FindAllStringSubmatch(page+script, -1) {
		seen++
		if resp, _ := get(t, base+"/console/"+m[1]+m[2], ""); resp.StatusCode != http.StatusOK {
			t.Errorf("%s%s: %s", m[1], m[2], resp.Status)
		}
	}
	if seen != 3 {
		t.Errorf("the page loads %d files, want 3", seen)
	}
	paths := asks.FindAllStringSubmatch(script, -1)
	for _, m := range paths {
		for key, want := range map[string]int{"": 401, tenant: 403, operator: 200} {
			if resp, body := get(t, base+m[1], key); resp.StatusCode != want {
				t.Errorf("%s: %s %s, want %d", m[1], resp.Status, body, want)
			}
		}
	}
	if len(paths) != 3 {
		t.Errorf("the page asks for %v, want three paths", paths)
	}
	if resp, _ := get(t, base+"/console/../metrics", ""); resp.StatusCode == http.StatusOK {
		t.Error("/console/../metrics is open")
	}
	if strings.Contains(script, "innerHTML") || strings.Contains(script, "outerHTML") || strings.Contains(script, "document.write") {
		t.Error("the page writes what it got as HTML")
	}
}

// TestFigures: what the page computes of a fleet's real metrics and of what its workers say, by node.
func TestFigures(t *testing.T) {
	t.Parallel()
	base, operator, tenant := fleet(t)
	dir := t.TempDir()
	look := func(name string) string {
		file := filepath.Join(dir, name)
		for path, to := range map[string]string{"/metrics": file, "/v1/workers": file + ".workers"} {
			_, text := get(t, base+path, operator)
			if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return file
	}
	before := look("before")
	const jobs = 4
	for range jobs {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/v1/completions", strings.NewReader(`{"model":"sim","prompt":"hello","max_tokens":6,"ignore_eos":true}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tenant)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	for { // heartbeats come twice a second
		if _, text := get(t, base+"/v1/workers", operator); strings.Contains(text, `"output_tokens":24`) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	out, err := exec.CommandContext(t.Context(), "node", "testdata/check.mjs", "assets/figures.js", before, look("after"), "2").CombinedOutput()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, out)
	}
	var got struct {
		Figures      map[string]*float64
		Label        string
		Total, Plain float64
		Half, Beyond float64
		Both         map[string]float64
		Nothing      bool
		Size         string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]float64{"jobs admitted / s": jobs / 2.0, "output tokens / s": jobs * 6 / 2.0, "jobs failed / s": 0, "jobs that wait": 0} {
		if v := got.Figures[name]; v == nil || *v != want {
			t.Errorf("%s is %v, want %g: %s", name, v, want, out)
		}
	}
	if v := got.Figures["first token at the door, p95, ms"]; v == nil || *v <= 0 || *v > 60_000 {
		t.Errorf("the first token's p95 is %v: %s", v, out)
	}
	if got.Label != `x"y\z` || got.Total != 2 || got.Plain != 1000 || got.Half != 1.5 || got.Beyond != 1 || !got.Nothing || got.Size != "1.5 KiB" || got.Both["a / s"] != 6 || got.Both["p"] != 5 {
		t.Errorf("got %s", out)
	}
}
