package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

// chat serves POST /v1/chat/completions.
func (g *gateway) chat(w http.ResponseWriter, r *http.Request) error {
	return g.complete(w, r, openai.ParseChat)
}

// text serves POST /v1/completions.
func (g *gateway) text(w http.ResponseWriter, r *http.Request) error {
	return g.complete(w, r, openai.ParseText)
}

func (g *gateway) complete(w http.ResponseWriter, r *http.Request, parse func([]byte) (*openai.Request, error)) error {
	begin := time.Now()
	timed(w)
	tenant, err := g.tenant(r)
	if err != nil {
		return err
	}
	data, err := g.read(w, r)
	if err != nil {
		return err
	}
	req, err := parse(data)
	if err != nil {
		return badRequest(err)
	}
	model, err := g.served(req.Model())
	if err != nil {
		return err
	}
	for _, j := range req.Jobs { // metadata is the caller's own
		maps.DeleteFunc(j.Labels, func(name, _ string) bool { return slices.Contains(steering, name) })
	}
	if err := g.stamp(w, r, tenant, req.Jobs); err != nil {
		return err
	}
	// With an Idempotency-Key the caller means to come back: the job stays when the connection goes.
	keep := r.Header.Get("Idempotency-Key") != ""
	after, err := resumeAfter(r)
	if err == nil && !keep && (after.ended || len(after.last) > 0) {
		err = headerError("Last-Event-ID", "it needs the Idempotency-Key of the request that it goes on with: send both, with the same body")
	}
	if err != nil {
		return err
	}
	given(w)
	run, err := g.begin(r.Context(), req.Jobs, keep)
	if err != nil {
		return promptParam(err, len(req.Jobs))
	}
	defer run.close()
	nameJob(w, jobIDs(req.Jobs))
	assembler := openai.NewAssembler(req, openai.Meta{
		ID: req.Jobs[0].ID, Created: begin.Unix(), Class: req.Jobs[0].Class, Fingerprint: g.fingerprint(req.Model(), model),
	})
	if req.Stream {
		return g.streamReply(w, run, &reply{assembler: assembler, after: after})
	}
	for run.left > 0 {
		prompt, c, err := run.next()
		if err == nil {
			err = run.own(assembler.Collect(prompt, c))
		}
		if err != nil {
			return err
		}
	}
	return g.writeJSON(w, http.StatusOK, assembler.Whole())
}

// reply is a streamed reply. The id of an event is its [position], where an index counts the choice's
// events and the last id is "end"; a repeated request with the same Idempotency-Key goes on after
// Last-Event-ID.
type reply struct {
	assembler *openai.Assembler
	after, at position
}

// streamReply sends the reply piece by piece. A failure before the first byte is returned and gets a
// status of its own; a later one becomes the last event.
func (g *gateway) streamReply(w http.ResponseWriter, run *run, reply *reply) error {
	out := g.newStream(w)
	hold := time.NewTimer(g.cfg.HoldHeaders)
	defer hold.Stop()
	silence := time.NewTicker(g.cfg.KeepAlive)
	defer silence.Stop()
	for run.left > 0 {
		var err error
		select {
		case rec := <-run.records:
			var broken bool
			if broken, err = g.relay(out, run, reply, rec); broken {
				return nil
			}
		case <-hold.C:
			if out.flush() != nil {
				return nil
			}
		case <-silence.C:
			if out.alive() != nil {
				return nil
			}
		case <-run.ctx.Done():
			err = run.ctx.Err()
		}
		if err != nil {
			if !out.started {
				return err
			}
			g.cfg.Logger.InfoContext(run.ctx, "stream ended early", slog.String("job", w.Header().Get(jobHeader)), slog.String("code", string(contracts.CodeOf(err))))
			_ = out.end("", err)
			return nil
		}
	}
	if usage := reply.assembler.End(); usage != nil && !reply.after.ended && out.data(theEnd, usage) != nil {
		return nil
	}
	if out.data(theEnd, []byte("[DONE]")) == nil {
		_ = out.flush()
	}
	return nil
}

// relay sends what rec adds to the reply; broken tells that the reader is gone.
func (g *gateway) relay(out *stream, run *run, reply *reply, rec record) (broken bool, err error) {
	c, err := run.take(rec)
	if err != nil {
		return false, err
	}
	events, err := reply.assembler.Stream(rec.prompt, c)
	if err != nil {
		return false, run.own(err)
	}
	for _, e := range events {
		seen := reply.after.has(e.Choice, reply.at.next(e.Choice))
		if !seen && out.data(reply.at.String(), e.JSON) != nil {
			return true, nil
		}
	}
	if len(events) > 0 && len(run.records) == 0 { // what waits already goes out in the same packet
		return out.flush() != nil, nil
	}
	return false, nil
}

// served refuses a model that the fleet knows but no live worker serves. Names that are not in the list
// go on to the dispatcher, which refuses them and says what there is.
func (g *gateway) served(name string) (admission.ModelStatus, error) {
	m, known := g.model(name)
	switch {
	case known && m.Workers == 0:
		return m, contracts.Errorf(contracts.CodeUnavailable, "no worker serves model %s at the moment: retry, or submit it to /v1/jobs, where it waits", brief(name))
	case !known && len(g.cfg.Models()) == 0:
		return m, contracts.Errorf(contracts.CodeUnavailable, "no worker has joined the fleet yet: retry soon")
	}
	return m, nil
}

// model is the model of a name or an alias.
func (g *gateway) model(name string) (m admission.ModelStatus, known bool) {
	for _, m := range g.cfg.Models() {
		if m.Name == name || slices.Contains(m.Aliases, name) {
			return m, true
		}
	}
	return m, false
}

// fingerprint changes when replies to the same request may: with the model's build or our version.
func (g *gateway) fingerprint(name string, m admission.ModelStatus) string {
	if m.Fingerprint != "" {
		return "fp_" + m.Fingerprint
	}
	sum := sha256.Sum256([]byte(g.cfg.Version + "\x00" + name))
	return "fp_" + hex.EncodeToString(sum[:5])
}

// badRequest gives a request that could not be decoded status 400 even when its code says 501: to
// OpenAI's clients a parameter that is not served is their mistake, not a broken server.
func badRequest(err error) error {
	e := contracts.AsError(err)
	if e.Code != contracts.CodeUnimplemented {
		return err
	}
	return &refusal{http.StatusBadRequest, e}
}

// requestParam names the parameter of a job's refusal as requests do that have no ids of jobs.
func requestParam(err error) error {
	e := contracts.AsError(err)
	if e.Code == contracts.CodeConflict {
		return headerConflict
	}
	if e.Param == "" {
		return err
	}
	own := *e
	own.Param = strings.TrimPrefix(e.Param, "params.")
	return badRequest(&own)
}

// headerConflict is the refusal of a job whose id comes from a key that was another request's.
var headerConflict = &contracts.Error{Code: contracts.CodeConflict, Param: "Idempotency-Key",
	Message: "this Idempotency-Key was used before for another request: send a new one, or the same body as then"}

// promptParam names the prompt of a job's refusal as the request with so many prompts does.
func promptParam(err error, prompts int) error {
	own := *contracts.AsError(err)
	if own.Param != "prompt" && own.Param != "tokens" {
		return requestParam(err)
	}
	own.Param = "prompt"
	if p, ok := errors.AsType[*partError](err); ok && prompts > 1 {
		own.Param = fmt.Sprintf("prompt[%d]", p.part)
	}
	own.Message = strings.Replace(own.Message, "tokens[", own.Param+"[", 1) // a prompt of token ids
	return badRequest(&own)
}

func jobIDs(jobs []*contracts.Job) string {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	return strings.Join(ids, ",")
}
