package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/kserve"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

const (
	jobHeader    = "X-Pelton-Job"
	jsonType     = "application/json"
	drainLimit   = 128 << 20 // bytes of a refused body that are read and dropped
	drainTime    = 2 * time.Second
	defaultRetry = 1000 // milliseconds, when a retryable refusal names no time
)

// refusal is an error whose HTTP status is not its code's.
type refusal struct {
	status int
	err    *contracts.Error
}

// Error is the code's text.
func (r *refusal) Error() string { return r.err.Error() }

// Unwrap lets contracts.AsError find the code.
func (r *refusal) Unwrap() error { return r.err }

// nameJob says in a header which job answers. An id that no header can carry is left out: the body has it.
func nameJob(w http.ResponseWriter, id string) {
	if !strings.ContainsFunc(id, unicode.IsControl) {
		w.Header().Set(jobHeader, id)
	}
}

// writeJSON answers v with status.
func (g *gateway) writeJSON(w http.ResponseWriter, status int, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	g.write(w, status, jsonType, buf.Bytes())
	return nil
}

// write answers data with status. A reader that left is nobody's failure.
func (g *gateway) write(w http.ResponseWriter, status int, contentType string, data []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	g.allowWrite(w)
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// allowWrite gives the next write its time. Writers without deadlines (in tests) go without.
func (g *gateway) allowWrite(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(g.cfg.WriteTime))
}

// fail answers err as an error object, unless the answer has begun.
func (g *gateway) fail(w *recorder, r *http.Request, err error) {
	e := contracts.AsError(err)
	if e.Code == contracts.CodeCanceled && r.Context().Err() != nil { // who closed only the sending side still reads
		e = contracts.Errorf(contracts.CodeCanceled, "the caller left: it closed the connection, or its sending side (nc -N does), which looks the same; keep it open until the answer has come, or submit a job with POST /v1/jobs and read it later")
	}
	info := e.Code.Info()
	if w.asks {
		g.cfg.Refused(e)
	}
	if e.Code == contracts.CodeInternal {
		g.cfg.Logger.ErrorContext(r.Context(), "http request failed", slog.String("request", w.Header().Get("X-Request-Id")), slog.String("error", err.Error()))
	}
	if w.status != 0 {
		return
	}
	status := info.HTTP
	if own, ok := errors.AsType[*refusal](err); ok {
		status = own.status
	}
	retryHeaders(w.Header(), e)
	if errors.Is(err, errTooLarge) {
		g.refuseBody(w, r, status, e)
		return
	}
	_ = g.writeJSON(w, status, errorObject(r.URL.Path, e)) // strings only: cannot fail
}

// Refuse answers e as the gateway's own paths do, for handlers before it and beside it.
func Refuse(w http.ResponseWriter, r *http.Request, e *contracts.Error) {
	w.Header().Set("X-Request-Id", requestID(r))
	retryHeaders(w.Header(), e)
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(e.Code.Info().HTTP)
	_ = json.NewEncoder(w).Encode(errorObject(r.URL.Path, e)) // a reader that left is nobody's failure
}

// errorObject is e in the shape that errors have at path.
func errorObject(path string, e *contracts.Error) any {
	if kserve.Owns(path) {
		return kserve.Error{Error: e.Message}
	}
	return openai.NewError(e)
}

// retryHeaders tells clients whether and when to try again.
func retryHeaders(h http.Header, e *contracts.Error) {
	if !e.Code.Info().Retryable || e.NoRetry {
		h.Set("X-Should-Retry", "false")
		return
	}
	ms := e.RetryAfterMS
	if ms <= 0 {
		ms = defaultRetry
	}
	h.Set("X-Should-Retry", "true")
	h.Set("Retry-After-Ms", strconv.FormatInt(ms, 10))
	h.Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
}

// refuseBody answers a request whose body is too large, then reads on for a moment, so that a client
// that writes everything before it reads gets the answer and not a reset connection.
func (g *gateway) refuseBody(w *recorder, r *http.Request, status int, e *contracts.Error) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	w.Header().Set("Connection", "close")
	_ = g.writeJSON(w, status, errorObject(r.URL.Path, e))
	_ = control.Flush()
	if r.Header.Get("Expect") != "" {
		return // it waits for the answer before it writes
	}
	_ = control.SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.CopyN(io.Discard, r.Body, drainLimit)
}
