package gateway

import (
	"net/http"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

// letter is a dead letter as it is shown; the payload only when it is asked for, for prompts are private.
type letter struct {
	*contracts.Dead
	Payload *contracts.Admitted `json:"payload,omitempty"`
}

// listDead serves GET /v1/dlq.
func (g *gateway) listDead(w http.ResponseWriter, r *http.Request) error {
	tenant, err := g.tenantAsked(r)
	if err != nil {
		return err
	}
	if g.cfg.Tenant == nil {
		tenant = r.URL.Query().Get("tenant") // nobody is asked who they are: all tenants'
	}
	limit, err := limitAsked(r.URL.Query())
	if err != nil {
		return err
	}
	list, err := g.cfg.Jobs.ListDead(r.Context(), tenant, limit)
	if err != nil {
		return err
	}
	return g.writeJSON(w, http.StatusOK, openai.NewList(list))
}

// showDead serves GET /v1/dlq/{id}.
func (g *gateway) showDead(w http.ResponseWriter, r *http.Request) error {
	tenant, id, err := g.jobAsked(r)
	if err != nil {
		return err
	}
	d, err := g.cfg.Jobs.DeadLetter(r.Context(), tenant, id)
	if err != nil {
		return err
	}
	out := letter{Dead: d}
	if r.URL.Query().Get("payload") == "true" {
		a := new(contracts.Admitted)
		if err := contracts.Decode(d.Admitted, a); err != nil {
			return contracts.Errorf(contracts.CodeInvalidArgument, "the payload of job %q is damaged: ask without payload=true", id)
		}
		out.Payload = a
	}
	return g.writeJSON(w, http.StatusOK, out)
}

// retryDead serves POST /v1/dlq/{id}/retry; the body, {"job": ID}, may be left out.
func (g *gateway) retryDead(w http.ResponseWriter, r *http.Request) error {
	tenant, id, err := g.jobAsked(r)
	if err != nil {
		return err
	}
	data, err := g.read(w, r)
	if err != nil {
		return err
	}
	name := ""
	if len(data) > 0 {
		f, err := body.Parse(data)
		if err != nil {
			return err
		}
		if name = f.Text("job"); f.Err() != nil {
			return f.Err()
		}
	}
	answer, err := g.cfg.Jobs.RetryDead(r.Context(), tenant, id, name)
	if err != nil {
		return err
	}
	return g.accepted(w, answer)
}

// removeDead serves DELETE /v1/dlq/{id}.
func (g *gateway) removeDead(w http.ResponseWriter, r *http.Request) error {
	tenant, id, err := g.jobAsked(r)
	if err != nil {
		return err
	}
	if err := g.cfg.Jobs.RemoveDead(r.Context(), tenant, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
