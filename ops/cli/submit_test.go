package cli

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/ops/node"
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

// TestInterruptedConnect: an interrupt ends the wait for a broker that takes the connection and says nothing.
func TestInterruptedConnect(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		if c, err := silent.Accept(); err == nil {
			defer func() { _ = c.Close() }()
		}
		interrupt()
		<-t.Context().Done()
	}()
	if _, err := connect(ctx, node.Remote{URL: "nats://" + silent.Addr().String()}, "test"); exitCode(err) != exitInterrupted {
		t.Errorf("connecting ended with %v, want that it was interrupted", err)
	}
}

// TestLongLine: a chat takes a line of any length, and the last one without its end.
func TestLongLine(t *testing.T) {
	t.Parallel()
	var asked []string
	c := &conversation{app: &app{in: strings.NewReader(strings.Repeat("x", 3<<20) + "\n\nlast"), out: io.Discard, err: io.Discard}}
	c.app.settings = &settings{flags: c.app.runCommand().Flags()}
	c.ask = func(_ context.Context, j *contracts.Job) (iter.Seq2[*contracts.Chunk, error], error) {
		asked = append(asked, j.Messages[len(j.Messages)-1].Content)
		return func(yield func(*contracts.Chunk, error) bool) {
			yield(&contracts.Chunk{Finish: contracts.FinishStop, Usage: &contracts.Usage{}}, nil)
		}, nil
	}
	if err := c.loop(t.Context()); err != nil || len(asked) != 2 || len(asked[0]) != 3<<20 || asked[1] != "last" {
		t.Errorf("%d lines were asked, error %v", len(asked), err)
	}
}
