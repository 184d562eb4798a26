package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
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
