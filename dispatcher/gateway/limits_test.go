package gateway_test

import (
	"cmp"
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

// TestRefusedAtTheDoor: a request for a job that is refused before Jobs has it is told once, and no other is.
func TestRefusedAtTheDoor(t *testing.T) {
	t.Parallel()
	told := make(chan contracts.Code, 9)
	d := open(t, func(c *gateway.Config, f *fakeFleet) {
		c.Refused = func(e *contracts.Error) { told <- e.Code }
		c.MaxBody = 4096
		c.Tenant = func(r *http.Request) (string, error) {
			if r.Header.Get("Authorization") == "bad" {
				return "", contracts.Errorf(contracts.CodeUnauthenticated, "who")
			}
			return "t", nil
		}
		f.refuse = func(j *contracts.Job) error {
			if j.Class == contracts.P0 {
				return contracts.Errorf(contracts.CodeOverloaded, "full")
			}
			return nil
		}
	})
	chat := chatBody + "}"
	for _, tt := range []struct {
		method, path, body, header string
		status                     int
		want                       contracts.Code // empty: not the door's
	}{
		{"POST", "/v1/chat/completions", "{", "", 400, contracts.CodeInvalidArgument},
		{"POST", "/v1/chat/completions", strings.Repeat(" ", 5000), "", 413, contracts.CodePayloadTooLarge},
		{"POST", "/v1/completions", chat, "Authorization: bad", 401, contracts.CodeUnauthenticated},
		{"POST", "/v1/chat/completions", chat, "X-Pelton-Class: p9", 400, contracts.CodeInvalidArgument},
		{"POST", "/v1/embeddings", `{"model":"m"}`, "", 400, contracts.CodeInvalidArgument},
		{"POST", "/v1/jobs", `{"kind":"text","model":"m"}`, "", 400, contracts.CodeInvalidArgument},
		{"POST", "/v2/models/none/infer", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}`, "", 404, contracts.CodeModelNotFound},
		{"POST", "/v1/chat/completions", chat, "X-Pelton-Class: p0", 429, ""},
		{"POST", "/v1/chat/completions", `{"model":"none","messages":[{"role":"user","content":"x"}]}`, "", 404, ""},
		{"POST", "/v1/jobs", `{"kind":"text","model":"none","prompt":"x"}`, "", 404, ""},
		{"POST", "/v1/chat/completions", chat, "", 200, ""},
		{"GET", "/v1/jobs/none", "", "", 404, ""},
		{"GET", "/v1/jobs/none/events", "", "", 404, ""},
	} {
		if r := d.do(tt.method, tt.path, tt.body, cmp.Or(tt.header, "X-Request-Id: a")); r.status != tt.status {
			t.Errorf("%s %s: %d %s, want %d", tt.path, tt.body, r.status, r.text, tt.status)
		}
		var got contracts.Code
		select {
		case got = <-told:
		default:
		}
		if got != tt.want || len(told) > 0 {
			t.Errorf("%s %.40s: told %q and %d more, want %q", tt.path, tt.body, got, len(told), tt.want)
		}
	}
}
