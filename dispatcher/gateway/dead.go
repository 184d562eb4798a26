package gateway

import (
	"context"
	"net/http"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

// DeadLetters is what Jobs may be able to do beyond: it keeps the jobs that were given up. Without it the
// endpoints below /v1/dlq answer unimplemented.
type DeadLetters interface {
	ListDead(ctx context.Context, tenant string, limit int) ([]contracts.Dead, error)
	DeadLetter(ctx context.Context, tenant, job string) (*contracts.Dead, error)
	RetryDead(ctx context.Context, tenant, job, id string) (*contracts.Answer, error)
	RemoveDead(ctx context.Context, tenant, job string) error
}

// letter is a dead letter as it is shown; the payload only when it is asked for, for prompts are private.
type letter struct {
	*contracts.Dead
	Payload *contracts.Admitted `json:"payload,omitempty"`
}

func (g *gateway) deadLetters() (DeadLetters, error) {
	if dead, ok := g.cfg.Jobs.(DeadLetters); ok {
		return dead, nil
	}
	return nil, contracts.Errorf(contracts.CodeUnimplemented, "dead letters are not kept here")
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
	dead, err := g.deadLetters()
	if err != nil {
		return err
	}
	list, err := dead.ListDead(r.Context(), tenant, limit)
	if err != nil {
		return err
	}
	return g.writeJSON(w, http.StatusOK, openai.NewList(list))
}

// oneDead is the part that the handlers of one dead letter share.
func (g *gateway) oneDead(r *http.Request) (dead DeadLetters, tenant, id string, err error) {
	if tenant, id, err = g.jobAsked(r); err == nil {
		dead, err = g.deadLetters()
	}
	return dead, tenant, id, err
}

// showDead serves GET /v1/dlq/{id}.
func (g *gateway) showDead(w http.ResponseWriter, r *http.Request) error {
	dead, tenant, id, err := g.oneDead(r)
	if err != nil {
		return err
	}
	d, err := dead.DeadLetter(r.Context(), tenant, id)
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
	dead, tenant, id, err := g.oneDead(r)
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
	answer, err := dead.RetryDead(r.Context(), tenant, id, name)
	if err != nil {
		return err
	}
	return g.accepted(w, answer)
}

// removeDead serves DELETE /v1/dlq/{id}.
func (g *gateway) removeDead(w http.ResponseWriter, r *http.Request) error {
	dead, tenant, id, err := g.oneDead(r)
	if err != nil {
		return err
	}
	if err := dead.RemoveDead(r.Context(), tenant, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
