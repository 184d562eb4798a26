// Package console is a page for operators: the fleet's workers, its queues and its figures, live.
//
// It stands beside the walk: ops/node serves it at /console/. The page itself holds nothing of the fleet and
// is open to everybody; what it shows it asks of /v1/workers, /v1/queues and /metrics with an operator's key,
// which it keeps in the browser's session and nowhere else. There is no cookie, so no other page can use it.
package console

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed assets
var assets embed.FS

// policy lets the page load its own files and ask its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Path is where the page stands.
const Path = "/console/"

// Handler serves the page under [Path].
func Handler() http.Handler {
	files, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the folder is part of the binary
	}
	serve := http.StripPrefix(Path, http.FileServerFS(files))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // an upgrade is seen at once
		serve.ServeHTTP(w, r)
	})
}
