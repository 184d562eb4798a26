package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
)

func (a *app) jobCommand() *cobra.Command {
	c := &cobra.Command{Use: "job", Short: "Look at jobs, cancel them, submit them again", Args: cobra.NoArgs, RunE: needSubcommand}
	c.AddCommand(a.jobList(), a.jobShow(), a.jobWatch(), a.jobCancel(), a.retry("retry JOB", "Submit a job that was given up again, under a new id"))
	return c
}

func (a *app) jobList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Short: "List jobs", Args: cobra.NoArgs, Example: example("pelton job ls --state running", "pelton job ls --class p3 -o json"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			for _, k := range []string{"state", "class", "tenant", "limit"} {
				if v := a.settings.text(k); v != "" {
					q.Set(k, v)
				}
			}
			jobs, err := fetchList[contracts.Status](cmd.Context(), a, "/v1/jobs?"+q.Encode())
			if err != nil {
				return err
			}
			t := table{head: []string{"JOB", "STATE", "CLASS", "MODEL", "TENANT", "AGE", "WORKER", "ATTEMPT"}, wide: 6, value: jobs}
			for _, s := range jobs {
				t.rows = append(t.rows, []string{s.Job, string(s.State), dash(string(s.Class)), dash(s.Model), s.Tenant, ago(s.Submitted), dash(s.Worker), strconv.Itoa(s.Attempt)})
			}
			return a.print(t)
		},
	}
	serverFlag(c)
	outputFlags(c)
	f := c.Flags()
	f.String("state", "", "only jobs in this `state`")
	f.String("class", "", "only jobs of this `class`")
	f.String("tenant", "", "only jobs of this `tenant`")
	f.Int("limit", 100, "most jobs to list")
	return c
}

func statusTable(s contracts.Status) table {
	t := table{head: []string{"KEY", "VALUE"}, value: s}
	add := func(k, v string) {
		if v != "" {
			t.rows = append(t.rows, []string{k, v})
		}
	}
	add("job", s.Job)
	add("state", string(s.State))
	add("class", string(s.Class))
	add("model", s.Model)
	add("tenant", s.Tenant)
	add("worker", s.Worker)
	add("finish", s.Finish)
	if s.Usage != nil {
		add("tokens", fmt.Sprintf("%d prompt, %d generated", s.Usage.PromptTokens, s.Usage.CompletionTokens))
	}
	if s.Timings != nil {
		add("timings", fmt.Sprintf("queued %.1f ms, prefill %.1f ms, first token %.1f ms, decode %.1f ms", s.Timings.Queued, s.Timings.Prefill, s.Timings.FirstToken, s.Timings.Decode))
	}
	add("code", string(s.Code))
	add("message", s.Message)
	return t
}

func (a *app) jobShow() *cobra.Command {
	return a.oneJob("show JOB", "Show one job", http.MethodGet)
}

func (a *app) jobCancel() *cobra.Command {
	return a.oneJob("cancel JOB", "Cancel one job; returns after its slot is free", http.MethodDelete)
}

func (a *app) oneJob(use, short, method string) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s contracts.Status
			if err := a.call(cmd.Context(), method, a.pathOf("/v1/jobs/", args[0], "", url.Values{}), nil, &s); err != nil {
				return err
			}
			return a.print(statusTable(s))
		},
	}
	serverFlag(c)
	outputFlags(c)
	tenantFlag(c)
	return c
}

func (a *app) jobWatch() *cobra.Command {
	c := &cobra.Command{
		Use: "watch JOB", Short: "Stream a job's answer, from its beginning; further choices follow at its end", Args: cobra.ExactArgs(1), Example: example("pelton job watch 0199-…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			chunks, err := a.events(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			others := map[int]string{}
			for c, err := range chunks {
				if err != nil {
					return err
				}
				if a.settings.yes("json") {
					if err := json.NewEncoder(a.out).Encode(c); err != nil {
						return err
					}
				} else if c.Choice == 0 {
					fmt.Fprint(a.out, c.Text)
				} else {
					others[c.Choice] += c.Text
				}
				if !c.Final() {
					continue
				}
				if !a.settings.yes("json") {
					fmt.Fprintln(a.out)
					for _, i := range slices.Sorted(maps.Keys(others)) {
						fmt.Fprintf(a.out, "\nchoice %d:\n%s\n", i, others[i])
					}
				}
				return c.Err()
			}
			return contracts.Errorf(contracts.CodeUnavailable, "the stream of job %s ended without a final record: watch it again", args[0])
		},
	}
	serverFlag(c)
	tenantFlag(c)
	c.Flags().Bool("json", false, "print chunks as JSON Lines")
	return c
}
