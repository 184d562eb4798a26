package batch_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/worker/batch"
)

// What a panic carries may quote a prompt: neither the log nor the error, which is logged later, says it.
func TestPanicked(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	err := batch.Panicked(slog.New(slog.NewTextHandler(&log, nil)), "engine", "no token for PROMPT", []byte("where"), "job", "j")
	if text := log.String() + err.Error(); strings.Contains(text, "PROMPT") || !strings.Contains(text, "where") || !strings.Contains(text, "job=j") || !strings.Contains(text, "engine panicked") {
		t.Errorf("log and error of a panic: %s", text)
	}
	func() {
		defer func() { err = batch.Panicked(slog.New(slog.DiscardHandler), "engine", recover(), nil) }()
		_ = []int{}[len(log.String())]
	}()
	if !strings.Contains(err.Error(), "index out of range") {
		t.Errorf("a runtime error is told as %q", err)
	}
}
