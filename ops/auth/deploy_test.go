package auth_test

import (
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
	"github.com/pelton-run/pelton/ops/auth"
)

// files are the contents of every file below dir, by path.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDeploy: each part's folder holds what the part needs and nothing else, secrets are for their owner
// alone, and a second call changes nothing.
func TestDeploy(t *testing.T) {
	t.Parallel()
	keys, dir := t.TempDir(), t.TempDir()
	if err := auth.Deploy(keys, dir); err == nil {
		t.Error("no hosts were accepted")
	}
	if err := auth.Deploy(keys, dir, "nats-1", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	want := map[string]fs.FileMode{
		"nats/server.conf": 0o644, "nats/tls.conf": 0o644, "nats/ca.pem": 0o644, "nats/server.pem": 0o644, "nats/server.key": 0o600,
		"gateway/server.pem": 0o600, "gateway/ca.pem": 0o644,
		"dispatcher/dispatcher.creds": 0o600, "dispatcher/ca.pem": 0o644, "dispatcher/server.pem": 0o644, "dispatcher/server.key": 0o600, "dispatcher/api-keys.json": 0o600,
		"worker/worker.creds": 0o600, "worker/ca.pem": 0o644,
		"console/console.creds": 0o600, "console/ca.pem": 0o644,
		"provisioner/provisioner.creds": 0o600, "provisioner/ca.pem": 0o644,
		"producer/producer.creds": 0o600, "producer/ca.pem": 0o644, "producer/api-key": 0o600,
		"prometheus/api-key": 0o600, "prometheus/ca.pem": 0o644,
	}
	first, got := files(t, dir), map[string]fs.FileMode{}
	for name := range first {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = info.Mode().Perm()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files and modes: %s", diff)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "gateway/server.pem"), filepath.Join(dir, "gateway/server.pem")); err != nil {
		t.Errorf("the gateway's one file: %v", err)
	}
	if err := auth.Deploy(keys, dir, "nats-1"); err != nil {
		t.Fatal(err)
	}
	again := files(t, dir)
	delete(first, "nats/server.conf") // signed anew, so that an upgrade's rights arrive
	delete(again, "nats/server.conf")
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("a second call changed: %s", diff)
	}
}

// TestDeployGrows: one more host is one more name in a new certificate of the same authority, and API
// keys that were added meanwhile stay.
func TestDeployGrows(t *testing.T) {
	t.Parallel()
	keys, dir := t.TempDir(), t.TempDir()
	if err := auth.Deploy(keys, dir, "old"); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	added := filepath.Join(dir, "dispatcher", "api-keys.json")
	if err := os.WriteFile(added, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := auth.Deploy(keys, dir, "old", "new.example.net"); err != nil {
		t.Fatal(err)
	}
	after := files(t, dir)
	if after["worker/ca.pem"] != before["worker/ca.pem"] || after["worker/worker.creds"] != before["worker/worker.creds"] || after["dispatcher/api-keys.json"] != "[]" {
		t.Error("authority, credentials or API keys were made anew")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "dispatcher/server.pem"), filepath.Join(dir, "dispatcher/server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(after["worker/ca.pem"]))
	for _, host := range []string{"old", "new.example.net"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pool}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// remove deletes files below dir.
func remove(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSecureGoesOn: a process that ended between two files is followed by one that makes what is missing.
func TestSecureGoesOn(t *testing.T) {
	t.Parallel()
	for _, lost := range [][]string{
		{"tls/ca.pem", "tls/server.pem", "tls/server.key", "tls/tls.conf"}, // all after ca.key
		{"tls/server.pem", "tls/tls.conf"},                                 // all after server.key
		{"creds/api-keys.json"},
	} {
		dir, out := t.TempDir(), t.TempDir()
		if _, err := auth.Secure(dir, "localhost"); err != nil {
			t.Fatal(err)
		}
		remove(t, dir, lost...)
		if err := auth.Deploy(dir, out, "localhost"); err != nil {
			t.Errorf("without %v: %v", lost, err)
			continue
		}
		key, err := os.ReadFile(auth.FirstKey(dir))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := apikey.Open(filepath.Join(out, "dispatcher", "api-keys.json"))
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodGet, "/v1/models", nil)
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
		if _, err := keys.Tenant(req); err != nil {
			t.Errorf("without %v: the first key is not among the keys: %v", lost, err)
		}
	}
}

// TestAuthorityIsKept: one that signed is not made anew because one of its two files is gone.
func TestAuthorityIsKept(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"ca.pem", "ca.key"} {
		dir := t.TempDir()
		if _, err := auth.Secure(dir, "localhost"); err != nil {
			t.Fatal(err)
		}
		remove(t, dir, "tls/"+lost)
		before := files(t, dir+"/tls")
		if _, err := auth.Secure(dir, "other"); err == nil || !strings.Contains(err.Error(), lost) {
			t.Errorf("without %s: %v, want an error that names it", lost, err)
		}
		if diff := cmp.Diff(before, files(t, dir+"/tls")); diff != "" {
			t.Errorf("without %s files changed: %s", lost, diff)
		}
	}
}

// TestFirstKeyDeleted: what is laid out stays, and nothing fails.
func TestFirstKeyDeleted(t *testing.T) {
	t.Parallel()
	keys, dir := t.TempDir(), t.TempDir()
	if err := auth.Deploy(keys, dir, "localhost"); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)["producer/api-key"]
	remove(t, keys, "creds/api-key")
	if err := auth.Deploy(keys, dir, "localhost"); err != nil || files(t, dir)["producer/api-key"] != before {
		t.Errorf("after the first key was deleted: %v, want the one that is laid out to stay", err)
	}
}

// TestSecureGrows: one more host makes a new certificate, also long before the old one ends.
func TestSecureGrows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := auth.Secure(dir, "localhost"); err != nil {
		t.Fatal(err)
	}
	d, err := auth.Secure(dir, "localhost", "llm.example.net")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(d.Certs.Cert, d.Certs.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Leaf.VerifyHostname("llm.example.net"); err != nil {
		t.Error(err)
	}
}

// TestSecureAtOnce: processes that make the same fleet's keys at the same time have the same ones.
func TestSecureAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := auth.Secure(dir, "localhost"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	certs := auth.CertsIn(dir)
	for cert, key := range map[string]string{certs.CA: certs.CAKey, certs.Cert: certs.Key} {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			t.Error(err)
		}
	}
	keys, err := apikey.List(filepath.Join(dir, "creds", "api-keys.json"))
	first, err2 := os.ReadFile(auth.FirstKey(dir))
	if err != nil || err2 != nil || len(keys) != 1 || !strings.Contains(string(first), keys[0].ID) {
		t.Errorf("the first key is not the one of %v: %v, %v", keys, err, err2)
	}
}
