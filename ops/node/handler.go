package node

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
	"github.com/pelton-run/pelton/ops/console"
	"github.com/pelton-run/pelton/ops/metrics"
)

// handler is the gateway, and beside it what operators read: workers and queues.
func (n *Node) handler() (http.Handler, error) {
	if n.dispatcher == nil {
		return n.healthOnly(), nil
	}
	n.cfg.Metrics.Queues(n.depths, func() map[string]int { return ready(n.dispatcher.Workers()) })
	door, err := gateway.New(gateway.Config{
		Jobs: n.dispatcher, Models: n.models, Ready: n.Ready, Metrics: n.cfg.Metrics.Handler(), Logger: n.cfg.Log, Version: n.cfg.Version, Tenant: n.tenant(),
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", door)
	mux.Handle("GET "+console.Path, console.Handler())
	mux.HandleFunc("GET /v1/workers", func(w http.ResponseWriter, _ *http.Request) {
		writeList(w, n.dispatcher.Workers())
	})
	mux.HandleFunc("GET /v1/load", func(w http.ResponseWriter, _ *http.Request) {
		name, arrived := n.dispatcher.Load()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"object": "load", "dispatcher": name, "models": arrived})
	})
	mux.HandleFunc("GET /v1/queues", func(w http.ResponseWriter, r *http.Request) {
		queues, err := n.dispatcher.Queues(r.Context())
		if err != nil {
			writeError(w, contracts.AsError(err))
			return
		}
		writeList(w, queues)
	})
	return mux, nil
}

func writeList[T any](w http.ResponseWriter, data []T) {
	if data == nil {
		data = []T{}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": data})
}

func writeError(w http.ResponseWriter, e *contracts.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Code.Info().HTTP)
	_ = json.NewEncoder(w).Encode(openai.NewError(e)) // a reader that left is nobody's failure
}

func (n *Node) models() []gateway.Model {
	var out []gateway.Model
	for _, m := range n.dispatcher.Models() {
		out = append(out, gateway.Model{
			Name: m.Name, Aliases: m.Aliases, Created: m.Created, ContextLength: m.ContextLength, Workers: m.Workers, Fingerprint: m.Fingerprint,
			Kind: m.Kind, Dimensions: m.Dimensions, JobRows: m.JobRows, Inputs: m.Inputs, Outputs: m.Outputs,
		})
	}
	return out
}

// healthOnly is the door of a process that runs workers only.
func (n *Node) healthOnly() http.Handler {
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }
	mux.HandleFunc("GET /livez", ok)
	mux.HandleFunc("GET /readyz", ok)
	mux.Handle("GET /metrics", n.cfg.Metrics.Handler())
	return mux
}

// ready is how many workers of each model take jobs.
func ready(workers []contracts.Heartbeat) map[string]int {
	out := map[string]int{}
	for _, w := range workers {
		if w.State == contracts.WorkerReady {
			out[w.Model]++
		}
	}
	return out
}

// depths is what /metrics says of the queues.
func (n *Node) depths(ctx context.Context) ([]metrics.Queue, error) {
	queues, err := n.dispatcher.Queues(ctx)
	if err != nil {
		return nil, err
	}
	var out []metrics.Queue
	for _, q := range queues {
		out = append(out, metrics.Queue{Model: q.Model, Class: string(q.Class), Size: string(q.Size), Waiting: q.Pending, Running: q.Running})
	}
	return out, nil
}
