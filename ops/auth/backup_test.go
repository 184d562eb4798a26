package auth_test

import (
	"path/filepath"
	"testing"

	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/admin"
	"github.com/pelton-run/pelton/ops/auth"
)

// TestBackup: a provisioner's credentials are enough to copy a secured fleet's streams and to bring one of
// them back; beside a dispatcher that runs, it must say so.
func TestBackup(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	if _, err := client.New(f.connect(auth.Producer, "ann"), "ann").Submit(testContext(t), job("one", "hello", 5)); err != nil {
		t.Fatal(err)
	}
	nc, dir := f.connect(auth.Provisioner, "p"), filepath.Join(t.TempDir(), "backup")
	m, err := admin.Backup(testContext(t), nc, dir, nil)
	if err != nil || len(m.Streams) != 4 {
		t.Fatalf("backup: %+v, %v\n%s", m, err, f.log)
	}
	if _, err := admin.Restore(testContext(t), nc, dir, admin.RestoreOptions{Replace: true}); err == nil {
		t.Error("restored beside a dispatcher that runs")
	}
	if _, err := nc.Request("$JS.API.STREAM.DELETE."+topology.StreamDead, nil, patience); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Restore(testContext(t), nc, dir, admin.RestoreOptions{Replace: true, Running: true}); err != nil {
		t.Errorf("restore: %v\n%s", err, f.log)
	}
}
