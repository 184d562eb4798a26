package node_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/node"
)

// TestRefusalsAreLoggedSeldom: a client that does what it may not, as fast as it can, does not fill the log.
func TestRefusalsAreLoggedSeldom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority, err := auth.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	var log contractstest.Log
	b, err := node.BrokerConfig{Dir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Auth: authority.Config(), Log: slog.New(slog.NewTextHandler(&log, nil))}.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Shutdown() })
	begin := time.Now()
	nc, err := nats.Connect(b.URL(), nats.UserCredentials(authority.Creds(auth.Producer)), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for range 5000 {
		if err := nc.Publish("jobs.m.p0.s.bob.j", nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	lines, most := strings.Count(log.String(), "Violation"), 10*(2+int(time.Since(begin).Seconds()))
	if lines < 1 || lines > most {
		t.Errorf("%d lines of 5000 refused publishes, want 1 to %d", lines, most)
	}
}
