package gateway

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

// result is a job's status with what it generated, as Prefer: wait answers it.
type result struct {
	contracts.Status
	Choices []resultChoice `json:"choices"`
}

type resultChoice struct {
	Choice   int                      `json:"choice"`
	Text     string                   `json:"text"`
	Tokens   []int32                  `json:"tokens"`
	Logprobs []contracts.TokenLogprob `json:"logprobs,omitempty"`
	Finish   string                   `json:"finish"`
}

// submitJob serves POST /v1/jobs.
func (g *gateway) submitJob(w http.ResponseWriter, r *http.Request) error {
	tenant, err := g.tenant(r)
	if err != nil {
		return err
	}
	wait, limit, err := preferWait(r.Header)
	if err != nil {
		return err
	}
	data, err := g.read(w, r)
	if err != nil {
		return err
	}
	job, err := decodeJob(data)
	if err != nil {
		return err
	}
	if job.Tenant != "" && job.Tenant != tenant {
		return &contracts.Error{Code: contracts.CodePermissionDenied, Param: "tenant", Message: "the job names another tenant than the credentials belong to: leave tenant out"}
	}
	if err := g.stamp(w, r, tenant, []*contracts.Job{job}); err != nil {
		return err
	}
	if job.ID == "" {
		job.ID = uuid.Must(uuid.NewV7()).String()
	}
	if err := job.Validate(); err != nil {
		return err
	}
	given(w)
	if wait {
		return g.waitJob(w, r, job, limit)
	}
	answer, err := g.cfg.Jobs.Submit(r.Context(), job)
	if err == nil {
		err = answer.Err()
	}
	if err != nil {
		return err
	}
	return g.accepted(w, answer)
}

func (g *gateway) accepted(w http.ResponseWriter, answer *contracts.Answer) error {
	nameJob(w, answer.Job)
	w.Header().Set("Location", "/v1/jobs/"+url.PathEscape(answer.Job))
	return g.writeJSON(w, http.StatusAccepted, answer)
}

// waitJob submits job and answers its result, or that it was accepted when limit (0: none) passes
// first. The job stays when the caller leaves, unless it says cancel_on_leave.
func (g *gateway) waitJob(w http.ResponseWriter, r *http.Request, job *contracts.Job, limit time.Duration) error {
	run, err := g.begin(r.Context(), []*contracts.Job{job}, true)
	if err != nil {
		return err
	}
	defer run.close()
	nameJob(w, job.ID)
	defer func() {
		if r.Context().Err() != nil {
			run.leave(job.Tenant, job.ID)
		}
	}()
	var over <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	out := newResult(job)
	for run.left > 0 {
		select {
		case rec := <-run.records:
			c, err := run.take(rec)
			if err != nil {
				return err
			}
			if err := out.add(job, c); err != nil {
				return err
			}
		case <-over:
			return g.accepted(w, run.answer)
		case <-run.ctx.Done():
			return run.ctx.Err()
		}
	}
	w.Header().Set("Preference-Applied", "wait")
	return g.writeJSON(w, http.StatusOK, out)
}

func newResult(job *contracts.Job) *result {
	n := 1
	if job.Params.N != nil {
		n = *job.Params.N
	}
	out := &result{Choices: make([]resultChoice, n)}
	for i := range out.Choices {
		out.Choices[i] = resultChoice{Choice: i, Tokens: []int32{}}
	}
	return out
}

func (out *result) add(job *contracts.Job, c *contracts.Chunk) error {
	if c.Choice < 0 || c.Choice >= len(out.Choices) {
		return contracts.Errorf(contracts.CodeInternal, "a worker sent choice %d of job %s, which nobody asked for", c.Choice, job.ID)
	}
	choice := &out.Choices[c.Choice]
	choice.Text += c.Text
	choice.Tokens = append(choice.Tokens, c.Tokens...)
	choice.Logprobs = append(choice.Logprobs, openai.Finite(c.Logprobs)...)
	if choice.Finish == "" && !c.Final() {
		choice.Finish = c.Finish
	}
	if !c.Final() {
		return nil
	}
	for i := range out.Choices {
		out.Choices[i].Finish = cmp.Or(out.Choices[i].Finish, c.Finish)
	}
	out.Status = contracts.StatusOf(job.Tenant, job.ID, c.Claim, c)
	return nil
}

// preferWait reads "Prefer: wait" and "Prefer: wait=SECONDS" (RFC 7240).
func preferWait(h http.Header) (wait bool, limit time.Duration, err error) {
	for _, line := range h.Values("Prefer") {
		for part := range strings.SplitSeq(line, ",") {
			name, value, given := strings.Cut(strings.TrimSpace(part), "=")
			if !strings.EqualFold(name, "wait") {
				continue // a preference that is not known is ignored
			}
			seconds, err := strconv.Atoi(strings.Trim(value, `"`))
			if given && (err != nil || seconds < 1 || seconds > 86400) {
				return false, 0, headerError("Prefer", "wait=%s is not a number of seconds from 1 to 86400", brief(value))
			}
			wait, limit = true, time.Duration(seconds)*time.Second
		}
	}
	return wait, limit, nil
}

// decodeJob reads the Job map as JSON.
func decodeJob(data []byte) (*contracts.Job, error) {
	f, err := body.Parse(data)
	if err != nil {
		return nil, err
	}
	job := &contracts.Job{
		V: contracts.Version, ID: f.Text("job"), Tenant: f.Text("tenant"), Model: f.Text("model"), Kind: contracts.Kind(f.Text("kind")),
		Class: contracts.Class(f.Text("class")), Prompt: f.Text("prompt"), Tokens: f.Tokens("tokens", contracts.MaxMaxTokens),
		Labels: f.StringMap("labels", contracts.MaxLabels), CancelOnLeave: f.Bool("cancel_on_leave"),
	}
	switch job.Kind { // what they carry and answer has other paths and shapes here
	case contracts.KindEmbed:
		f.Failf("kind", "jobs of kind embed are taken over NATS only: over HTTP use /v1/embeddings")
	case contracts.KindTensor:
		f.Failf("kind", "jobs of kind tensor are taken over NATS only: over HTTP use /v2/models/{model}/infer")
	}
	if v := f.Int("v"); v != nil {
		job.V = *v
	}
	if d := f.Int64("deadline"); d != nil {
		job.Deadline = *d
	}
	if n := f.Int64("not_before"); n != nil {
		job.NotBefore = *n
	}
	if s := f.Int64("submitted"); s != nil {
		job.Submitted = *s
	}
	for _, m := range f.List("messages", contracts.MaxMessages) {
		o, err := m.Object()
		if err != nil {
			return nil, err
		}
		job.Messages = append(job.Messages, contracts.Message{Role: o.Text("role"), Content: o.Text("content"), Name: o.Text("name")})
		f.Fail(o.Err())
	}
	if p := f.Object("params"); p != nil {
		job.Params = decodeParams(p)
		f.Fail(p.Err())
	}
	return job, f.Err()
}

func decodeParams(f *body.Fields) contracts.Params {
	return contracts.Params{
		MaxTokens: f.Int("max_tokens"), Temperature: f.Float("temperature"), TopP: f.Float("top_p"), TopK: f.Int("top_k"), MinP: f.Float("min_p"),
		Seed: f.Int64("seed"), Stop: f.Strings("stop", contracts.MaxStops), N: f.Int("n"), RepetitionPenalty: f.Float("repetition_penalty"),
		PresencePenalty: f.Float("presence_penalty"), FrequencyPenalty: f.Float("frequency_penalty"),
		LogitBias: f.FloatMap("logit_bias", contracts.MaxLogitBias), Logprobs: f.Int("logprobs"), IgnoreEOS: f.Bool("ignore_eos"), ResponseFormat: openai.ResponseFormat(f),
	}
}

// listJobs serves GET /v1/jobs.
func (g *gateway) listJobs(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := contracts.Filter{State: contracts.State(q.Get("state")), Class: contracts.Class(q.Get("class")), Tenant: q.Get("tenant")}
	own, err := g.tenantAsked(r)
	if err != nil {
		return err
	}
	if g.cfg.Tenant != nil {
		f.Tenant = own
	}
	if f.State != "" && !slices.Contains(states, f.State) {
		return contracts.Invalid("state", "state %q is not one of %v", brief(string(f.State)), states)
	}
	if f.Class != "" && !f.Class.Valid() {
		return contracts.Invalid("class", "class %q is not one of p0, p1, p2, p3", brief(string(f.Class)))
	}
	if f.Limit, err = limitAsked(q); err != nil {
		return err
	}
	jobs, err := g.cfg.Jobs.List(r.Context(), f)
	if err != nil {
		return err
	}
	return g.writeJSON(w, http.StatusOK, openai.NewList(jobs))
}

var states = []contracts.State{
	contracts.StateScheduled, contracts.StateHeld, contracts.StateQueued, contracts.StateRunning, contracts.StateCompleted,
	contracts.StateFailed, contracts.StateCanceled, contracts.StateExpired, contracts.StateEvicted,
}

// limitAsked is how many elements of a list are wanted.
func limitAsked(q url.Values) (int, error) {
	if !q.Has("limit") {
		return contracts.DefaultList, nil
	}
	n, err := strconv.Atoi(q.Get("limit"))
	if err != nil || n < 1 || n > contracts.MaxList || len(q["limit"]) > 1 {
		return 0, contracts.Invalid("limit", "limit %q is not one number from 1 to %d", brief(strings.Join(q["limit"], " ")), contracts.MaxList)
	}
	return n, nil
}

// showJob serves GET /v1/jobs/{id}.
func (g *gateway) showJob(w http.ResponseWriter, r *http.Request) error {
	tenant, id, err := g.jobAsked(r)
	if err != nil {
		return err
	}
	status, err := g.cfg.Jobs.Status(r.Context(), tenant, id)
	if err != nil {
		return err
	}
	return g.writeJSON(w, http.StatusOK, status)
}

// cancelJob serves DELETE /v1/jobs/{id}. It goes on when the caller leaves.
func (g *gateway) cancelJob(w http.ResponseWriter, r *http.Request) error {
	tenant, id, err := g.jobAsked(r)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), g.cfg.CancelTime)
	defer stop()
	status, err := g.cfg.Jobs.Cancel(ctx, tenant, id)
	if err != nil {
		return err
	}
	return g.writeJSON(w, http.StatusOK, status)
}

func (g *gateway) jobAsked(r *http.Request) (tenant, id string, err error) {
	if tenant, err = g.tenantAsked(r); err != nil {
		return "", "", err
	}
	if id = r.PathValue("id"); id == "" || len(id) > contracts.MaxIDLength {
		return "", "", contracts.Errorf(contracts.CodeNotFound, "no such job: ids are 1 to %d bytes", contracts.MaxIDLength)
	}
	return tenant, id, nil
}
