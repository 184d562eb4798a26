package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/node"
)

// brokerFlags say how to reach an external NATS server.
func brokerFlags(c *cobra.Command) {
	f := c.Flags()
	f.String("nats", "nats://127.0.0.1:4222", "`URL` of the NATS server")
	f.String("creds", "", "credentials `file`")
	f.String("nkey", "", "nkey seed `file`")
	f.String("tls-ca", "", "`file` with the certificate authority of the server")
}

func (a *app) remote() node.Remote {
	return node.Remote{URL: a.settings.text("nats"), Creds: a.settings.text("creds"), NKey: a.settings.text("nkey"), CA: a.settings.text("tls-ca")}
}

// connect connects to the broker, until ctx ends.
func connect(ctx context.Context, r node.Remote, name string) (*nats.Conn, error) {
	nc, err := until(ctx, func() (*nats.Conn, error) { return r.Connect(name) })
	if err != nil && ctx.Err() == nil {
		err = coded{err, exitUnavailable}
	}
	return nc, err
}

func (a *app) dispatcherCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dispatcher",
		Short: "Run a dispatcher with its HTTP door against an external NATS server",
		Long: `dispatcher creates the streams and consumers if they are missing (with --replicas copies), admits jobs
from NATS and HTTP, and relays the answers. Several may run side by side.`,
		Example: example("pelton dispatcher --nats nats://127.0.0.1:4222 --http 127.0.0.1:8080"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			security, err := a.doorCert()
			if err != nil {
				return err
			}
			security.APIKeys = a.settings.text("api-keys")
			served, err := a.admit(cmd.Context(), a.settings.list("model"))
			if err != nil {
				return err
			}
			overload, err := a.overload()
			if err != nil {
				return err
			}
			return a.keep(cmd.Context(), node.Config{
				Security: security, Remote: a.remote(), HTTP: a.settings.text("http"), Dispatcher: true, Models: served,
				Topology: topology.Config{Replicas: a.settings.number("replicas")}, Overload: overload,
				Version: version(), Log: a.log, Grace: a.settings.duration("grace"),
			})
		},
	}
	brokerFlags(c)
	engineFlags(c)
	f := c.Flags()
	f.String("http", "127.0.0.1:8080", "`address` of the HTTP door")
	f.Int("replicas", 0, "copies of each stream; 0 is as they are, and as many of a new stream as the others have")
	f.StringArray("model", nil, "model `NAME[:VARIANT]` whose jobs are admitted (repeatable); sim is the modelled one")
	f.Duration("grace", 30*time.Second, "how long open requests may take to finish at the end")
	f.String("api-keys", "", "`file` of API keys (pelton auth key); needed where other machines reach the HTTP door")
	doorFlags(c)
	overloadFlags(c)
	return c
}

func (a *app) workerCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "worker",
		Short: "Run a worker against an external NATS server; ls, show and drain are for those of the fleet",
		Example: example("pelton worker --nats nats://127.0.0.1:4222 --memory 2GiB", "pelton worker --engine sim --device sim:h100",
			"pelton worker ls", "pelton worker drain host-1a2b3c4d --wait"),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.worker(cmd.Context()) },
	}
	brokerFlags(c)
	engineFlags(c)
	f := c.Flags()
	f.StringArray("model", nil, "model `NAME[:VARIANT]` (repeatable); default the same as up's")
	pinFlag(c)
	f.Int("workers", 1, "workers for each model in this process")
	f.String("http", "", "`address` for health and metrics; none when empty")
	f.String("name", "", "worker `name`, to which a random suffix is added; default host name")
	f.Duration("grace", 30*time.Second, "how long running jobs may take to finish at the end")
	c.AddCommand(a.workerList(), a.workerShow(), a.workerDrain())
	return c
}

func (a *app) worker(ctx context.Context) error {
	if a.settings.number("workers") < 1 {
		return usageError{errors.New("--workers must be at least 1")}
	}
	memory, err := a.memory()
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
		Remote: a.remote(), HTTP: a.settings.text("http"), Workers: a.settings.number("workers"), WorkerName: a.settings.text("name"), Models: served, Memory: memory,
		Version: version(), Log: a.log, BatchDelay: a.settings.duration("batch-delay"), Grace: a.settings.duration("grace"),
	})
}

// serverFlag names the HTTP door that a looking command asks.
func serverFlag(c *cobra.Command) {
	c.Flags().String("server", "http://127.0.0.1:8080", "`URL` of the fleet's HTTP door")
	c.Flags().String("tls-ca", "", "`file` with the certificate authority of the server")
}

func (a *app) workerList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Short: "List the live workers", Args: cobra.NoArgs, Example: example("pelton worker ls -o json"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			workers, err := fetchList[contracts.Heartbeat](cmd.Context(), a, "/v1/workers")
			if err != nil {
				return err
			}
			return a.print(workerTable(workers))
		},
	}
	serverFlag(c)
	outputFlags(c)
	return c
}

// liveWorker is what a worker of the fleet said last, if it lives.
func (a *app) liveWorker(ctx context.Context, name string) (h contracts.Heartbeat, lives bool, err error) {
	workers, err := fetchList[contracts.Heartbeat](ctx, a, "/v1/workers")
	if err != nil {
		return h, false, err
	}
	i := slices.IndexFunc(workers, func(w contracts.Heartbeat) bool { return w.Worker == name })
	if i < 0 {
		return h, false, nil
	}
	return workers[i], true, nil
}

func workerTable(workers []contracts.Heartbeat) table {
	t := table{head: []string{"WORKER", "STATE", "MODEL", "VARIANT", "DEVICE", "JOBS", "KV RESERVED", "KV FREE", "RESIDENT", "FINGERPRINT", "STARTED"}, wide: 9, value: workers}
	for _, w := range workers {
		t.rows = append(t.rows, []string{
			w.Worker, workerState(w), w.Model, w.Variant, w.Device, strconv.Itoa(len(w.Jobs)), size(w.KV.Reserved),
			size(w.KV.Total - w.KV.Reserved), size(w.Stats.ResidentBytes), w.Fingerprint, ago(w.Started) + " ago",
		})
	}
	return t
}

// workerState says also whether the model of a ready worker is in memory.
func workerState(w contracts.Heartbeat) string {
	if w.Asleep && w.State == contracts.WorkerReady {
		return "asleep"
	}
	return string(w.State)
}

func (a *app) workerShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show WORKER", Short: "Show one worker and what it runs", Args: cobra.ExactArgs(1), Example: example("pelton worker show host-1a2b3c4d"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, lives, err := a.liveWorker(cmd.Context(), args[0])
			switch {
			case err != nil:
				return err
			case !lives:
				return coded{fmt.Errorf("no live worker %q: see pelton worker ls", args[0]), exitNotFound}
			}
			return a.print(describeWorker(w))
		},
	}
	serverFlag(c)
	outputFlags(c)
	return c
}

func describeWorker(w contracts.Heartbeat) table {
	t := table{head: []string{"KEY", "VALUE"}, value: w}
	add := func(k, v string) { t.rows = append(t.rows, []string{k, v}) }
	add("worker", w.Worker)
	add("state", workerState(w))
	add("model", w.Model+":"+w.Variant)
	add("device", w.Device+" ("+w.Backend+")")
	add("context length", strconv.Itoa(w.ContextLength))
	add("kv cache", size(w.KV.Reserved)+" reserved, "+size(w.KV.Used)+" used, "+size(w.KV.Total)+" in all")
	add("resident", size(w.Stats.ResidentBytes))
	add("step", fmt.Sprintf("%.1f ms, %.1f rows", w.Stats.StepMS, w.Stats.Batch))
	if w.Stats.FlushMS > 0 {
		add("records", fmt.Sprintf("wait %.0f ms for more tokens", w.Stats.FlushMS))
	}
	add("tokens", fmt.Sprintf("%d in, %d out", w.Stats.PromptTokens, w.Stats.OutputTokens))
	add("jobs done", fmt.Sprintf("%d, %d failed", w.Stats.JobsDone, w.Stats.JobsFailed))
	add("fingerprint", w.Fingerprint)
	for _, j := range w.Jobs {
		add("running", fmt.Sprintf("%s (%s, tenant %s, %d tokens)", j.Job, j.Class, j.Tenant, j.Index))
	}
	return t
}

func needSubcommand(cmd *cobra.Command, _ []string) error {
	_ = cmd.Help()
	return usageError{errors.New("a subcommand is missing")}
}
