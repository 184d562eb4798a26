package gateway

import (
	"context"
	"net/http"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

// Queues is what jobs wait in, for operators.
type Queues interface {
	// SetQueues lets the queue of a model, with "" of all, do what operators want, and tells which models that are.
	SetQueues(ctx context.Context, model string, state contracts.QueueState) ([]string, error)
}

// setQueues serves POST /v1/queues/pause, resume and drain.
func (g *gateway) setQueues(state contracts.QueueState) handlerFunc {
	type setting struct {
		Model string               `json:"model"`
		State contracts.QueueState `json:"state"`
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		model := r.URL.Query().Get("model")
		if model == "" && r.URL.Query().Has("model") {
			return &contracts.Error{Code: contracts.CodeInvalidArgument, Param: "model", Message: "model is empty: name one, or leave it out for all"}
		}
		names, err := g.cfg.Jobs.SetQueues(r.Context(), model, state)
		if err != nil {
			return err
		}
		out := make([]setting, len(names))
		for i, name := range names {
			out[i] = setting{name, state}
		}
		return g.writeJSON(w, http.StatusOK, openai.NewList(out))
	}
}
