package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
)

const (
	// leaveTime is what a worker may take to leave when its jobs' time is over: to hand them back, and to unload its model.
	leaveTime = 15 * time.Second
	// leaveEvery is how often a drain looks whether the worker is gone.
	leaveEvery = 250 * time.Millisecond
)

func (a *app) workerDrain() *cobra.Command {
	c := &cobra.Command{
		Use: "drain WORKER", Short: "Tell a worker to take no new jobs, to end those that it runs and to leave", Args: cobra.ExactArgs(1),
		Example: example("pelton worker drain host-1a2b3c4d", "pelton worker drain host-1a2b3c4d --grace 5m --wait"),
		Long: `drain tells a worker of pelton worker ls to leave, as SIGTERM does: it takes no new jobs, those that it runs go on
for --grace, what is not done by then goes on at the next token on another worker, and no stream shows it. The worker
is listed as draining meanwhile. --grace 0s hands everything on at once. To repeat it is safe: the time that ends
first counts. Where the door asks for keys it needs an operator's.

A process of pelton worker ends with exit code 0 when its last worker has left. What started it may start it again:
systemd does with Restart=always and not with on-failure, Docker with restart: always or unless-stopped and not with
on-failure, a Kubernetes Deployment always, for which a smaller number of replicas is the way to fewer workers. One
that begins again has another name and is not draining. Of pelton up only the worker leaves, until it is restarted.

drain returns when the worker says that it drains; with --wait when it has left, or with exit code 6 when it is still
there 15 s after --grace.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			grace := a.settings.duration("grace")
			if grace < 0 {
				return usageError{errors.New("--grace must not be negative")}
			}
			if args[0] == "" { // of a script whose variable is not set
				return usageError{errors.New("WORKER is empty: see pelton worker ls")}
			}
			return a.drain(cmd.Context(), args[0], grace)
		},
	}
	serverFlag(c)
	outputFlags(c)
	c.Flags().Duration("grace", 30*time.Second, "how long running jobs may go on, up to 24h")
	c.Flags().Bool("wait", false, "return when the worker has left")
	return c
}

func (a *app) drain(ctx context.Context, worker string, grace time.Duration) error {
	var h contracts.Heartbeat
	path := "/v1/workers/" + url.PathEscape(worker) + "/drain?" + url.Values{"grace": {grace.String()}}.Encode()
	if err := a.call(ctx, http.MethodPost, path, nil, &h); err != nil {
		return err
	}
	if a.settings.yes("wait") {
		limit, cancel := context.WithTimeout(ctx, grace+leaveTime)
		defer cancel()
		for h.State != contracts.WorkerStopped {
			if !sleep(limit, leaveEvery) {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return coded{fmt.Errorf("worker %q drains and is still there after %s: see pelton worker show, and its log", worker, grace+leaveTime), exitTimeout}
			}
			last, lives, err := a.liveWorker(ctx, worker)
			if err != nil {
				return err
			}
			if h = last; !lives {
				h = contracts.Heartbeat{Worker: worker, State: contracts.WorkerStopped}
			}
		}
	}
	type drained struct {
		Worker string                `json:"worker"`
		State  contracts.WorkerState `json:"state"`
		Jobs   int                   `json:"jobs"` // that it still runs
	}
	v := drained{h.Worker, h.State, len(h.Jobs)}
	return a.print(table{head: []string{"WORKER", "STATE", "JOBS"}, rows: [][]string{{v.Worker, string(v.State), strconv.Itoa(v.Jobs)}}, value: v})
}
