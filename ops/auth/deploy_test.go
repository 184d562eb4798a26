package auth_test

import (
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

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
