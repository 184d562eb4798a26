package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/ops/node"
)

func (a *app) upCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "up",
		Short: "Run the whole fleet in this process behind an OpenAI endpoint",
		Long: `up runs an embedded NATS server with JetStream on disk, a dispatcher with the HTTP door and workers, and
prints "ready" with a line to try. Jobs that wait survive a restart. SIGTERM or Ctrl-C drains: running
jobs finish within --grace, the rest is handed back; a second signal stops at once.

Models share the memory of --memory: when not all fit, the first job of one that is not loaded has it
loaded, for which idle ones are unloaded; --pin keeps a model.

On loopback every local client is let in. With --secure, or bound to another address, it asks for
credentials and API keys and speaks TLS; it makes them in the folder of --data and prints where they are.`,
		Example: example("pelton up", "pelton up --workers 2 --memory 1GiB", "pelton up --model smollm2 --model other --pin smollm2 --memory 700MiB", "pelton up --engine sim --device sim:h100", "pelton up --http 0.0.0.0:8080 --nats 0.0.0.0:4222 --tls-host llm.example.net"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.up(cmd.Context())
		},
	}
	engineFlags(c)
	secureFlags(c)
	overloadFlags(c)
	f := c.Flags()
	f.String("http", "127.0.0.1:8080", "`address` of the HTTP door")
	f.String("nats", "127.0.0.1:4222", "`address` of the embedded broker, or the URL by which other commands are told it")
	f.String("data", dataFolder(), "`folder` of the broker's streams")
	f.Int("workers", 1, "workers for each model; 0 runs broker and dispatcher only")
	f.StringArray("model", nil, "model `NAME[:VARIANT]` (repeatable; the first is the default)")
	pinFlag(c)
	f.Duration("grace", 30*time.Second, "how long running jobs may take to finish at the end")
	return c
}

func (a *app) up(ctx context.Context) error {
	if a.settings.number("workers") < 0 {
		return usageError{errors.New("--workers must not be negative")}
	}
	memory, err := a.memory()
	if err != nil {
		return err
	}
	security, err := a.security()
	if err != nil {
		return err
	}
	overload, err := a.overload()
	if err != nil {
		return err
	}
	served, err := a.serve(ctx, a.settings.list("model"))
	if err == nil {
		err = a.pin(served)
	}
	if err != nil {
		return err
	}
	return a.keep(ctx, node.Config{
		Data: a.settings.text("data"), Listen: a.address("nats"), HTTP: a.settings.text("http"),
		Dispatcher: true, Workers: a.settings.number("workers"), Models: served, Memory: memory,
		Version: version(), Log: a.log, Grace: a.settings.duration("grace"), BatchDelay: a.settings.duration("batch-delay"), Security: security, Overload: overload,
	})
}

// keep starts a node, says that it is ready and runs it until a signal or a failed part ends it.
func (a *app) keep(ctx context.Context, cfg node.Config) error {
	if cfg.Grace < 0 || cfg.BatchDelay < 0 || cfg.Workers < 0 {
		return usageError{errors.New("--grace, --batch-delay and --workers must not be negative")}
	}
	n, err := node.Start(ctx, cfg)
	if err != nil {
		return err
	}
	failed := a.watch(ctx, n, cfg)
	grace, cancel := context.WithTimeout(context.Background(), cfg.Grace)
	defer cancel()
	return errors.Join(failed, n.Stop(grace))
}

// watch says once that the node is ready and returns when ctx ends, its workers left or a part failed.
func (a *app) watch(ctx context.Context, n *node.Node, cfg node.Config) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	if err := n.Ready(); err != nil {
		fmt.Fprintf(a.err, "up; %s\n", describe(err))
	}
	for said := false; ; {
		if !said && n.Ready() == nil {
			a.sayReady(n, cfg)
			said = true
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(a.err, "draining for up to %s; interrupt again to stop at once\n", cfg.Grace)
			return nil
		case <-n.Left():
			fmt.Fprintln(a.err, "drained: no worker is left in this process")
			return nil
		case err := <-n.Failed():
			return err
		case <-tick.C:
		}
	}
}

func (a *app) sayReady(n *node.Node, cfg node.Config) {
	fmt.Fprintln(a.out, "ready")
	if url := n.NATS(); url != "" {
		fmt.Fprintf(a.out, "nats  %s\n", url)
	}
	curl := a.saySecurity(cfg)
	if n.HTTP() == "" {
		return
	}
	scheme := "http"
	if cfg.HTTPS() {
		scheme = "https"
	}
	fmt.Fprintf(a.out, "http  %s://%s\n", scheme, n.HTTP())
	if len(cfg.Models) > 0 && cfg.Dispatcher {
		if path, body := cfg.Models[0].Try(); path != "" {
			fmt.Fprintf(a.out, "\ncurl %s%s://%s%s%s\n", curl, scheme, n.HTTP(), path, body)
			return
		}
		fmt.Fprintf(a.out, "\ncurl -N %s%s://%s/v1/chat/completions -H 'Content-Type: application/json' -d '{\"model\":\"%s\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}]}'\n",
			curl, scheme, n.HTTP(), cfg.Models[0].Name)
	}
}
