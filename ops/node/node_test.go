package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// TestPortInUse: a start that fails says why, and is no interruption.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	served, err := ServeSim("m", "sim:h100")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	_, err = Start(ctx, Config{Data: t.TempDir(), Dispatcher: true, HTTP: l.Addr().String(), Workers: 1, Models: []Served{served}, Log: slog.New(slog.DiscardHandler)})
	if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "address already in use") || strings.Contains(err.Error(), "\n") {
		t.Errorf("HTTP port in use: %v, want one line that says so", err)
	}
}

// A disk that was full ends the node with an error that says so: the broker takes nothing any more, also when there is
// room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	b, err := StartBroker(t.TempDir(), "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Shutdown() })
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := b.Run(ctx); err != nil {
		t.Errorf("a broker that was stopped: %v", err)
	}
	log := b.srv.Logger()
	log.Warnf("something else")
	for range 2 { // as the server says it
		log.Errorf("JetStream failed to store a msg on stream '%s > %s': %v", "$G", "JOBS", fmt.Errorf("write 1.blk: %w", syscall.ENOSPC))
	}
	if err := b.Run(t.Context()); contracts.CodeOf(err) != contracts.CodeUnavailable || !strings.Contains(err.Error(), "make room") {
		t.Errorf("a broker whose disk was full: %v", err)
	}
}
