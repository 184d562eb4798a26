package gateway

import (
	"net/http"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/contracts"
)

// handlerFunc is a handler that leaves writing its failure to the frame around it.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

// route is one method on one path. Heavy ones read a body or hold a stream: they count against
// Config.MaxInFlight.
type route struct {
	method, path string
	heavy        bool
	handle       handlerFunc
}

func (g *gateway) routes() []route {
	routes := []route{
		{"POST", "/v1/chat/completions", true, g.chat},
		{"POST", "/v1/completions", true, g.text},
		{"POST", "/v1/embeddings", true, g.embeddings},
		{"GET", "/v1/models", false, g.listModels},
		{"GET", "/v1/models/{id...}", false, g.oneModel},
		{"POST", "/v1/jobs", true, g.submitJob},
		{"GET", "/v1/jobs", false, g.listJobs},
		{"GET", "/v1/jobs/{id}", false, g.showJob},
		{"GET", "/v1/jobs/{id}/events", true, g.events},
		{"DELETE", "/v1/jobs/{id}", false, g.cancelJob},
		{"GET", "/v1/dlq", false, g.listDead},
		{"GET", "/v1/dlq/{id}", false, g.showDead},
		{"POST", "/v1/dlq/{id}/retry", true, g.retryDead},
		{"DELETE", "/v1/dlq/{id}", false, g.removeDead},
		{"POST", "/v1/queues/pause", false, g.setQueues(contracts.QueuePaused)},
		{"POST", "/v1/queues/resume", false, g.setQueues(contracts.QueueOpen)},
		{"POST", "/v1/queues/drain", false, g.setQueues(contracts.QueueDraining)},
		{"POST", "/v1/workers/{id}/drain", false, g.drainWorker},
		{"GET", "/v2", false, g.serverV2},
		{"GET", "/v2/health/live", false, g.liveV2},
		{"GET", "/v2/health/ready", false, g.readyV2},
		{"GET", "/v2/models/{id}", false, g.showV2},
		{"GET", "/v2/models/{id}/ready", false, g.modelReadyV2},
		{"POST", "/v2/models/{id}/infer", true, g.infer},
		{"GET", "/v2/models/{id}/versions/{version}", false, g.showV2},
		{"GET", "/v2/models/{id}/versions/{version}/ready", false, g.modelReadyV2},
		{"POST", "/v2/models/{id}/versions/{version}/infer", true, g.infer},
		{"GET", "/livez", false, g.live},
		{"GET", "/readyz", false, g.ready},
		{"GET", "/health", false, g.ready},
		{"GET", "/metrics", false, g.metrics},
		{"GET", "/version", false, g.version},
		{"GET", "/openapi.json", false, g.description},
	}
	for path, value := range g.cfg.Beside {
		routes = append(routes, route{"GET", path, false, g.beside(value)})
	}
	return routes
}

func (g *gateway) beside(value Value) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := value(r.Context())
		if err != nil {
			return err
		}
		return g.writeJSON(w, http.StatusOK, v)
	}
}

func (g *gateway) handler() http.Handler {
	mux := http.NewServeMux()
	allowed := map[string][]string{}
	for _, r := range g.routes() {
		mux.Handle(r.method+" "+r.path, g.frame(r.handle, r.heavy))
		allowed[r.path] = append(allowed[r.path], r.method)
	}
	for path, methods := range allowed {
		mux.Handle(path, g.frame(wrongMethod(methods), false))
	}
	mux.Handle("/", g.frame(unknownPath, false))
	return mux
}

func wrongMethod(methods []string) handlerFunc {
	if slices.Contains(methods, "GET") {
		methods = append(methods, "HEAD")
	}
	allow := strings.Join(methods, ", ")
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Allow", allow)
		return &refusal{http.StatusMethodNotAllowed, contracts.Errorf(contracts.CodeInvalidArgument, "method %s is not allowed on %s: use %s", brief(r.Method), brief(r.URL.Path), allow)}
	}
}

func unknownPath(_ http.ResponseWriter, r *http.Request) error {
	return contracts.Errorf(contracts.CodeNotFound, "no such path: %s %s: ask /openapi.json what there is", brief(r.Method), brief(r.URL.Path))
}

// brief is s, cut to a length that fits a message.
func brief(s string) string {
	const most = 128
	if s = strings.ToValidUTF8(s, "?"); len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
