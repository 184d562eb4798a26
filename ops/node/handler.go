package node

import (
	"context"
	"net/http"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/ops/console"
)

// handler is the gateway, and beside it what operators read: workers and queues.
func (n *Node) handler() (http.Handler, error) {
	if n.dispatcher == nil {
		return n.healthOnly(), nil
	}
	n.cfg.Metrics.Queues(n.dispatcher.Queues, func() map[string]int { return ready(n.dispatcher.Workers()) })
	door, err := gateway.New(gateway.Config{
		Jobs: n.dispatcher, Models: n.dispatcher.Models, Ready: n.Ready, Metrics: n.cfg.Metrics.Handler(), Logger: n.cfg.Log, Version: n.cfg.Version, Tenant: n.tenant(), Beside: lists(n.dispatcher), Refused: n.cfg.Metrics.Refused,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", door)
	mux.Handle("GET "+console.Path, console.Handler())
	return mux, nil
}

// lists are what operators and the scaler read of a dispatcher.
func lists(d *dispatcher.Dispatcher) map[string]gateway.Value {
	return map[string]gateway.Value{
		"/v1/workers": func(context.Context) (any, error) { return list(d.Workers()), nil },
		"/v1/load": func(context.Context) (any, error) {
			name, arrived := d.Load()
			return map[string]any{"object": "load", "dispatcher": name, "models": arrived}, nil
		},
		"/v1/queues": func(ctx context.Context) (any, error) {
			queues, err := d.Queues(ctx)
			return list(queues), err
		},
	}
}

func list[T any](data []T) any {
	if data == nil {
		data = []T{}
	}
	return map[string]any{"object": "list", "data": data}
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
