package auth_test

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/node"
)

// canary is a word that is in no log, metric or label unless a prompt leaks there.
const canary = "Xantippe7731"

// seed is the form of a secret key of NATS.
var seed = regexp.MustCompile(`\bS[AOU][A-Z2-7]{56}\b`)

// TestNothingLeaks: a prompt and the key that it comes with are in no log line at any level and in no
// metric, on none of the ways in, accepted or refused; credentials are in files that only their owner
// reads.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	var tenant, operator string
	f := start(t, func(f *fleet, cfg *node.Config) {
		cfg.HTTP, cfg.APIKeys = "127.0.0.1:0", filepath.Join(f.dir, "creds", "api-keys.json")
		tenant, operator = f.apiKey(cfg.APIKeys, "ann", false), f.apiKey(cfg.APIKeys, "ops", true)
	})
	said := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	type body = map[string]any
	var answers []string
	for _, c := range []struct {
		method, path, key, body string
		status                  int
	}{
		{"POST", "/v1/chat/completions", tenant, said(body{"model": "m", "max_tokens": 5, "messages": []body{{"role": "user", "content": canary}}}), 200},
		{"POST", "/v1/completions", tenant, said(body{"model": "m", "max_tokens": 5, "prompt": canary, "stream": true}), 200},
		{"POST", "/v1/completions", tenant, said(body{"model": "m", "max_tokens": 5, "prompt": []any{canary, 1}}), 400},
		{"POST", "/v1/completions", tenant, `{"model": "m", "prompt": "` + canary, 400},
		{"POST", "/v1/completions", tenant, said(body{"model": "m", "max_tokens": 1 << 30, "prompt": canary}), 400},
		{"POST", "/v1/jobs", tenant, said(body{"kind": "text", "model": "m", "prompt": canary, "params": body{"max_tokens": 5}, "job": "j1"}), 202},
		{"POST", "/v1/jobs", tenant, said(body{"kind": "text", "model": "m", "prompt": canary + " again", "job": "j1"}), 409},
		{"POST", "/v1/completions", operator + "x", said(body{"model": "m", "prompt": canary}), 401},
		{"GET", "/v1/workers", tenant, "", 403},
		{"GET", "/v1/workers", operator, "", 200},
		{"GET", "/v1/queues", operator, "", 200},
		{"POST", "/v1/queues/pause", tenant, "", 403},
		{"POST", "/v1/queues/drain", "", "", 401},
		{"POST", "/v1/queues/resume?model=m", operator, "", 200},
		{"POST", "/v1/workers/nobody/drain", tenant, "", 403},
		{"POST", "/v1/workers/nobody/drain", "", "", 401},
		{"POST", "/v1/workers/nobody/drain", operator, "", 404},
		{"GET", "/v1/load", tenant, "", 403},
		{"GET", "/v1/load", operator, "", 200},
		{"GET", "/metrics", operator, "", 200},
	} {
		status, answer := f.ask(c.method, c.path, c.key, c.body)
		for ctx := testContext(t); status == http.StatusServiceUnavailable && ctx.Err() == nil; { // on a busy machine a worker is silent for seconds
			status, answer = f.ask(c.method, c.path, c.key, c.body)
		}
		if status != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, status, answer, c.status)
		}
		if c.method == http.MethodGet {
			answers = append(answers, answer)
		}
	}
	ann := client.New(f.connect(auth.Producer, "ann"), "ann", client.WithoutReplay())
	if _, err := ann.Submit(testContext(t), job("n1", canary, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := ann.Submit(testContext(t), job("n2", canary, 1<<30)); err == nil {
		t.Error("a job that cannot fit is admitted")
	}
	logged := f.log.String()
	if !strings.Contains(logged, "http request") || !strings.Contains(answers[len(answers)-1], "pelton_") {
		t.Fatalf("nothing was logged or measured:\n%s\n%s", logged, answers[len(answers)-1])
	}
	for what, text := range map[string]string{"log": logged, "metrics, workers and queues": strings.Join(answers, "\n")} {
		for _, secret := range []string{canary, tenant, operator} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s: %q leaked: …%s…", what, secret, text[max(0, at-200):min(len(text), at+80)])
			}
		}
		if found := seed.FindString(text); found != "" {
			t.Errorf("%s: a secret key leaked: %s", what, found)
		}
	}
	f.onlyOwnerReads()
}

func (f *fleet) apiKey(path, tenant string, operator bool) string {
	f.t.Helper()
	key, _, err := apikey.Add(path, tenant, operator, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return key
}

// ask sends a request through the HTTP door, over TLS.
func (f *fleet) ask(method, path, key, body string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(testContext(f.t), method, "https://"+f.node.HTTP()+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := f.http().Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// onlyOwnerReads checks the modes of all files that hold a secret.
func (f *fleet) onlyOwnerReads() {
	f.t.Helper()
	secrets := 0
	for _, dir := range []string{"auth", "creds", "tls"} {
		err := filepath.WalkDir(filepath.Join(f.dir, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if d.IsDir() {
				if info.Mode().Perm() != 0o700 {
					f.t.Errorf("folder %s has mode %v, want 0700", path, info.Mode())
				}
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			secret := bytes.HasPrefix(data, []byte("S")) || bytes.Contains(data, []byte("NKEY SEED")) || bytes.Contains(data, []byte("PRIVATE KEY")) || bytes.Contains(data, []byte(`"hash"`))
			if secret {
				secrets++
			}
			if secret && info.Mode().Perm() != 0o600 {
				f.t.Errorf("%s has mode %v, want 0600", path, info.Mode())
			}
			return nil
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
	if secrets < 16 { // 8 keys, 5 credentials, 2 of TLS, the API keys
		f.t.Errorf("%d secret files, want 16", secrets)
	}
}
