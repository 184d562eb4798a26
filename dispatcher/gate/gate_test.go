package gate_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gate"
)

// TestShares: who takes all that it can get leaves places for others, and has them again when they leave.
func TestShares(t *testing.T) {
	t.Parallel()
	g := gate.New("calls", 64)
	g.Open()
	fill := func(tenant string) (n int) {
		for g.Enter(tenant, 0) == nil {
			n++
		}
		if err := g.Enter(tenant, 0); contracts.CodeOf(err) != contracts.CodeOverloaded {
			t.Errorf("one too many: %v", err)
		}
		return n
	}
	first, second := fill("greedy"), fill("second")
	if first != 48 || second != 12 {
		t.Errorf("the first got %d places and the second %d, want 48 and 12", first, second)
	}
	if err := g.Enter("third", 0); err != nil {
		t.Errorf("a third one: %v", err)
	}
	g.Leave("third", 0)
	for range second {
		g.Leave("second", 0)
	}
	if err := g.Enter("greedy", 0); err == nil {
		t.Error("it got more than its share")
	}
	for range first {
		g.Leave("greedy", 0)
	}
	if again := fill("greedy"); again != first {
		t.Errorf("after all left the first got %d places, want %d", again, first)
	}
}

// TestSmall: a gate of one place lets one in, whoever it is.
func TestSmall(t *testing.T) {
	t.Parallel()
	g := gate.New("calls", 1)
	g.Open()
	if err := g.Enter("a", 0); err != nil {
		t.Error(err)
	}
	if err := g.Enter("b", 0); err == nil {
		t.Error("two are inside")
	}
	g.Leave("a", 0)
	if err := g.Enter("b", 0); err != nil {
		t.Error(err)
	}
}

// TestBytes: a call that brings much takes more places, and gives as many back.
func TestBytes(t *testing.T) {
	t.Parallel()
	g := gate.New("calls", 64)
	g.Open()
	const size = 8 * gate.PlaceBytes
	n := 0
	for g.Enter("a", size) == nil {
		n++
	}
	if n != 6 {
		t.Errorf("%d calls of %d bytes are inside, want 6", n, size)
	}
	if err := g.Enter("b", 100*size); err == nil {
		t.Error("there is room for half of all places")
	}
	for range n {
		g.Leave("a", size)
	}
	if err := g.Enter("b", 100*size); err != nil {
		t.Errorf("more than all places hold never gets in: %v", err)
	}
	g.Leave("b", 100*size)
	select {
	case <-g.Shut("test"):
	default:
		t.Error("somebody is inside after all left")
	}
}

// A panic's value may quote a prompt: only what the runtime says is logged.
func TestPanicked(t *testing.T) {
	t.Parallel()
	for _, value := range []any{"secret", errors.New("secret")} {
		var log bytes.Buffer
		e := gate.Panicked(slog.New(slog.NewTextHandler(&log, nil)), value, "job", "j")
		if strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), "job=j") || e.Code != contracts.CodeInternal {
			t.Errorf("%v: %v, log\n%s", value, e, &log)
		}
	}
	var log bytes.Buffer
	func() {
		defer func() { gate.Panicked(slog.New(slog.NewTextHandler(&log, nil)), recover()) }()
		var none []int
		_ = none[len(log.String())]
	}()
	if !strings.Contains(log.String(), "index out of range") {
		t.Errorf("a runtime error: log\n%s", &log)
	}
}
