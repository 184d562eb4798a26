package cli

import (
	"context"
	"errors"
	"io"
	"path/filepath"
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

// TestLostOutput: a command whose result could not be written failed.
func TestLostOutput(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"version"}, {"help"}, {"auth", "key", "add", "acme", "--api-keys", filepath.Join(t.TempDir(), "keys.json")}} {
		var say strings.Builder
		reader, full := io.Pipe()
		_ = reader.Close()
		if code := Main(args, strings.NewReader(""), full, &say); code != exitFailed || say.Len() == 0 {
			t.Errorf("%v ended with %d and says %q, want %d and a reason", args, code, say.String(), exitFailed)
		}
	}
}

// TestInterruptedChat: an interrupt ends a chat and a submit that wait for their next line.
func TestInterruptedChat(t *testing.T) {
	t.Parallel()
	in, typed := io.Pipe()
	defer func() { _ = typed.Close() }()
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	silent, _ := io.Pipe()
	if jobs, err := (&app{in: silent}).readJobs(ctx, "-"); !errors.Is(err, context.Canceled) {
		t.Errorf("submit read %v, %v; want that it was canceled", jobs, err)
	}
	c := &conversation{app: &app{in: in, out: io.Discard, err: io.Discard}}
	if err := c.loop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the chat ended with %v, want that it was canceled", err)
	}
}
