package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/ops/admin"
	"github.com/pelton-run/pelton/runtime/hub"
)

// layoutFlags say what the streams are compared with.
func layoutFlags(c *cobra.Command) {
	c.Flags().Int("replicas", 0, "copies of each stream; 0 is as many as they have")
	c.Flags().StringArray("model", nil, "`name` of a model that must have queues, beside those that have some (repeatable)")
}

// layout is what layoutFlags say, with full names of models.
func (a *app) layout() (topology.Config, []string) {
	var models []string
	for _, name := range a.settings.list("model") {
		if e, ok := hub.Lookup(name); ok {
			name = e.Name
		}
		models = append(models, name)
	}
	return topology.Config{Replicas: a.settings.number("replicas")}, models
}

func (a *app) adminStatus() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show the streams, their copies, and what differs from the fleet's layout", Args: cobra.NoArgs,
		Long: `status asks for every stream: who leads it, how many copies are complete, what waits in it and what is being
worked on; and compares streams and consumers with the layout of this version. Exit code 8 means that
something is to be repaired; the last columns and lines say what.`,
		Example: example("pelton admin status", "pelton admin status -o json --nats tls://broker:4222 --tls-ca ca.pem --creds provisioner.creds"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nc, err := connect(cmd.Context(), a.remote(), "pelton admin")
			if err != nil {
				return err
			}
			defer nc.Close()
			layout, models := a.layout()
			s, err := admin.Look(cmd.Context(), nc, layout, models...)
			if err != nil {
				return coded{err, exitUnavailable}
			}
			if err := a.print(streamTable(s)); err != nil {
				return err
			}
			if !s.Well() {
				return coded{errQuiet, exitCheck}
			}
			return nil
		},
	}
	brokerFlags(c)
	layoutFlags(c)
	outputFlags(c)
	return c
}

func streamTable(s *admin.Status) table {
	t := table{head: []string{"OBJECT", "LEADER", "COPIES", "MESSAGES", "SIZE", "WAITING", "WORKING", "PROBLEM"}, value: s}
	for _, s := range s.Streams {
		good := 1
		for _, p := range s.Peers {
			if p.Current && !p.Offline {
				good++
			}
		}
		t.rows = append(t.rows, []string{"stream " + s.Name, dash(s.Leader), fmt.Sprintf("%d/%d", good, max(s.Replicas, 1)), strconv.FormatUint(s.Messages, 10),
			size(int64(s.Bytes)), strconv.FormatUint(s.Waiting, 10), strconv.Itoa(s.Working), dash(strings.Join(s.Problems, "; "))})
	}
	for _, d := range s.Drift {
		t.rows = append(t.rows, []string{d.Object, "-", "-", "-", "-", "-", "-", d.Change})
	}
	return t
}

func (a *app) adminRepair() *cobra.Command {
	c := &cobra.Command{
		Use: "repair", Short: "Make missing streams and consumers, and give a lost server's copies to others", Args: cobra.NoArgs,
		Long: `repair makes the streams and consumers that are missing and changes those that differ, as provision does, for
all models that have queues. With --lost it first gives the copies of a server that will not come back to
others; a server that comes back, even with an empty disk, needs no repair. Taking it out of the cluster,
where it counts for the majority, needs the keeper's credentials. With --recreate it deletes a stream
without a leader, with all that was in it: restore a backup afterwards. It can be repeated.`,
		Example: example("pelton admin repair", "pelton admin repair --lost nats-2 --creds creds/provisioner.creds --keeper creds/keeper.creds"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nc, err := connect(cmd.Context(), a.remote(), "pelton admin")
			if err != nil {
				return err
			}
			defer nc.Close()
			o := admin.RepairOptions{Lost: a.settings.text("lost"), Recreate: a.settings.list("recreate")}
			o.Layout, o.Models = a.layout()
			if keeper := a.settings.text("keeper"); keeper != "" {
				r := a.remote()
				r.Creds, r.NKey = keeper, ""
				if o.Cluster, err = connect(cmd.Context(), r, "pelton admin, keeper"); err != nil {
					return err
				}
				defer o.Cluster.Close()
			}
			done, err := admin.Repair(cmd.Context(), nc, o)
			for _, d := range done {
				fmt.Fprintf(a.out, "%s %s\n", d.Object, d.Change)
			}
			if err == nil && len(done) == 0 {
				fmt.Fprintln(a.err, "nothing to repair")
			}
			return err
		},
	}
	brokerFlags(c)
	layoutFlags(c)
	f := c.Flags()
	f.String("lost", "", "`name` of a NATS server that will not come back")
	f.String("keeper", "", "credentials `file` of the keeper, to take the lost server out of the cluster too")
	f.StringArray("recreate", nil, "`stream` without a leader that is deleted and made anew (repeatable)")
	return c
}
