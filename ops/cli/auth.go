package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/gateway/apikey"
	"github.com/pelton-run/pelton/ops/auth"
	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/runtime/hub"
)

func (a *app) authCommand() *cobra.Command {
	c := &cobra.Command{Use: "auth", Short: "Make credentials, certificates and API keys", Args: cobra.NoArgs, RunE: needSubcommand,
		Long: `auth makes what a fleet needs that other machines reach. "pelton up --secure" does the same for its own
fleet; these commands are for NATS servers of your own, and for more tenants.`}
	key := &cobra.Command{Use: "key", Short: "Keys of the HTTP door", Args: cobra.NoArgs, RunE: needSubcommand}
	key.AddCommand(a.keyAdd(), a.keyList(), a.keyRemove())
	c.AddCommand(a.authInit(), a.authIssue(), a.authCerts(), a.authDeploy(), key)
	return c
}

func dirFlag(c *cobra.Command) {
	c.Flags().String("data", dataFolder(), "`folder` of the fleet's keys: auth, creds and tls are in it")
}

func (a *app) authInit() *cobra.Command {
	c := &cobra.Command{
		Use: "init", Short: "Make the fleet's keys and one credentials file for each role", Args: cobra.NoArgs,
		Long: `init makes an operator, an account with a signing key for each role, and credentials for each part of the
fleet. A NATS server that includes DIR/auth/server.conf lets in nobody else. Run again, it keeps what is
there and gives the roles the rights of this version; reload the NATS servers then.`,
		Example: example("pelton auth init --data /etc/pelton"),
		RunE: func(*cobra.Command, []string) error {
			keys, err := auth.Init(a.settings.text("data"))
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%-12s %s\n", "include", keys.Config())
			for _, role := range auth.Roles {
				fmt.Fprintf(a.out, "%-12s %s\n", role, keys.Creds(role))
			}
			return nil
		},
	}
	dirFlag(c)
	return c
}

func (a *app) authIssue() *cobra.Command {
	c := &cobra.Command{
		Use: "issue ROLE NAME", Short: "Make credentials for a tenant's producers or one more part of the fleet", Args: cobra.ExactArgs(2),
		Long: `issue writes new credentials: for the role producer, NAME is the tenant; for console, worker, dispatcher
and provisioner it tells holders apart. NATS servers need not be told. Connections read their file again
when they reconnect, and are closed when their credentials end.`,
		Example: example("pelton auth issue producer acme --out acme.creds --life 720h"),
		RunE: func(_ *cobra.Command, args []string) error {
			if a.settings.duration("life") < 0 {
				return errLife
			}
			role, out := auth.Role(args[0]), a.settings.text("out")
			if !slices.Contains(auth.Roles, role) {
				return usageError{fmt.Errorf("the roles are %v, not %q", auth.Roles, role)}
			}
			keys, err := auth.Open(a.settings.text("data"))
			if err != nil {
				return coded{err, exitNotFound}
			}
			if out == "" {
				out = args[0] + "-" + filepath.Base(args[1]) + ".creds"
			}
			if err := keys.Write(out, role, args[1], a.settings.duration("life")); err != nil {
				return err
			}
			fmt.Fprintln(a.out, out)
			return nil
		},
	}
	dirFlag(c)
	c.Flags().String("out", "", "`file` to write; default ROLE-NAME.creds here")
	c.Flags().Duration("life", 0, "how long they are good for; 0 is for ever")
	return c
}

func (a *app) authCerts() *cobra.Command {
	c := &cobra.Command{
		Use: "certs HOST...", Short: "Make a server certificate, and the authority that clients trust", Args: cobra.MinimumNArgs(1),
		Long: `certs writes DIR/tls: a certificate authority the first time, a new certificate for the names and
addresses each time, and tls.conf for NATS servers. Run it again before 90 days are over: a fleet that
runs takes the new certificate up by itself, NATS servers when they reload. No connection is lost.`,
		Example: example("pelton auth certs broker.example.net 10.0.0.7"),
		RunE: func(_ *cobra.Command, hosts []string) error {
			certs := auth.CertsIn(a.settings.text("data"))
			if err := certs.Certify(hosts...); err != nil {
				return err
			}
			for _, line := range [][2]string{{"ca", certs.CA}, {"cert", certs.Cert}, {"key", certs.Key}, {"include", certs.Config}} {
				fmt.Fprintf(a.out, "%-8s %s\n", line[0], line[1])
			}
			return nil
		},
	}
	dirFlag(c)
	return c
}

func (a *app) authDeploy() *cobra.Command {
	c := &cobra.Command{
		Use: "deploy DIR HOST...", Short: "Make all of a fleet's secrets, and one folder of them for each of its parts", Args: cobra.MinimumNArgs(2),
		Long: `deploy does init and certs, makes a first API key, and lays out DIR/nats, DIR/gateway, DIR/dispatcher,
DIR/worker, … each with what that part of the fleet needs and nothing else. The keys that sign them stay
in the folder of --data, which no part needs. HOST is every name and address by which NATS servers and
HTTP doors are reached. Run again, it keeps what is there, renews a certificate that ends within 30 days
or lacks a host, and gives the roles the rights of this version.`,
		Example: example("pelton auth deploy /etc/pelton nats-1 nats-2 nats-3 dispatcher-1 dispatcher-2 gateway localhost 127.0.0.1 --data /secure/keys"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := auth.Deploy(a.settings.text("data"), args[0], args[1:]...); err != nil {
				return err
			}
			fmt.Fprintln(a.out, args[0])
			return nil
		},
	}
	dirFlag(c)
	return c
}

var errLife = usageError{errors.New("--life must not be negative; 0 is for ever")}

func keysFlag(c *cobra.Command) {
	c.Flags().String("api-keys", filepath.Join(dataFolder(), "creds", "api-keys.json"), "`file` of the keys' hashes")
}

func (a *app) keyAdd() *cobra.Command {
	c := &cobra.Command{
		Use: "add TENANT", Short: "Make a key and print it, this one time", Args: cobra.ExactArgs(1),
		Long: `add makes a key for a tenant and prints it; the file keeps its hash. A door that runs knows it at once. To
rotate a key: add the new one, change over, remove the old one.`,
		Example: example("pelton auth key add acme", "pelton auth key add ops --operator --life 720h"),
		RunE: func(_ *cobra.Command, args []string) error {
			if a.settings.duration("life") < 0 {
				return errLife
			}
			file := a.settings.text("api-keys")
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return err
			}
			key, e, err := apikey.Add(file, args[0], a.settings.yes("operator"), a.settings.duration("life"))
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, key)
			fmt.Fprintf(a.err, "key %s of tenant %s is in %s; it cannot be shown again\n", e.ID, e.Tenant, file)
			return nil
		},
	}
	keysFlag(c)
	c.Flags().Bool("operator", false, "open every path to the key, for all tenants")
	c.Flags().Duration("life", 0, "how long it is good for; 0 is for ever")
	return c
}

func (a *app) keyList() *cobra.Command {
	c := &cobra.Command{Use: "ls", Short: "List the keys", Args: cobra.NoArgs, Example: example("pelton auth key ls"),
		RunE: func(*cobra.Command, []string) error {
			entries, err := apikey.List(a.settings.text("api-keys"))
			if err != nil {
				return coded{err, exitNotFound}
			}
			for i := range entries {
				entries[i].Hash = "" // nobody's business
			}
			t := table{head: []string{"KEY", "TENANT", "OPERATOR", "CREATED", "EXPIRES"}, value: entries}
			for _, e := range entries {
				expires := "never"
				if !e.Expires.IsZero() {
					expires = e.Expires.Format("2006-01-02 15:04")
				}
				t.rows = append(t.rows, []string{e.ID, e.Tenant, fmt.Sprint(e.Operator), e.Created.Format("2006-01-02 15:04"), expires})
			}
			return a.print(t)
		}}
	keysFlag(c)
	outputFlags(c)
	return c
}

func (a *app) keyRemove() *cobra.Command {
	c := &cobra.Command{Use: "rm KEY", Short: "Withdraw a key, by the id that ls shows", Args: cobra.ExactArgs(1), Example: example("pelton auth key rm 1a2b3c4d"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := apikey.Remove(a.settings.text("api-keys"), args[0])
			if errors.Is(err, os.ErrNotExist) {
				return coded{err, exitNotFound}
			}
			return err
		}}
	keysFlag(c)
	return c
}

// provisionCommand lets the rights to change streams stay with one who does nothing else.
func (a *app) provisionCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "provision", Short: "Create or update the streams and consumers on a NATS server", Args: cobra.NoArgs,
		Long: `provision makes an external NATS server match the layout that the fleet needs, once for each model and
after upgrades. Where credentials have roles, only the provisioner's allow it.`,
		Example: example("pelton provision --nats tls://broker:4222 --creds DIR/creds/provisioner.creds --tls-ca DIR/tls/ca.pem --model smollm2-135m-instruct"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nc, err := connect(cmd.Context(), a.remote(), "pelton provision")
			if err != nil {
				return err
			}
			defer nc.Close()
			var served []node.Served
			for _, name := range a.settings.list("model") {
				if e, ok := hub.Lookup(name); ok {
					name = e.Name
				}
				served = append(served, node.Served{Name: name})
			}
			return node.Provision(cmd.Context(), nc, topology.Config{Replicas: a.settings.number("replicas")}, served)
		},
	}
	brokerFlags(c)
	c.Flags().Int("replicas", 0, "copies of each stream; 0 is as they are, and as many of a new stream as the others have")
	c.Flags().StringArray("model", nil, "`name` of a model that gets queues (repeatable)")
	return c
}
