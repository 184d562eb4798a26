package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestElse: a model whose variant for the device does not open is served as the other one, by all workers; without
// another one the error is told.
func TestElse(t *testing.T) {
	t.Parallel()
	works, err := ServeSim("sim", "sim:instant")
	if err != nil {
		t.Fatal(err)
	}
	fails := works
	fails.Aliases, fails.Variant = []string{"short"}, "half"
	fails.open = func(context.Context, *slog.Logger, int64) (budgeted, error) {
		return nil, errors.New("the device is full")
	}
	n := &Node{cfg: Config{Log: slog.New(slog.DiscardHandler)}}
	if _, err := n.openEngines(t.Context(), []*Served{&fails}); err == nil || !strings.Contains(err.Error(), "the device is full") {
		t.Errorf("without another variant: %v, want the device's error", err)
	}
	fails.Else = &works
	out, err := n.openEngines(t.Context(), []*Served{&fails, &fails, &works})
	if err != nil || len(out) != 3 {
		t.Fatalf("%d engines, %v", len(out), err)
	}
	for _, e := range out {
		if err := e.Shutdown(); err != nil {
			t.Error(err)
		}
	}
	if fails.Variant != works.Variant || len(fails.Aliases) != 1 {
		t.Errorf("served is %s with aliases %v, want %s with those of the model", fails.Variant, fails.Aliases, works.Variant)
	}
}
