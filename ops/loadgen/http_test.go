package loadgen_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pelton-run/pelton/ops/loadgen"
)

// TestHTTPAnswers: what each kind of answer of an OpenAI server is counted as.
func TestHTTPAnswers(t *testing.T) {
	t.Parallel()
	const role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
	const one = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n"
	const text = ": comment\ndata:{\"choices\":[{\"text\":\"b\"}]}\n\n"
	const usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n"
	for _, c := range []struct {
		name    string
		status  int
		body    string
		outcome loadgen.Outcome
		pieces  int
		output  int
		says    string
	}{
		{"complete", 200, role + one + text + usage + "data: [DONE]\n\n", loadgen.Completed, 2, 2, ""},
		{"without usage", 200, role + one + "data: [DONE]\n\n", loadgen.Completed, 1, 0, ""},
		{"broken off", 200, role + one, loadgen.Failed, 1, 0, "broke off"},
		{"broken off before the first", 200, "", loadgen.Failed, 0, 0, "broke off"},
		{"broken off after a comment", 200, ": wait\n\n", loadgen.Failed, 0, 0, "broke off"},
		{"an error page", 200, "\n<html>\n<title>upstream</title>\n</html>", loadgen.Failed, 0, 0, `no stream of events: it begins with "<html>"`},
		{"a whole answer in one line", 200, `{"choices":[]}`, loadgen.Failed, 0, 0, "no stream of events"},
		{"reasoning", 200, "data: {\"choices\":[{\"delta\":{\"reasoning\":\"a\"}}]}\n\n" + usage + "data: [DONE]\n\n", loadgen.Completed, 1, 2, ""},
		{"no JSON", 200, "data: {\n\n", loadgen.Failed, 0, 0, ""},
		{"error in the stream", 200, one + `data: {"error":{"message":"m","code":"internal"}}` + "\n\n", loadgen.Failed, 1, 0, ""},
		{"deadline in the stream", 200, one + `data: {"error":{"message":"m","code":"deadline_exceeded"}}` + "\n\n", loadgen.Expired, 1, 0, ""},
		{"evicted while it was held", 200, `data: {"error":{"message":"m","code":"overloaded"}}` + "\n\n", loadgen.Refused, 0, 0, ""},
		{"vLLM's error in the stream", 200, `data: {"error":{"message":"m","code":503}}` + "\n\n", loadgen.Refused, 0, 0, ""},
		{"quota", 429, "{}", loadgen.Refused, 0, 0, ""},
		{"overload", 503, "{}", loadgen.Refused, 0, 0, ""},
		{"deadline", 504, "{}", loadgen.Expired, 0, 0, ""},
		{"wrong", 400, "{}", loadgen.Failed, 0, 0, ""},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		h := &loadgen.HTTP{URL: srv.URL, Model: "m", Client: loadgen.NewClient(http.DefaultClient, 1)}
		pieces := 0
		a := h.Send(t.Context(), loadgen.Request{Output: 2}, "hi", func() { pieces++ })
		h.Client.CloseIdleConnections()
		srv.Close()
		if a.Outcome != c.outcome || pieces != c.pieces || a.OutputTokens != c.output || !strings.Contains(a.Message, c.says) {
			t.Errorf("%s: %+v with %d pieces, want %s, %d pieces, %d tokens", c.name, a, pieces, c.outcome, c.pieces, c.output)
		}
	}
}

// TestKept: the next request uses the same connection, also when the end of an answer comes after [DONE].
func TestKept(t *testing.T) {
	t.Parallel()
	var made atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
		w.(http.Flusher).Flush()
		time.Sleep(2 * time.Millisecond) // on the way
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			made.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	h := &loadgen.HTTP{URL: srv.URL, Model: "m", Client: loadgen.NewClient(srv.Client(), 8)}
	for n := int32(1); ; n++ { // a busy machine may miss the time in which net/http keeps a connection
		if a := h.Send(t.Context(), loadgen.Request{Output: 1}, "hi", func() {}); a.Outcome != loadgen.Completed {
			t.Fatalf("%+v", a)
		}
		if made.Load() < n {
			return
		}
		if n == 100 {
			t.Fatalf("%d connections for as many requests", n)
		}
	}
}

// TestHTTPRequest: what is asked, and with which headers.
func TestHTTPRequest(t *testing.T) {
	t.Parallel()
	var header http.Header
	var body map[string]any
	var path string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header, path = r.Header, r.URL.Path
		_ = json.NewDecoder(r.Body).Decode(&body)
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	}))
	defer srv.Close()
	h := &loadgen.HTTP{URL: srv.URL, Model: "m", Text: true, Key: "k", Keys: map[string]string{"t": "its own"}, IgnoreEOS: true, Client: loadgen.NewClient(http.DefaultClient, 1)}
	r := loadgen.Request{Output: 3, Class: "p1", Tenant: "t", Deadline: 1500 * time.Millisecond}
	if a := h.Send(t.Context(), r, "hi", func() {}); a.Outcome != loadgen.Completed {
		t.Fatal(a)
	}
	for key, want := range map[string]string{"Authorization": "Bearer its own", "X-Pelton-Class": "p1", "X-Pelton-Deadline": "1.5s"} {
		if got := header.Get(key); got != want {
			t.Errorf("header %s is %q, want %q", key, got, want)
		}
	}
	if path != "/v1/completions" || body["prompt"] != "hi" || body["max_tokens"] != 3.0 || body["ignore_eos"] != true || body["stream"] != true {
		t.Errorf("%s was asked for %v", path, body)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := h.Send(ctx, r, "hi", func() {}); a.Outcome != loadgen.Failed || !strings.Contains(a.Message, "canceled") {
		t.Errorf("a canceled request: %+v", a)
	}
}

// TestHTTPConnections: a server that drops a connection where the next request comes is asked again, on
// a new one.
func TestHTTPConnections(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen, dropped := map[string]bool{}, 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		again := seen[r.RemoteAddr]
		seen[r.RemoteAddr] = true
		if again {
			dropped++
		}
		mu.Unlock()
		if _, sent := r.Header["X-Idempotency-Key"]; sent {
			t.Error("the header X-Idempotency-Key was sent")
		}
		if again {
			panic(http.ErrAbortHandler) // closes the connection without an answer
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	}))
	defer srv.Close()
	h := &loadgen.HTTP{URL: srv.URL, Model: "m", Client: loadgen.NewClient(http.DefaultClient, 1)}
	for n := 1; ; n++ {
		if a := h.Send(t.Context(), loadgen.Request{Output: 1}, "hi", func() {}); a.Outcome != loadgen.Completed {
			t.Fatalf("request %d: %+v", n, a)
		}
		mu.Lock()
		seen := dropped > 0
		mu.Unlock()
		if seen {
			return
		}
		if n == 100 {
			t.Fatal("no connection was used twice: the test tests nothing")
		}
	}
}
