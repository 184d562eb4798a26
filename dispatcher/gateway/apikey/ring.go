package apikey

import (
	"io/fs"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

// Ring is the keys of a file as it stands now.
type Ring struct {
	path string

	mu   sync.Mutex
	keys map[string]Entry // by id
	read fs.FileInfo      // of the file when it was read
}

// Open reads the file.
func Open(path string) (*Ring, error) {
	r := &Ring{path: path}
	return r, r.refresh()
}

// refresh reads the file when it is not the one that was read before. With a file that cannot be read
// nobody is let in.
func (r *Ring) refresh() error {
	now, err := os.Stat(r.path)
	if err != nil {
		return err
	}
	if r.read != nil && os.SameFile(now, r.read) && now.ModTime().Equal(r.read.ModTime()) && now.Size() == r.read.Size() {
		return nil
	}
	entries, err := List(r.path)
	if err != nil {
		return err
	}
	r.read, r.keys = now, map[string]Entry{}
	for _, e := range entries {
		r.keys[e.ID] = e
	}
	return nil
}

// caller is the entry of the key that a request carries.
func (r *Ring) caller(req *http.Request) (Entry, error) {
	kind, key, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if key = strings.TrimSpace(key); key == "" || !strings.EqualFold(kind, "Bearer") {
		return Entry{}, contracts.Errorf(contracts.CodeUnauthenticated, "an API key is needed: send the header Authorization: Bearer KEY")
	}
	r.mu.Lock()
	err := r.refresh()
	e, known := r.keys[idOf(key)]
	r.mu.Unlock()
	if err != nil {
		return Entry{}, contracts.Errorf(contracts.CodeUnavailable, "the API keys cannot be read now: retry later, or ask the operator")
	}
	if fits := e.fits(key, time.Now()); !known || !fits {
		return Entry{}, contracts.Errorf(contracts.CodeUnauthenticated, "the API key is unknown, expired or withdrawn: ask the operator for a new one")
	}
	return e, nil
}

// Tenant says whom a request belongs to: the tenant of its key, or, for an operator, the one that it
// asks for. It is gateway.Config's Tenant.
func (r *Ring) Tenant(req *http.Request) (string, error) {
	e, err := r.caller(req)
	if asked := req.URL.Query().Get("tenant"); err == nil && e.Operator && asked != "" {
		return asked, nil
	}
	return e.Tenant, err
}

// Paths that need no key, and those that a tenant's key opens. All others show more than one tenant's
// doings and are for operators.
var (
	openPaths   = []string{"/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready", "/version", "/openapi.json"}
	openTrees   = []string{"/console"} // a page that asks for a key itself
	tenantPaths = []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/jobs", "/v1/dlq", "/v1/files", "/v1/batches", "/v2"}
)

// Guard lets only requests through that the path is open to.
func (r *Ring) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if asked := path.Clean(req.URL.Path); !slices.Contains(openPaths, asked) && !under(openTrees, asked) {
			e, err := r.caller(req)
			if err == nil && !e.Operator && !under(tenantPaths, asked) {
				err = contracts.Errorf(contracts.CodePermissionDenied, "this path is for operators: use an operator's key")
			}
			if err != nil {
				refuse(w, req, contracts.AsError(err))
				return
			}
		}
		next.ServeHTTP(w, req)
	})
}

// under tells whether path is one of paths or below it.
func under(paths []string, path string) bool {
	for _, p := range paths {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

func refuse(w http.ResponseWriter, req *http.Request, e *contracts.Error) {
	w.Header().Set("Connection", "close") // the body of who may not enter is not read
	if e.Code == contracts.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	gateway.Refuse(w, req, e)
}
