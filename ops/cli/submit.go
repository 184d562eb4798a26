package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
)

// parallelJobs bounds how many jobs of one submit are under way at once.
const parallelJobs = 64

// submitRetries is how often a job is submitted again that was refused for load.
const submitRetries = 4

func (a *app) submitCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "submit FILE|-",
		Short: "Submit jobs (JSON or JSON Lines) over NATS and print results as JSON Lines",
		Long: `submit reads one job as JSON, or several as JSON Lines, submits them over NATS, up to 64 at once, and prints
one line of result for each, or with --stream every chunk. The keys are those of the Job on the wire;
job, tenant, kind and submitted are filled in. Exit code 7 means that some jobs failed. A broker that goes away is
waited for for --outage; what became of a job is then asked by "pelton job show" or by the same job with its id, which
never runs it twice.`,
		Example: example(`echo '{"model":"smollm2-135m-instruct","prompt":"Once upon a time"}' | pelton submit -`, "pelton submit jobs.jsonl --class p3 --stream"),
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.submit(cmd.Context(), args[0]) },
	}
	brokerFlags(c)
	f := c.Flags()
	f.Bool("stream", false, "print chunks as they come")
	f.String("class", "", "priority `class` for jobs that name none, p0 to p3")
	f.Duration("deadline", 0, "how long from now each job may take, for example 2s")
	f.Duration("outage", 2*time.Minute, "how long a broker that went away is waited for; 0 is for ever")
	f.String("id", "", "job id (`key`), only with a single job")
	f.String("tenant", "default", "`tenant` that the jobs belong to")
	f.String("model", "", "`model` for jobs that name none")
	return c
}

func (a *app) submit(ctx context.Context, path string) error {
	if a.settings.duration("deadline") < 0 || a.settings.duration("outage") < 0 {
		return usageError{errors.New("--deadline and --outage must not be negative")}
	}
	jobs, err := a.readJobs(ctx, path)
	if err != nil {
		return err
	}
	nc, err := connect(ctx, a.remote(), "pelton submit")
	if err != nil {
		return err
	}
	defer nc.Close()
	c := client.New(nc, a.settings.text("tenant"), client.WithRetries(submitRetries), client.WithOutage(a.settings.duration("outage")))
	var mu sync.Mutex // over out and failures
	out := json.NewEncoder(a.out)
	var failures []error
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelJobs)
	for _, j := range jobs {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done(): // no more are begun
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			err := a.submitOne(ctx, c, j, func(v any) error {
				mu.Lock()
				defer mu.Unlock()
				return out.Encode(v)
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
			}
		})
	}
	wg.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(failures) == 0:
		return nil
	case len(failures) < len(jobs):
		return coded{fmt.Errorf("%d of %d jobs failed, the first: %s", len(failures), len(jobs), describe(failures[0])), exitPartial}
	}
	return failures[0]
}

// result is one line of output without --stream.
type result struct {
	Job     string             `json:"job"`
	Outcome contracts.Outcome  `json:"outcome"`
	Text    string             `json:"text,omitempty"`
	Texts   []string           `json:"texts,omitempty"`   // with n > 1
	Outputs []contracts.Tensor `json:"outputs,omitempty"` // of embeddings and tensors
	Finish  string             `json:"finish,omitempty"`
	Usage   *contracts.Usage   `json:"usage,omitempty"`
	Timings *contracts.Timings `json:"timings,omitempty"`
	Code    contracts.Code     `json:"code,omitempty"`
	Message string             `json:"message,omitempty"`
}

func (a *app) submitOne(ctx context.Context, c *client.Client, j *contracts.Job, print func(any) error) error {
	s, err := c.Run(ctx, j)
	if err != nil {
		e := contracts.AsError(err)
		return errors.Join(err, print(result{Job: j.ID, Outcome: e.Outcome(), Code: e.Code, Message: e.Message}))
	}
	lost := func(err error) error { // of the job no more is known than that it was admitted
		if e := contracts.AsError(err); e.Code == contracts.CodeUnavailable {
			err = contracts.Errorf(e.Code, "job %s: %s; `pelton job show %s --tenant %s` asks for it", j.ID, e.Message, j.ID, j.Tenant)
		}
		return errors.Join(err, print(result{Job: j.ID, Outcome: contracts.OutcomeAdmitted, Code: contracts.CodeOf(err), Message: describe(err)}))
	}
	texts := make([]strings.Builder, contracts.MaxChoices)
	for chunk, err := range s.Chunks() {
		if err != nil {
			return lost(err)
		}
		if a.settings.yes("stream") {
			if err := print(chunk); err != nil {
				return err
			}
		}
		if chunk.Choice < len(texts) {
			texts[chunk.Choice].WriteString(chunk.Text)
		}
		if !chunk.Final() {
			continue
		}
		if !a.settings.yes("stream") {
			return errors.Join(chunk.Err(), print(resultOf(j, chunk, texts)))
		}
		return chunk.Err()
	}
	return lost(contracts.Errorf(contracts.CodeUnavailable, "the stream of job %s ended without a final record", j.ID))
}

func resultOf(j *contracts.Job, final *contracts.Chunk, texts []strings.Builder) result {
	r := result{Job: j.ID, Outcome: contracts.FinalState(final).Outcome(), Outputs: final.Outputs, Finish: final.Finish, Usage: final.Usage, Timings: final.Timings, Code: final.Code, Message: final.Message}
	if j.Params.N == nil || *j.Params.N == 1 {
		r.Text = texts[0].String()
		return r
	}
	for i := range *j.Params.N {
		r.Texts = append(r.Texts, texts[i].String())
	}
	return r
}

// readJobs is parseJobs, which ctx ends.
func (a *app) readJobs(ctx context.Context, path string) ([]*contracts.Job, error) {
	return until(ctx, func() ([]*contracts.Job, error) { return a.parseJobs(path) })
}

// parseJobs reads one JSON job or JSON Lines and fills in what the flags say.
func (a *app) parseJobs(path string) ([]*contracts.Job, error) {
	in := a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, coded{err, exitNotFound}
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	dec := json.NewDecoder(in)
	dec.DisallowUnknownFields()
	var jobs []*contracts.Job
	for {
		j := new(contracts.Job)
		if err := dec.Decode(j); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, usageError{fmt.Errorf("%s, job %d: %w", path, len(jobs)+1, err)}
		}
		a.fillJob(j)
		jobs = append(jobs, j)
	}
	switch id := a.settings.text("id"); {
	case len(jobs) == 0:
		return nil, usageError{fmt.Errorf("%s holds no job: write one a line, as {\"model\":\"…\",\"prompt\":\"…\"}", path)}
	case id != "" && len(jobs) > 1:
		return nil, usageError{fmt.Errorf("--id names one job, but %s holds %d", path, len(jobs))}
	case id != "":
		jobs[0].ID = id
	}
	return jobs, nil
}

func (a *app) fillJob(j *contracts.Job) {
	if j.Class == "" {
		j.Class = contracts.Class(a.settings.text("class"))
	}
	if j.Model == "" {
		j.Model = a.settings.text("model")
	}
	if d := a.settings.duration("deadline"); d > 0 && j.Deadline == 0 {
		j.Deadline = time.Now().Add(d).UnixMilli()
	}
	if j.Kind == "" && len(j.Messages) > 0 {
		j.Kind = contracts.KindChat
	} else if j.Kind == "" {
		j.Kind = contracts.KindText
	}
}
