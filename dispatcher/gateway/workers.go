package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/fleet"
)

// Workers is what runs the jobs, for operators.
type Workers interface {
	// DrainWorker tells a worker to take no more jobs and to leave, at the latest when grace is over, and returns what
	// it said last: that it drains, or that it left.
	DrainWorker(ctx context.Context, worker string, grace time.Duration) (contracts.Heartbeat, error)
}

// drainWorker serves POST /v1/workers/{id}/drain.
func (g *gateway) drainWorker(w http.ResponseWriter, r *http.Request) error {
	grace := 30 * time.Second
	if said := r.URL.Query().Get("grace"); said != "" {
		var err error
		if grace, err = time.ParseDuration(said); err != nil || grace < 0 || grace > fleet.MostGrace {
			return &contracts.Error{Code: contracts.CodeInvalidArgument, Param: "grace", Message: "grace is a duration from 0s to " + fleet.MostGrace.String() + ", such as 30s"}
		}
	}
	h, err := g.cfg.Jobs.DrainWorker(r.Context(), r.PathValue("id"), grace)
	if err != nil {
		return err
	}
	return g.writeJSON(w, http.StatusOK, h)
}
