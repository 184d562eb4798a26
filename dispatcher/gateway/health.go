package gateway

import (
	"net/http"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

// listModels serves GET /v1/models: what live workers serve, the default first.
func (g *gateway) listModels(w http.ResponseWriter, _ *http.Request) error {
	var out []openai.Model
	for _, m := range g.cfg.Models() {
		if m.Workers > 0 {
			out = append(out, modelObject(m))
		}
	}
	return g.writeJSON(w, http.StatusOK, openai.NewList(out))
}

// oneModel serves GET /v1/models/{id}; ids may hold slashes.
func (g *gateway) oneModel(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if m, _ := g.model(id); m.Workers > 0 {
		return g.writeJSON(w, http.StatusOK, modelObject(m))
	}
	return unknownModel(id)
}

func unknownModel(name string) error {
	return &contracts.Error{Code: contracts.CodeModelNotFound, Param: "model", Message: "model " + brief(name) + " is not served: ask /v1/models what is"}
}

func modelObject(m admission.ModelStatus) openai.Model {
	return openai.Model{ID: m.Name, Object: "model", Created: max(m.Created.Unix(), 0), OwnedBy: "pelton", MaxModelLen: m.ContextLength}
}

// live serves /livez: the process answers.
func (g *gateway) live(w http.ResponseWriter, _ *http.Request) error {
	return g.writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// ready serves /readyz and /health: jobs can be served.
func (g *gateway) ready(w http.ResponseWriter, _ *http.Request) error {
	if err := g.cfg.Ready(); err != nil {
		return contracts.Errorf(contracts.CodeUnavailable, "not ready: %s", contracts.AsError(err).Message)
	}
	return g.writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// version serves /version.
func (g *gateway) version(w http.ResponseWriter, _ *http.Request) error {
	return g.writeJSON(w, http.StatusOK, map[string]any{"version": g.cfg.Version, "protocol": contracts.Version})
}

// metrics serves /metrics.
func (g *gateway) metrics(w http.ResponseWriter, r *http.Request) error {
	if g.cfg.Metrics == nil {
		return contracts.Errorf(contracts.CodeNotFound, "no metrics are collected here")
	}
	g.allowWrite(w)
	g.cfg.Metrics.ServeHTTP(w, r)
	return nil
}

// description serves /openapi.json.
func (g *gateway) description(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", jsonType)
	g.allowWrite(w)
	_, _ = w.Write(openAPI) // a reader that left is nobody's failure
	return nil
}
