package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/ops/scaler"
)

func (a *app) scalerCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "scaler", Short: "Tell KEDA how many workers a model needs, before its load is there", Args: cobra.NoArgs,
		Long: `scaler is an external scaler for KEDA (gRPC, external and external-push). It looks at what arrives at the
dispatchers, forecasts what will arrive when a worker that is started now could take jobs, and turns it into
workers by what the workers' steps take. A trigger's metadata names the model. It changes nothing itself. While
a queue is paused only the workers that run its jobs are wanted. With measure: held a trigger is told the jobs
that dispatchers hold back instead, with measure: open 0 while the queue is paused and else 1.

Name every dispatcher with --server, each by its own address and not by that of a load balancer: each counts
what came to it. An operator's key comes from PELTON_API_KEY or PELTON_API_KEY_FILE.

Other addresses than loopback need --tls-cert and --tls-key, or --plain where the network is trusted.`,
		Example: example("pelton scaler --server http://127.0.0.1:8080", "pelton scaler --listen 0.0.0.0:9095 --tls-cert server.pem --tls-key server.key --server https://pelton-0:8080 --server https://pelton-1:8080 --tls-ca ca.pem"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.scale(cmd.Context()) },
	}
	f := c.Flags()
	d := scaler.Defaults()
	f.String("listen", "127.0.0.1:9095", "`address` that KEDA asks")
	watchFlags(c, nil)
	f.Duration("every", d.Every, "time between looks at the fleet")
	f.Duration("lead", d.Lead, "time from the start of a worker to its first job")
	f.String("tls-cert", "", "certificate `file`")
	f.String("tls-key", "", "secret key `file` of the certificate")
	f.Bool("plain", false, "no TLS, although others than this machine may connect")
	return c
}

// watchFlags say whom a watch asks, and how much of a worker it plans with.
func watchFlags(c *cobra.Command, servers []string) {
	f := c.Flags()
	f.StringSlice("server", servers, "`URL` of a dispatcher (repeatable: all of them)")
	f.Bool("resolve", false, "ask every address that a server's name has, as those of a headless service")
	f.Int("use", int(100*scaler.Defaults().Use), "`percent` of a worker's time that may be planned for")
	f.String("tls-ca", "", "`file` with the certificate authority of the dispatchers")
}

// watchFleet is the watch that the flags describe.
func (a *app) watchFleet(every, lead time.Duration) (*scaler.Watch, error) {
	use := a.settings.number("use")
	if use < 1 || use > 100 {
		return nil, usageError{errors.New("--use must be from 1 to 100")}
	}
	key, err := apiKey()
	if err != nil {
		return nil, err
	}
	client, err := a.httpClient()
	if err != nil {
		return nil, err
	}
	var servers []string
	for _, s := range a.settings.list("server") {
		servers = append(servers, strings.TrimSuffix(s, "/"))
	}
	w, err := scaler.NewWatch(scaler.Config{Servers: servers, Key: key, Client: client, Resolve: a.settings.yes("resolve"), Every: every, Lead: lead, Use: float64(use) / 100, Log: a.log})
	if err != nil {
		return nil, usageError{err}
	}
	return w, nil
}

func (a *app) scale(ctx context.Context) error {
	every, lead := a.settings.duration("every"), a.settings.duration("lead")
	if every < 100*time.Millisecond || lead < 0 {
		return usageError{errors.New("--every must be at least 100ms, --lead not negative")}
	}
	w, err := a.watchFleet(every, max(1, lead))
	if err != nil {
		return err
	}
	security, err := a.scalerTLS()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", a.settings.text("listen"))
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "ready\nscaler %s\n\n", l.Addr())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.Run(ctx) })
	g.Go(func() error { return scaler.NewServer(w).Serve(ctx, l, security) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// scalerTLS is nil for a door without TLS.
func (a *app) scalerTLS() (*tls.Config, error) {
	cert, key := a.settings.text("tls-cert"), a.settings.text("tls-key")
	if cert != "" || key != "" {
		return auth.TLS(cert, key)
	}
	if err := node.Loopback(a.settings.text("listen")); err != nil && !a.settings.yes("plain") {
		return nil, usageError{errors.New("--listen can be reached from other machines: give --tls-cert and --tls-key, or --plain where the network is trusted")}
	}
	return nil, nil
}
