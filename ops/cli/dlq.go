package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
)

func (a *app) dlqCommand() *cobra.Command {
	c := &cobra.Command{Use: "dlq", Short: "Look at jobs that were given up, and submit them again", Args: cobra.NoArgs, RunE: needSubcommand}
	c.AddCommand(a.dlqList(), a.dlqShow(), a.retry("retry JOB", "Submit a job that was given up again, under a new id"), a.dlqRemove())
	return c
}

func (a *app) dlqList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Short: "List the jobs that were given up, newest first", Args: cobra.NoArgs, Example: example("pelton dlq ls", "pelton dlq ls --tenant acme -o json"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"limit": {a.settings.text("limit")}}
			if tenant := a.settings.text("tenant"); tenant != "" {
				q.Set("tenant", tenant)
			}
			dead, err := fetchList[contracts.Dead](cmd.Context(), a, "/v1/dlq?"+q.Encode())
			if err != nil {
				return err
			}
			t := table{head: []string{"JOB", "TENANT", "CODE", "TOKENS", "AGE", "HOLDERS", "MESSAGE"}, wide: 5, value: dead}
			for _, d := range dead {
				t.rows = append(t.rows, []string{d.Job, d.Tenant, string(d.Code), strconv.Itoa(d.Tokens), ago(d.Died), strconv.Itoa(len(d.History)), d.Message})
			}
			return a.print(t)
		},
	}
	serverFlag(c)
	outputFlags(c)
	c.Flags().String("tenant", "", "only jobs of this `tenant`")
	c.Flags().Int("limit", 100, "most jobs to list")
	return c
}

// deadLetter is one dead letter as GET /v1/dlq/{id} shows it.
type deadLetter struct {
	contracts.Dead
	Payload map[string]any `json:"payload,omitempty"`
}

func (a *app) dlqShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show JOB", Short: "Show why a job was given up, and who held it", Args: cobra.ExactArgs(1), Example: example("pelton dlq show 0199-…", "pelton dlq show 0199-… --payload -o json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if a.settings.yes("payload") {
				q.Set("payload", "true")
			}
			var d deadLetter
			if err := a.call(cmd.Context(), http.MethodGet, a.pathOf("/v1/dlq/", args[0], "", q), nil, &d); err != nil {
				return err
			}
			return a.print(deadTable(d))
		},
	}
	serverFlag(c)
	outputFlags(c)
	tenantFlag(c)
	c.Flags().Bool("payload", false, "show the job itself too, prompt included (as token ids)")
	return c
}

func deadTable(d deadLetter) table {
	t := table{head: []string{"KEY", "VALUE"}, value: d, rows: [][]string{
		{"job", d.Job}, {"tenant", d.Tenant}, {"code", string(d.Code)}, {"message", d.Message}, {"age", ago(d.Died)}, {"tokens", strconv.Itoa(d.Tokens)},
	}}
	for _, h := range d.History {
		what := "claimed"
		if h.Released != "" {
			what = "released: " + string(h.Released)
		}
		t.rows = append(t.rows, []string{"history", fmt.Sprintf("%s %s, attempt %d", dash(h.Worker), what, h.Attempt)})
	}
	if d.Payload != nil {
		t.rows = append(t.rows, []string{"payload", fmt.Sprint(d.Payload)})
	}
	return t
}

// retry is `pelton dlq retry` and `pelton job retry`.
func (a *app) retry(use, short string) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		Long: short + ".\nOnly jobs that were given up keep their payload, in the dead letters; the letter is removed when the new job is accepted.",
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]string{}
			if id := a.settings.text("id"); id != "" {
				body["job"] = id
			}
			var answer contracts.Answer
			err := a.call(cmd.Context(), http.MethodPost, a.pathOf("/v1/dlq/", args[0], "/retry", url.Values{}), body, &answer)
			if err != nil {
				return err
			}
			return a.print(table{head: []string{"JOB", "OUTCOME"}, rows: [][]string{{answer.Job, string(answer.Outcome)}}, value: answer})
		},
	}
	serverFlag(c)
	outputFlags(c)
	tenantFlag(c)
	c.Flags().String("id", "", "`id` of the new job (default: the old one with .retry1, .retry2 and so on)")
	return c
}

func (a *app) dlqRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm JOB...", Short: "Forget jobs that were given up", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, job := range args {
				resp, err := a.open(cmd.Context(), http.MethodDelete, a.pathOf("/v1/dlq/", job, "", url.Values{}), nil)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				_ = resp.Body.Close()
			}
			return errors.Join(errs...)
		},
	}
	serverFlag(c)
	tenantFlag(c)
	return c
}

// tenantFlag says whose job it is; where keys are asked for, the key says it.
func tenantFlag(c *cobra.Command) {
	c.Flags().String("tenant", "", "`tenant` of the job")
}

// pathOf is the path of one job among those under a path, of the tenant of tenantFlag.
func (a *app) pathOf(under, job, action string, q url.Values) string {
	if tenant := a.settings.text("tenant"); tenant != "" {
		q.Set("tenant", tenant)
	}
	return under + url.PathEscape(job) + action + "?" + q.Encode()
}
