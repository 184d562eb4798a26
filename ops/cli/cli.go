// Package cli is the command line: one file for each subcommand.
//
// It is where the walk is put together: it reads flags, environment and configuration file (nobody
// else does) and hands plain values to ops/node. Previous step: none. Next step: ops/node.
// Commands write results to stdout and everything else to stderr; exit codes are in exit.go.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// app is what the commands share: the streams, the settings and the logger built from them.
type app struct {
	in       io.Reader
	out      io.Writer
	err      io.Writer
	settings *settings
	keys     map[string]bool // names of all flags of all commands
	log      *slog.Logger
}

// Main runs one command and returns the exit code. The first SIGINT or SIGTERM asks the command to
// finish, the second ends the process at once.
func Main(args []string, in io.Reader, out, err io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // the next signal has its default effect
	}()
	printed := &output{Writer: out}
	a := &app{in: in, out: printed, err: err}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(printed)
	root.SetErr(err)
	e := root.ExecuteContext(ctx)
	if e == nil {
		e = printed.err
	}
	if e != nil && !errors.Is(e, errQuiet) {
		fmt.Fprintf(err, "pelton: %s\n", describe(e))
	}
	return exitCode(e)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pelton",
		Short: "A fleet of inference workers on a message queue",
		Long: `Pelton runs language models as a fleet of workers on NATS JetStream: jobs wait durably, workers pull
what their memory can hold, answers stream back token by token.

  pelton run "Why is the sky blue?"    from nothing to an answer, in one command
  pelton up                            the same fleet, kept running behind an OpenAI endpoint`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: false},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
	}
	f := root.PersistentFlags()
	f.String("config", "", "configuration `file` (YAML; keys are flag names)")
	f.String("log-level", "warn", "debug, info, warn or error")
	f.String("log-format", "auto", "text, json, or auto: text on a terminal")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, c := range []*cobra.Command{
		a.runCommand(), a.upCommand(), a.dispatcherCommand(), a.workerCommand(), a.submitCommand(), a.jobCommand(), a.dlqCommand(),
		a.queueCommand(), a.topCommand(), a.modelCommand(), a.doctorCommand(), a.versionCommand(), a.configCommand(),
		a.authCommand(), a.provisionCommand(), a.healthCommand(), a.adminCommand(), a.benchCommand(), a.replayCommand(), a.simulateCommand(), a.scalerCommand(), a.planCommand(), a.docsCommand(),
	} {
		root.AddCommand(c)
	}
	a.keys = map[string]bool{}
	collectFlags(root, a.keys)
	return root
}

func collectFlags(c *cobra.Command, into map[string]bool) {
	add := func(f *pflag.Flag) { into[f.Name] = true }
	c.Flags().VisitAll(add)
	c.PersistentFlags().VisitAll(add)
	for _, sub := range c.Commands() {
		collectFlags(sub, into)
	}
}

// prepare reads the settings of the command that is about to run.
func (a *app) prepare(cmd *cobra.Command) error {
	s, err := loadSettings(cmd.Flags(), a.keys, os.LookupEnv)
	if err != nil {
		return usageError{err}
	}
	a.settings = s
	if f := s.flags.Lookup("output"); f != nil && !slices.Contains(formats, f.Value.String()) { // before anything is done
		return usageError{fmt.Errorf("%s %s: the formats are table, wide, json and yaml", s.origin("output"), f.Value)}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.text("log-level"))); err != nil {
		return usageError{fmt.Errorf("%s: it is debug, info, warn or error: %w", s.origin("log-level"), err)}
	}
	if format := s.text("log-format"); format != "auto" && format != "text" && format != "json" {
		return usageError{fmt.Errorf("%s: %q is not text, json or auto", s.origin("log-format"), format)}
	}
	opts := &slog.HandlerOptions{Level: level}
	if format := s.text("log-format"); format == "json" || (format == "auto" && !isTerminal(a.err)) {
		a.log = slog.New(slog.NewJSONHandler(a.err, opts))
	} else {
		a.log = slog.New(slog.NewTextHandler(a.err, opts))
	}
	return nil
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// example indents the text of an example the way cobra prints it.
func example(lines ...string) string {
	s := ""
	for i, l := range lines {
		if i > 0 {
			s += "\n"
		}
		s += "  " + l
	}
	return s
}
