package gateway_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// limited is a fake fleet whose tenants have limits.
type limited struct{ gateway.Jobs }

// Quota is the same for everybody.
func (limited) Quota(string) (requests, tokens quota.State) {
	return quota.State{Limit: 60, Remaining: 59, Reset: 900 * time.Millisecond}, quota.State{Limit: 1000, Remaining: 400, Reset: 36 * time.Second}
}

func TestRateLimitHeaders(t *testing.T) {
	t.Parallel()
	h, err := gateway.New(gateway.Config{Jobs: limited{newFake(t)}, Models: func() []admission.ModelStatus { return []admission.ModelStatus{{Name: "m", Workers: 1}} }})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	defer s.Close()
	resp, err := http.Post(s.URL+"/v1/completions", "application/json", strings.NewReader(`{"model":"m","prompt":"hello","max_tokens":2}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for name, want := range map[string]string{
		"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s",
		"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "400", "x-ratelimit-reset-tokens": "36s",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q (status %d)", name, got, want, resp.StatusCode)
		}
	}
}

// slow is a fake fleet whose answers take a second and a half.
type slow struct{ gateway.Jobs }

// Start is the fake's, late.
func (s slow) Start(ctx context.Context, job *contracts.Job) (*contracts.Answer, iter.Seq2[*contracts.Chunk, error], error) {
	answer, chunks, err := s.Jobs.Start(ctx, job)
	return answer, func(yield func(*contracts.Chunk, error) bool) {
		time.Sleep(1500 * time.Millisecond)
		chunks(yield)
	}, err
}

// TestProcessingTime: the header says how long the answer took until its first byte: a whole one all of it, a
// stream until its header, which waits for a second at most.
func TestProcessingTime(t *testing.T) {
	t.Parallel()
	for more, want := range map[string]string{`,"prompt":"hello"`: "1500", `,"prompt":"hello","stream":true`: "1000", "": "0"} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			h, err := gateway.New(gateway.Config{Jobs: slow{f}, Models: f.models})
			if err != nil {
				t.Fatal(err)
			}
			body := `{"model":"` + fakeModel + `","max_tokens":2` + more + `}`
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/completions", strings.NewReader(body)))
			if got := w.Header().Get("Openai-Processing-Ms"); got != want {
				t.Errorf("%s: %q ms, want %s (status %d)", body, got, want, w.Code)
			}
		})
	}
}

// TestMetricsStuckReader: a scraper that does not read its answer holds no handler.
func TestMetricsStuckReader(t *testing.T) {
	t.Parallel()
	over := make(chan error, 1)
	d := open(t, func(c *gateway.Config, _ *fakeFleet) {
		c.WriteTime = 50 * time.Millisecond
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for piece := make([]byte, 1<<20); ; {
				if _, err := w.Write(piece); err != nil {
					over <- err
					return
				}
			}
		})
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-over:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the handler ended with %v, want the deadline", err)
		}
	case <-time.After(time.Minute):
		t.Error("the handler still writes to a reader that does not read")
	}
}
