package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"time"
)

// maxRetryAfter bounds how long a server may make us wait before the next try.
const maxRetryAfter = time.Minute

// slowest is how many bytes a second a transfer must bring to go on: a server that sends one now and then is as good
// as silent.
const slowest = 1 << 10

// errStalled ends a transfer that brings too little.
var errStalled = errors.New("the transfer stalled")

// newClient follows HTTP_PROXY and its kin. Certificates are the system's, or SSL_CERT_FILE's.
func newClient() *http.Client {
	return &http.Client{CheckRedirect: checkRedirect}
}

// checkRedirect keeps an encrypted transfer encrypted, and a token with the host that it was meant for:
// http itself would send it to that host's subdomains as well.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("10 redirects in a row")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirected from https to %s", req.URL.Redacted())
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

// transient marks an error after which the same request may succeed.
type transient struct {
	error
	after time.Duration // what the server asks to wait, 0 if it does not
}

func (t transient) Unwrap() error { return t.error }

// get sends one request and hands the answer on; a transfer that is slower than slowest for as long as
// Config.Stall, also before the first byte, is broken off. Errors of the network are transient, those of
// certificates and addresses are not.
func (h *Hub) get(ctx context.Context, url string, header http.Header, use func(*http.Response, io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(h.cfg.Stall, func() { cancel(errStalled) })
	defer timer.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("User-Agent", "pelton")
	resp, err := h.cfg.Client.Do(req)
	if err != nil {
		return h.networkError(ctx, err)
	}
	defer resp.Body.Close()
	timer.Reset(h.cfg.Stall)
	body := &watched{r: resp.Body, enough: int(slowest * h.cfg.Stall / time.Second), alive: func() { timer.Reset(h.cfg.Stall) }}
	err = use(resp, body)
	if body.err != nil && errors.Is(err, body.err) {
		return h.networkError(ctx, err)
	}
	return err
}

func (h *Hub) networkError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return transient{error: fmt.Errorf("%w: less than 1 KiB/s for %s", errStalled, h.cfg.Stall)}
	} else if cause != nil {
		return cause
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: %w: if a proxy re-signs traffic here, name its certificates with SSL_CERT_FILE", ErrUnavailable, err)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return fmt.Errorf("%w: %w: is this machine online?", ErrUnavailable, err)
	}
	return transient{error: err}
}

// watched tells each time that enough bytes have arrived, and remembers how the stream broke.
type watched struct {
	r      io.Reader
	enough int
	came   int // since it told last
	alive  func()
	err    error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.came += n; w.came >= w.enough && n > 0 {
		w.came = 0
		w.alive()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// statusError is what an answer other than success means.
func statusError(resp *http.Response) error {
	err := fmt.Errorf("%s answers %q", resp.Request.URL.Redacted(), resp.Status)
	switch {
	case resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		return transient{error: err, after: retryAfter(resp)}
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusProxyAuthRequired:
		return fmt.Errorf("%w: %w: check the credentials of the index or proxy", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return min(max(time.Duration(seconds), 0), maxRetryAfter/time.Second) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}

// again runs try until it succeeds, fails for good, or fails too often in a row; a try that got
// somewhere starts the count anew. Between tries it waits longer and longer, and says so.
func (h *Hub) again(ctx context.Context, p Progress, try func() (progress bool, err error)) error {
	for failures, wait := 0, h.cfg.Backoff; ; wait *= 2 {
		progress, err := try()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t, ok := errors.AsType[transient](err)
		if !ok {
			return err
		}
		if progress {
			failures, wait = 0, h.cfg.Backoff
		}
		if failures++; failures > max(h.cfg.Retries, 0) {
			return fmt.Errorf("%w: %w: run again later, what was fetched so far is kept", ErrUnavailable, t.error)
		}
		pause := max(wait, t.after)
		p.report(fmt.Sprintf("trying again in %s: %s", pause.Round(time.Millisecond), t.error), 0, 0)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}
