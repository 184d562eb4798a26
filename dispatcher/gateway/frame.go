package gateway

import (
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gate"
)

// recorder remembers what was answered, for the log and for late failures.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	begin  []func(http.Header) // before the status is written
	asks   bool                // for a job that nobody was given yet
}

// given notes that the request's jobs go to [Jobs], which counts those that it refuses.
func given(w http.ResponseWriter) {
	if rec, ours := w.(*recorder); ours {
		rec.asks = false
	}
}

// first remembers the status of the answer that begins.
func (w *recorder) first(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	for _, f := range w.begin {
		f(w.Header())
	}
}

// WriteHeader remembers the status.
func (w *recorder) WriteHeader(status int) {
	w.first(status)
	w.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes.
func (w *recorder) Write(p []byte) (int, error) {
	w.first(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// frame stands around every handler: request id, origin check, bound on requests in flight, error
// object, panic, log line.
func (g *gateway) frame(h handlerFunc, heavy bool) http.Handler {
	origin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		rec := &recorder{ResponseWriter: w, asks: heavy && r.Method == http.MethodPost}
		id := requestID(r)
		rec.Header().Set("X-Request-Id", id)
		defer func() {
			p := recover()
			g.log(r, rec, id, time.Since(begin))
			if p != nil {
				g.panicked(rec, r, id, p)
			}
		}()
		g.boundBody(rec, r)
		if err := origin.Check(r); err != nil {
			g.fail(rec, r, contracts.Errorf(contracts.CodePermissionDenied, "a web page of another origin must not use this server: call it from your own server"))
			return
		}
		if heavy {
			tenant, err := g.tenant(r)
			body := &weighed{ReadCloser: r.Body, take: func() error { return g.slots.Enter(tenant, 0) }}
			if err == nil {
				err = body.take()
			}
			if err != nil {
				g.fail(rec, r, err)
				return
			}
			defer func() {
				for range 1 + body.places {
					g.slots.Leave(tenant, 0)
				}
			}()
			r.Body = body
		}
		if err := h(rec, r); err != nil {
			g.fail(rec, r, err)
		}
	})
}

// weighed is a body that takes a place more for each [gate.PlaceBytes] of it that have come.
type weighed struct {
	io.ReadCloser
	take          func() error
	bytes, places int
}

// Read fails when there is no place for what came.
func (b *weighed) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	for b.bytes += n; b.bytes > (1+b.places)*gate.PlaceBytes; b.places++ {
		if err := b.take(); err != nil {
			return n, err
		}
	}
	return n, err
}

// panicked answers a handler's panic: with an error object when nothing was sent, else by cutting the
// connection.
func (g *gateway) panicked(w *recorder, r *http.Request, id string, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	e := gate.Panicked(g.cfg.Logger, p, "request", id, "path", r.Pattern)
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	g.fail(w, r, e)
}

func (g *gateway) log(r *http.Request, w *recorder, id string, took time.Duration) {
	level := slog.LevelInfo
	if r.Method == http.MethodGet {
		level = slog.LevelDebug // probes and scrapes
	}
	if !g.cfg.Logger.Enabled(r.Context(), level) {
		return
	}
	g.cfg.Logger.Log(r.Context(), level, "http request",
		slog.String("request", id), slog.String("method", brief(r.Method)), slog.String("path", r.Pattern), slog.Int("status", w.status),
		slog.Int64("bytes", w.bytes), slog.Duration("took", took), slog.String("job", w.Header().Get(jobHeader)))
}

// requestID is the caller's x-request-id when it is fit to be echoed, else a new one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > contracts.MaxIDLength || !printable(id) {
		return "req_" + uuid.NewString()
	}
	return id
}

// printable tells whether s is visible ASCII, spaces within allowed.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
