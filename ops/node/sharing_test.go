package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/onnx"
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
	fails.open = func(context.Context, *slog.Logger, room) (engine.Engine, error) {
		return nil, errors.New("the device is full")
	}
	n := &Node{cfg: Config{Log: slog.New(slog.DiscardHandler)}}
	if _, err := n.openEngines(t.Context(), []*Served{&fails}); err == nil || !strings.Contains(err.Error(), "the device is full") {
		t.Errorf("without another variant: %v, want the device's error", err)
	}
	fails.Else = func(context.Context) (Served, error) { return Served{}, errors.New("no network") }
	if _, err := n.openEngines(t.Context(), []*Served{&fails}); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("without the other variant: %v, want why it is not there", err)
	}
	made := 0
	fails.Else = func(context.Context) (Served, error) {
		made++
		return works, nil
	}
	out, err := n.openEngines(t.Context(), []*Served{&fails, &fails, &works})
	if err != nil || len(out) != 3 {
		t.Fatalf("%d engines, %v", len(out), err)
	}
	for _, e := range out {
		if err := e.Shutdown(); err != nil {
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("the other variant was made ready %d times", made)
	}
	if fails.Variant != works.Variant || len(fails.Aliases) != 1 {
		t.Errorf("served is %s with aliases %v, want %s with those of the model", fails.Variant, fails.Aliases, works.Variant)
	}
}

// TestBeside: an engine knows what comes before and after it on the same device, and of nothing else.
func TestBeside(t *testing.T) {
	t.Parallel()
	first, second := device.Device{Kind: device.CUDA}, device.Device{Kind: device.CUDA, Index: 1}
	list := []*Served{{own: true, on: first, files: 1}, {own: true, on: second, files: 10}, {own: true, files: 100}, {own: true, on: first, files: 1000}, {on: first, files: 10000}}
	for i, want := range []onnx.Neighbors{{After: 1, Weights: 1000}, {}, {}, {Before: 1}} {
		if got := beside(list, i); got != want {
			t.Errorf("beside model %d are %+v, want %+v", i, got, want)
		}
	}
}
