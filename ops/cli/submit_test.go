package cli

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
)

// TestResults: the outcome of a line is what became of the job, and outputs that are no text are in it.
func TestResults(t *testing.T) {
	t.Parallel()
	for code, want := range map[contracts.Code]contracts.Outcome{
		"": contracts.OutcomeCompleted, contracts.CodeOverloaded: contracts.OutcomeEvicted, contracts.CodeCanceled: contracts.OutcomeCanceled,
		contracts.CodeDeadlineExceeded: contracts.OutcomeExpired, contracts.CodeInternal: contracts.OutcomeFailed,
	} {
		final := &contracts.Chunk{Usage: &contracts.Usage{}, Code: code, Outputs: []contracts.Tensor{{Name: "embeddings"}}}
		r := resultOf(&contracts.Job{ID: "j"}, final, make([]strings.Builder, contracts.MaxChoices))
		if r.Outcome != want || len(r.Outputs) != 1 {
			t.Errorf("a job that ended with %q is %s with %d outputs, want %s with 1", code, r.Outcome, len(r.Outputs), want)
		}
	}
}

// TestInterruptedChat: an interrupt ends a chat that waits for its next line.
func TestInterruptedChat(t *testing.T) {
	t.Parallel()
	in, typed := io.Pipe()
	defer func() { _ = typed.Close() }()
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	c := &conversation{app: &app{in: in, out: io.Discard, err: io.Discard}}
	if err := c.loop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the chat ended with %v, want that it was canceled", err)
	}
}
