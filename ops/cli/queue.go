package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
)

func (a *app) queueCommand() *cobra.Command {
	c := &cobra.Command{Use: "queue", Short: "Look at the queues, stop them and open them again", Args: cobra.NoArgs, RunE: needSubcommand}
	ls := &cobra.Command{
		Use: "ls", Short: "List the queues by model, class and size", Args: cobra.NoArgs, Example: example("pelton queue ls", "pelton queue ls -o json"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			queues, err := fetchList[contracts.QueueDepth](cmd.Context(), a, "/v1/queues")
			if err != nil {
				return err
			}
			t := table{head: []string{"MODEL", "CLASS", "SIZE", "STATE", "WAITING", "RUNNING", "HELD"}, value: queues}
			for _, q := range queues {
				t.rows = append(t.rows, []string{q.Model, string(q.Class), dash(string(q.Size)), stateOf(q), strconv.Itoa(q.Pending), strconv.Itoa(q.Running), strconv.Itoa(q.Held)})
			}
			return a.print(t)
		},
	}
	serverFlag(ls)
	outputFlags(ls)
	c.AddCommand(ls,
		a.queueSet("pause", "Give no job of a model to a worker until resume", `Jobs are still taken in and wait; those that run go on to their end. One whose worker dies or stops meanwhile
begins again after resume. Deadlines hold, and a job that waits in the queue itself ends as unavailable after 23 h,
before the queue drops it for its age (24 h); pause warns of those. Held jobs wait for as long as the pause lasts.
No objective ends a job that waits through a pause.`),
		a.queueSet("resume", "Open the queue of a model again, after pause or drain", ""),
		a.queueSet("drain", "Take no new job of a model until resume", `New jobs are refused as unavailable; those that were taken in run to their end, held and scheduled ones too.
pelton queue ls shows when none is left. A queue that was paused runs again.`))
	return c
}

// queueSet is the command that sets queues by POST /v1/queues/<verb>.
func (a *app) queueSet(verb, short, more string) *cobra.Command {
	c := &cobra.Command{
		Use: verb + " [MODEL]", Short: short, Args: cobra.MaximumNArgs(1), Example: example("pelton queue "+verb+" smollm2", "pelton queue "+verb),
		Long: short + "; without MODEL, of all models that have a queue now.\n\n" + more + `

The broker keeps the state: it holds for all dispatchers, which know it a second later, and outlives them and the
broker.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/v1/queues/" + verb
			if len(args) == 1 {
				if args[0] == "" { // of a script whose variable is not set
					return usageError{errors.New("MODEL is empty: name one, or leave it out for all")}
				}
				path += "?" + url.Values{"model": args}.Encode()
			}
			var list struct {
				Data []queueState `json:"data"`
			}
			if err := a.call(cmd.Context(), http.MethodPost, path, nil, &list); err != nil {
				return err
			}
			t := table{head: []string{"MODEL", "STATE"}, value: list.Data}
			for _, q := range list.Data {
				t.rows = append(t.rows, []string{q.Model, string(q.State)})
			}
			if err := a.print(t); err != nil || verb != "pause" {
				return err
			}
			return a.warnOfAge(cmd.Context(), list.Data)
		},
	}
	serverFlag(c)
	outputFlags(c)
	return c
}

// warnOfAge says which of the queues hold jobs that a long pause would end.
func (a *app) warnOfAge(ctx context.Context, paused []queueState) error {
	queues, err := fetchList[contracts.QueueDepth](ctx, a, "/v1/queues")
	if err != nil {
		return fmt.Errorf("the queues are paused; what waits in them is not known (pelton queue ls): %w", err)
	}
	for _, p := range paused {
		waiting := 0
		for _, q := range queues {
			if q.Model == p.Model {
				waiting += q.Pending
			}
		}
		if waiting > 0 {
			fmt.Fprintf(a.err, "warning: jobs that lie in the queue of %s itself (%d now) end when they have not begun 23 h after they came there: before that, pelton queue resume %s\n", p.Model, waiting, p.Model)
		}
	}
	return nil
}

// queueState is one row of the answer of POST /v1/queues/….
type queueState struct {
	Model string               `json:"model"`
	State contracts.QueueState `json:"state"`
}

// stateOf is the state of a queue; a dispatcher of before knows but one.
func stateOf(q contracts.QueueDepth) string { return string(cmp.Or(q.State, contracts.QueueOpen)) }
