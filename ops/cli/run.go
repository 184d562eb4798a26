package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/ops/node"
)

func (a *app) runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run [MODEL] [PROMPT]",
		Short: "Answer one prompt, or chat: from nothing to tokens",
		Long: `run brings an embedded fleet up (broker, dispatcher, one worker), fetches and converts the model if it
is not there yet, submits the prompt as a job and streams the answer. Without PROMPT it is a chat.
One argument is the prompt, unless it names a known model. Only the answer goes to stdout.`,
		Example: example(`pelton run "Why is the sky blue?"`, `pelton run smollm2 "Write a haiku about water."`, `pelton run --server http://127.0.0.1:8080 "Hello"`),
		Args:    cobra.MaximumNArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), args) },
	}
	engineFlags(c)
	samplingFlags(c)
	c.Flags().String("model", "", "model `NAME[:VARIANT]` (or the first argument)")
	c.Flags().String("server", "", "`URL` of a running fleet to use instead (http://… or nats://…)")
	c.Flags().String("system", "", "system `message`")
	c.Flags().String("class", "p1", "priority class, p0 to p3")
	c.Flags().BoolP("verbose", "v", false, "print time to first token and tokens/s on stderr")
	return c
}

// askFunc submits a job and streams its records.
type askFunc func(ctx context.Context, j *contracts.Job) (iter.Seq2[*contracts.Chunk, error], error)

func (a *app) run(ctx context.Context, args []string) error {
	model, prompt, err := a.runArguments(args)
	if err != nil {
		return err
	}
	started := time.Now()
	ask, model, stop, err := a.fleetFor(ctx, model)
	if err != nil {
		return err
	}
	defer stop()
	if a.settings.yes("verbose") {
		fmt.Fprintf(a.err, "fleet ready after %s\n", time.Since(started).Round(time.Millisecond))
	}
	chat := &conversation{app: a, ask: ask, model: model}
	if system := a.settings.text("system"); system != "" {
		chat.turns = append(chat.turns, contracts.Message{Role: "system", Content: system})
	}
	if prompt != "" {
		return chat.say(ctx, prompt)
	}
	return chat.loop(ctx)
}

// runArguments tells model and prompt apart.
func (a *app) runArguments(args []string) (model, prompt string, err error) {
	model = a.settings.text("model")
	switch len(args) {
	case 2:
		model, prompt = args[0], args[1]
	case 1:
		if model == "" && knownModel(args[0]) {
			model = args[0]
		} else {
			prompt = args[0]
		}
	}
	if len(args) > 0 && prompt == "" && args[len(args)-1] == "" {
		return "", "", usageError{fmt.Errorf("the prompt is empty: say something, or leave it out to chat")}
	}
	return model, prompt, nil
}

// fleetFor connects to the fleet of --server or starts one inside this process.
func (a *app) fleetFor(ctx context.Context, model string) (askFunc, string, func(), error) {
	if server := a.settings.text("server"); server != "" {
		ask, stop, err := a.remoteFleet(ctx, server)
		return ask, model, stop, err
	}
	served, err := a.serve(ctx, orDefault(model))
	if err != nil {
		return nil, "", nil, err
	}
	memory, err := a.memory()
	if err != nil {
		return nil, "", nil, err
	}
	root := filepath.Join(dataFolder(), "run")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, "", nil, fmt.Errorf("data folder: %w", err)
	}
	sweep(root)
	dir, err := os.MkdirTemp(root, "fleet-")
	if err != nil {
		return nil, "", nil, fmt.Errorf("data folder: %w", err)
	}
	n, err := node.Start(ctx, node.Config{
		Data: dir, Dispatcher: true, Workers: 1, Models: served, Memory: memory, Version: version(), Log: a.log, Grace: time.Second,
	})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, "", nil, err
	}
	stop := func() {
		quick, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := n.Stop(quick); err != nil {
			a.log.Debug("stop", "error", err)
		}
		_ = os.RemoveAll(dir)
	}
	nc, err := n.Connect("pelton run")
	if err != nil {
		stop()
		return nil, "", nil, err
	}
	return askNATS(client.New(nc, "default")), served[0].Name, func() { nc.Close(); stop() }, nil
}

// sweep removes the folders of runs that were killed: those that no broker owns, and not of a run that is just
// about to start its own.
func sweep(root string) {
	left, _ := filepath.Glob(filepath.Join(root, "fleet-*"))
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > time.Minute && node.Free(dir) == nil {
			_ = os.RemoveAll(dir) // the next run tries again
		}
	}
}

func askNATS(c *client.Client) askFunc {
	return func(ctx context.Context, j *contracts.Job) (iter.Seq2[*contracts.Chunk, error], error) {
		s, err := c.Run(ctx, j)
		if err != nil {
			return nil, err
		}
		return s.Chunks(), nil
	}
}

// conversation is the turns of one chat.
type conversation struct {
	app   *app
	ask   askFunc
	model string
	turns []contracts.Message
}

// say adds a user's turn, streams the answer to stdout and keeps it as the next turn.
func (c *conversation) say(ctx context.Context, text string) error {
	c.turns = append(c.turns, contracts.Message{Role: "user", Content: text})
	j := &contracts.Job{
		V: contracts.Version, ID: uuid.Must(uuid.NewV7()).String(), Tenant: "default", Model: c.model, Kind: contracts.KindChat,
		Class: contracts.Class(c.app.settings.text("class")), Messages: c.turns, Params: c.app.params(), Submitted: time.Now().UnixMilli(),
		CancelOnLeave: true,
	}
	asked := time.Now()
	chunks, err := c.ask(ctx, j)
	if err != nil {
		return err
	}
	var answer strings.Builder
	var first time.Duration
	var final *contracts.Chunk
	for chunk, err := range chunks {
		if err != nil {
			return err
		}
		if first == 0 && len(chunk.Tokens) > 0 {
			first = time.Since(asked)
		}
		answer.WriteString(chunk.Text)
		fmt.Fprint(c.app.out, chunk.Text)
		if chunk.Final() {
			final = chunk
		}
	}
	fmt.Fprintln(c.app.out)
	if final == nil {
		return contracts.Errorf(contracts.CodeUnavailable, "the stream ended without a final record: is the fleet still running?")
	}
	if err := final.Err(); err != nil {
		return err
	}
	c.turns = append(c.turns, contracts.Message{Role: "assistant", Content: answer.String()})
	if c.app.settings.yes("verbose") {
		c.report(final, first, time.Since(asked))
	}
	return nil
}

func (c *conversation) report(final *contracts.Chunk, first, total time.Duration) {
	rate := 0.0
	if n := final.Usage.CompletionTokens; n > 1 && total > first {
		rate = float64(n-1) / (total - first).Seconds()
	}
	fmt.Fprintf(c.app.err, "%d prompt tokens, %d generated (%s); time to first token %s; %.1f tokens/s\n",
		final.Usage.PromptTokens, final.Usage.CompletionTokens, final.Finish, first.Round(100*time.Microsecond), rate)
}

// loop is the chat in the terminal: one line a turn, until the end of input or /bye.
func (c *conversation) loop(ctx context.Context) error {
	interactive := isTerminal(c.app.in)
	if interactive {
		fmt.Fprintln(c.app.err, "Say something; /bye or Ctrl-D ends the chat.")
	}
	lines := bufio.NewReader(c.app.in)
	var err error
	for err == nil {
		if interactive {
			fmt.Fprint(c.app.err, "> ")
		}
		var line string
		if line, err = until(ctx, func() (string, error) { return lines.ReadString('\n') }); ctx.Err() != nil {
			return ctx.Err()
		}
		text := strings.TrimSpace(line)
		switch text {
		case "":
			continue
		case "/bye":
			return nil
		}
		if err := c.say(ctx, text); err != nil {
			if !interactive || ctx.Err() != nil {
				return err
			}
			c.turns = c.turns[:len(c.turns)-1]
			fmt.Fprintln(c.app.err, describe(err))
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// until is what read returns, or ctx's error once that ends: nothing wakes who reads a terminal.
func until[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := read()
		done <- result{value, err}
	}()
	select {
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	case r := <-done:
		return r.value, r.err
	}
}
