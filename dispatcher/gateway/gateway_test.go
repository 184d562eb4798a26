package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

// door is a gateway before a fake fleet, on a real port.
type door struct {
	t     *testing.T
	fleet *fakeFleet
	url   string
	log   *contractstest.Log
}

func open(t *testing.T, change func(*gateway.Config, *fakeFleet)) *door {
	t.Helper()
	d := &door{t: t, fleet: newFake(t), log: &contractstest.Log{}}
	cfg := gateway.Config{Jobs: d.fleet, Models: d.fleet.models, Version: "test", Logger: slog.New(slog.NewJSONHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&cfg, d.fleet)
	}
	h, err := gateway.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = gateway.Server(h)
	s.Start()
	t.Cleanup(s.Close)
	d.url = s.URL
	return d
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	text   string
}

func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(r.text), &out); err != nil {
		t.Fatalf("%q is no JSON object: %v", r.text, err)
	}
	return out
}

// do sends one request; headers are "Name: value".
func (d *door) do(method, path, body string, headers ...string) reply {
	d.t.Helper()
	resp := d.send(context.Background(), method, path, body, headers...)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	documented(d.t, resp)
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// documented checks that the document knows the status of an answer and its content type.
func documented(t testing.TB, resp *http.Response) {
	t.Helper()
	doc := description(t)
	method, path := strings.ToLower(resp.Request.Method), resp.Request.URL.Path
	op, known := doc.find(method, path)
	if !known || resp.StatusCode == http.StatusMethodNotAllowed {
		return
	}
	answer, known := op.Responses[strconv.Itoa(resp.StatusCode)]
	if !known {
		t.Errorf("%s %s answers %d, which openapi.json does not name", method, path, resp.StatusCode)
		return
	}
	if name, ok := strings.CutPrefix(answer.Ref, "#/components/responses/"); ok {
		answer = doc.Components.Responses[name]
	}
	given, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if _, ok := answer.Content[given]; !ok && len(answer.Content)+len(given) > 0 {
		t.Errorf("%s %s answers %d with content type %q, openapi.json says %v", method, path, resp.StatusCode, given, slices.Collect(maps.Keys(answer.Content)))
	}
}

func (d *door) send(ctx context.Context, method, path, body string, headers ...string) *http.Response {
	d.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp
}

// frames are the data lines of an event stream.
func frames(t *testing.T, stream string) []string {
	t.Helper()
	var out []string
	for line := range strings.SplitSeq(stream, "\n") {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			out = append(out, data)
		}
	}
	return out
}

const chatBody = `{"model":"fake/parrot","messages":[{"role":"user","content":"Why is the sky blue?"}],"max_tokens":6,"seed":3`

func TestChatWhole(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	r := d.do("POST", "/v1/chat/completions", chatBody+`,"n":2,"service_tier":"flex"}`, "X-Request-Id: mine")
	if r.status != 200 || r.header.Get("X-Request-Id") != "mine" || r.header.Get("X-Pelton-Job") == "" {
		t.Fatalf("got %d %v %s", r.status, r.header, r.text)
	}
	got := r.json(t)
	id := r.header.Get("X-Pelton-Job")
	want := map[string]any{
		"id": "chatcmpl-" + id, "object": "chat.completion", "created": got["created"], "model": fakeModel, "service_tier": "flex", "system_fingerprint": got["system_fingerprint"],
		"choices": []any{
			map[string]any{"index": 0., "message": map[string]any{"role": "assistant", "content": said(d, id, 0), "refusal": nil}, "logprobs": nil, "finish_reason": "length"},
			map[string]any{"index": 1., "message": map[string]any{"role": "assistant", "content": said(d, id, 1), "refusal": nil}, "logprobs": nil, "finish_reason": "length"},
		},
		"usage": map[string]any{
			"prompt_tokens": 7., "completion_tokens": 12., "total_tokens": 19.,
			"prompt_tokens_details":     map[string]any{"cached_tokens": 0., "audio_tokens": 0.},
			"completion_tokens_details": map[string]any{"reasoning_tokens": 0., "audio_tokens": 0., "accepted_prediction_tokens": 0., "rejected_prediction_tokens": 0.},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if fp, _ := got["system_fingerprint"].(string); !strings.HasPrefix(fp, "fp_") {
		t.Errorf("system_fingerprint = %q, want fp_…", fp)
	}
	if strings.Contains(d.log.String(), "sky blue") {
		t.Errorf("the log quotes the prompt: %s", d.log)
	}
}

// said is what the fake generated for a choice, from its own records.
func said(d *door, id string, choice int) string {
	var out strings.Builder
	for c := range d.fleet.Stream(context.Background(), "default", id, -1) {
		if c.Choice == choice {
			out.WriteString(c.Text)
		}
	}
	return out.String()
}

func TestChatStream(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	r := d.do("POST", "/v1/chat/completions", chatBody+`,"stream":true,"stream_options":{"include_usage":true}}`)
	if r.status != 200 || r.header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %d %v %s", r.status, r.header, r.text)
	}
	data := frames(t, r.text)
	if len(data) < 4 || data[len(data)-1] != "[DONE]" {
		t.Fatalf("the stream must end with [DONE]: %q", data)
	}
	var text strings.Builder
	var roles, finishes []string
	for i, f := range data[:len(data)-1] {
		var c struct {
			Object  string
			Choices []struct {
				Delta struct {
					Role    string
					Content *string
				}
				FinishReason *string `json:"finish_reason"`
				Logprobs     json.RawMessage
			}
			Usage json.RawMessage
		}
		if err := json.Unmarshal([]byte(f), &c); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if i == len(data)-2 {
			if len(c.Choices) != 0 || !strings.Contains(string(c.Usage), `"completion_tokens":6`) {
				t.Errorf("the last chunk must be the usage with no choices: %s", f)
			}
			continue
		}
		if c.Object != "chat.completion.chunk" || len(c.Choices) != 1 || string(c.Usage) != "null" || string(c.Choices[0].Logprobs) != "null" {
			t.Errorf("chunk %d: %s", i, f)
		}
		roles = append(roles, c.Choices[0].Delta.Role)
		if s := c.Choices[0].Delta.Content; s != nil {
			text.WriteString(*s)
		}
		if r := c.Choices[0].FinishReason; r != nil {
			finishes = append(finishes, *r)
		}
	}
	if roles[0] != "assistant" || strings.Join(roles[1:], "") != "" {
		t.Errorf("roles = %q, want assistant in the first delta only", roles)
	}
	if want := said(d, r.header.Get("X-Pelton-Job"), 0); text.String() != want {
		t.Errorf("text = %q, want %q", text.String(), want)
	}
	if !slices.Equal(finishes, []string{"length"}) {
		t.Errorf("finish reasons = %q, want one length", finishes)
	}
	if plain := d.do("POST", "/v1/chat/completions", chatBody+`,"stream":true}`); strings.Contains(plain.text, `"usage"`) {
		t.Errorf("without include_usage no chunk may have usage: %s", plain.text)
	}
}

func TestTextPromptsAndLogprobs(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	r := d.do("POST", "/v1/completions", `{"model":"parrot","prompt":["one","two"],"n":2,"max_tokens":5,"seed":1,"echo":true}`)
	if r.status == 200 {
		t.Fatalf("the fake does not take aliases, got %s", r.text)
	}
	r = d.do("POST", "/v1/completions", `{"model":"fake/parrot","prompt":["one","two"],"n":2,"max_tokens":5,"seed":1,"echo":true}`)
	choices, _ := r.json(t)["choices"].([]any)
	ids := strings.Split(r.header.Get("X-Pelton-Job"), ",")
	if len(choices) != 4 || len(ids) != 2 {
		t.Fatalf("got %d choices of jobs %v, want 4 of 2: %s", len(choices), ids, r.text)
	}
	for i, c := range choices {
		c := c.(map[string]any)
		want := []string{"one", "two"}[i/2] + said(d, ids[i/2], i%2)
		if c["index"] != float64(i) || c["text"] != want {
			t.Errorf("choice %d = %v, want index %d and text %q", i, c, i, want)
		}
	}
	r = d.do("POST", "/v1/completions", `{"model":"fake/parrot","prompt":[1,2,3],"max_tokens":9,"logprobs":2,"seed":8}`)
	choice := r.json(t)["choices"].([]any)[0].(map[string]any)
	lp := choice["logprobs"].(map[string]any)
	for _, k := range []string{"tokens", "token_logprobs", "top_logprobs", "text_offset"} {
		if list, _ := lp[k].([]any); len(list) != 9 {
			t.Errorf("logprobs.%s = %v, want 9 entries", k, lp[k])
		}
	}
	if got := d.fleet.job(t, "default", r.header.Get("X-Pelton-Job")).Tokens; !slices.Equal(got, []int32{1, 2, 3}) {
		t.Errorf("tokens = %v, want [1 2 3]", got)
	}
	r = d.do("POST", "/v1/completions", `{"model":"fake/parrot","prompt":"x","stream":true,"echo":true,"max_tokens":2}`)
	if data := frames(t, r.text); len(data) == 0 || !strings.Contains(data[0], `"text":"x"`) || !strings.Contains(data[0], `"object":"text_completion"`) {
		t.Errorf("the first chunk must be the echo: %s", r.text)
	}
}

// TestRefusals: every refusal has its status, code and parameter, and the four members that OpenAI's
// error object needs.
func TestRefusals(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, _ *fakeFleet) { c.MaxBody = 20000 })
	const chat, text, jobs = "/v1/chat/completions", "/v1/completions", "/v1/jobs"
	msgs := `,"messages":[{"role":"user","content":"x"}]`
	for _, c := range []struct {
		name, method, path, body, header string
		status                           int
		code, param                      string
	}{
		{"unknown path", "GET", "/v1/nope", "", "", 404, "not_found", ""},
		{"root", "GET", "/", "", "", 404, "not_found", ""},
		{"wrong method", "GET", chat, "", "", 405, "invalid_argument", ""},
		{"wrong method of a job", "PATCH", "/v1/jobs/x", "{}", "", 405, "invalid_argument", ""},
		{"empty", "POST", chat, " ", "", 400, "invalid_argument", ""},
		{"media type", "POST", chat, "{}", "Content-Type: text/plain", 415, "invalid_argument", ""},
		{"form", "POST", text, "a=b", "Content-Type: application/x-www-form-urlencoded", 415, "invalid_argument", ""},
		{"coding", "POST", chat, "{}", "Content-Encoding: gzip", 415, "invalid_argument", ""},
		{"too large", "POST", chat, `{"x":"` + strings.Repeat("a", 20000) + `"}`, "", 413, "payload_too_large", ""},
		{"too large job", "POST", jobs, `{"x":"` + strings.Repeat("a", 20000) + `"}`, "", 413, "payload_too_large", ""},
		{"no JSON", "POST", chat, "{", "", 400, "invalid_argument", ""},
		{"other origin", "POST", chat, "{}", "Origin: https://evil.example", 403, "permission_denied", ""},
		{"no model", "POST", chat, `{"messages":[]}`, "", 400, "invalid_argument", "messages"},
		{"model only", "POST", chat, `{"model":"fake/parrot"}`, "", 400, "invalid_argument", "messages"},
		{"unknown model", "POST", chat, `{"model":"nope"` + msgs + `}`, "", 404, "model_not_found", ""},
		{"no worker", "POST", chat, `{"model":"asleep"` + msgs + `}`, "", 503, "unavailable", ""},
		{"temperature", "POST", chat, `{"model":"fake/parrot","temperature":2.5` + msgs + `}`, "", 400, "invalid_argument", "temperature"},
		{"tools", "POST", chat, `{"model":"fake/parrot","tools":[{"type":"function"}]` + msgs + `}`, "", 400, "unimplemented", "tools"},
		{"image", "POST", chat, `{"model":"fake/parrot","messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, "", 400, "unimplemented", "messages[0].content[0].type"},
		{"suffix", "POST", text, `{"model":"fake/parrot","prompt":"a","suffix":"b"}`, "", 400, "unimplemented", "suffix"},
		{"too long", "POST", chat, `{"model":"fake/parrot","max_tokens":3000` + msgs + `}`, "", 400, "context_length_exceeded", "max_tokens"},
		{"class header", "POST", chat, `{"model":"fake/parrot"` + msgs + `}`, "X-Pelton-Class: p9", 400, "invalid_argument", "X-Pelton-Class"},
		{"deadline header", "POST", chat, `{"model":"fake/parrot"` + msgs + `}`, "X-Pelton-Deadline: soon", 400, "invalid_argument", "X-Pelton-Deadline"},
		{"deadline of nothing", "POST", chat, `{"model":"fake/parrot"` + msgs + `}`, "X-Pelton-Deadline: -1s", 400, "invalid_argument", "X-Pelton-Deadline"},
		{"past deadline", "POST", chat, `{"model":"fake/parrot"` + msgs + `}`, "X-Pelton-Deadline: 2020-01-01T00:00:00Z", 504, "deadline_exceeded", ""},
		{"objective header", "POST", chat, `{"model":"fake/parrot"` + msgs + `}`, "X-Slo-Ttft-Ms: 200ms", 400, "invalid_argument", "X-Slo-Ttft-Ms"},
		{"overload header", "POST", chat, `{"model":"fake/parrot"` + msgs + `}`, "X-Pelton-On-Overload: demote, wait", 400, "invalid_argument", "X-Pelton-On-Overload"},
		{"no room for a header", "POST", jobs, `{"model":"fake/parrot","kind":"text","prompt":"x","labels":{` + labels(32) + `}}`, "X-Pelton-On-Overload: demote, shorten", 400, "invalid_argument", "labels"},
		{"long key", "POST", chat, `{"model":"fake/parrot"` + msgs + `}`, "Idempotency-Key: " + strings.Repeat("k", 300), 400, "invalid_argument", "Idempotency-Key"},
		{"job without kind", "POST", jobs, `{"model":"fake/parrot"}`, "", 400, "invalid_argument", "kind"},
		{"job of a later version", "POST", jobs, `{"v":2,"model":"fake/parrot","kind":"text","prompt":"x"}`, "", 501, "unimplemented", "v"},
		{"job of vectors", "POST", jobs, `{"model":"fake/parrot","kind":"embed","input":["x"]}`, "", 400, "invalid_argument", "kind"},
		{"job of tensors", "POST", jobs, `{"model":"fake/parrot","kind":"tensor"}`, "", 400, "invalid_argument", "kind"},
		{"job parameter", "POST", jobs, `{"model":"fake/parrot","kind":"text","prompt":"x","params":{"top_p":"a"}}`, "", 400, "invalid_argument", "params.top_p"},
		{"job parameter range", "POST", jobs, `{"model":"fake/parrot","kind":"text","prompt":"x","params":{"max_tokens":0}}`, "", 400, "invalid_argument", "params.max_tokens"},
		{"job of another tenant", "POST", jobs, `{"model":"fake/parrot","kind":"text","prompt":"x","tenant":"b"}`, "", 403, "permission_denied", "tenant"},
		{"job model", "POST", jobs, `{"model":"nope","kind":"text","prompt":"x"}`, "", 404, "model_not_found", ""},
		{"prefer", "POST", jobs, `{}`, "Prefer: wait=x", 400, "invalid_argument", "Prefer"},
		{"unknown job", "GET", "/v1/jobs/nope", "", "", 404, "not_found", ""},
		{"cancel of an unknown job", "DELETE", "/v1/jobs/nope", "", "", 404, "not_found", ""},
		{"events of an unknown job", "GET", "/v1/jobs/nope/events", "", "", 404, "not_found", ""},
		{"last event id", "GET", "/v1/jobs/nope/events", "", "Last-Event-ID: x", 400, "invalid_argument", "Last-Event-ID"},
		{"after", "GET", "/v1/jobs/nope/events?after=-7", "", "", 400, "invalid_argument", "after"},
		{"long id", "GET", "/v1/jobs/" + strings.Repeat("x", 200), "", "", 404, "not_found", ""},
		{"state", "GET", "/v1/jobs?state=odd", "", "", 400, "invalid_argument", "state"},
		{"class", "GET", "/v1/jobs?class=p7", "", "", 400, "invalid_argument", "class"},
		{"limit", "GET", "/v1/jobs?limit=0", "", "", 400, "invalid_argument", "limit"},
		{"model by id", "GET", "/v1/models/nope", "", "", 404, "model_not_found", "model"},
		{"model without a worker", "GET", "/v1/models/asleep", "", "", 404, "model_not_found", "model"},
		{"metrics", "GET", "/metrics", "", "", 404, "not_found", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var headers []string
			if c.header != "" {
				headers = append(headers, c.header)
			}
			r := d.do(c.method, c.path, c.body, headers...)
			e, _ := r.json(t)["error"].(map[string]any)
			param := any(nil)
			if c.param != "" {
				param = c.param
			}
			if r.status != c.status || e["code"] != c.code || e["param"] != param {
				t.Errorf("%s %s %.80s: got %d %s, want %d, code %s, param %v", c.method, c.path, c.body, r.status, r.text, c.status, c.code, param)
			}
			if keys := slices.Sorted(maps.Keys(e)); !slices.Equal(keys, []string{"code", "message", "param", "type"}) || e["message"] == "" {
				t.Errorf("error object has %v: %s", keys, r.text)
			}
			if r.header.Get("X-Should-Retry") == "" || r.header.Get("X-Request-Id") == "" {
				t.Errorf("headers lack x-should-retry or x-request-id: %v", r.header)
			}
		})
	}
}

// labels are the members of an object with so many labels.
func labels(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"l%d":"x"`, i)
	}
	return strings.Join(all, ",")
}

// TestHugeBodies: chunked bodies are bounded too, and a client that writes all of a huge body before it
// reads gets the answer.
func TestHugeBodies(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	for name, body := range map[string]io.Reader{"chunked": io.LimitReader(zeros{}, 100<<20), "announced": bytes.NewReader(make([]byte, 30<<20))} {
		resp, err := http.Post(d.url+"/v1/chat/completions", "application/json", body)
		if err != nil {
			t.Fatalf("%s: a huge body must be answered: %v", name, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("%s: got %d, want 413", name, resp.StatusCode)
		}
	}
}

// TestSlowBodies: a body that does not arrive is given up, whether a handler wants it or not.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, _ *fakeFleet) { c.ReadTime = 50 * time.Millisecond })
	for head, want := range map[string]int{
		"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json": 408,
		"POST /v1/jobs HTTP/1.1\r\nContent-Type: text/plain":                   415,
		"POST /nope HTTP/1.1": 404,
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, head+"\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%q: got %v, %v, want %d", head, resp, err, want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestLeavingCancels: a client that leaves a completion cancels its job, streamed or not, one that
// gave an Idempotency-Key does not.
func TestLeavingCancels(t *testing.T) {
	t.Parallel()
	for _, stream := range []bool{true, false} {
		t.Run(fmt.Sprint("stream ", stream), func(t *testing.T) {
			t.Parallel()
			submitted := make(chan string, 1)
			d := open(t, func(_ *gateway.Config, f *fakeFleet) {
				f.hold = make(chan struct{})
				f.refuse = func(j *contracts.Job) error { submitted <- j.ID; return nil }
			})
			ctx, leave := context.WithCancel(t.Context())
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				req, _ := http.NewRequestWithContext(ctx, "POST", d.url+"/v1/chat/completions", strings.NewReader(chatBody+fmt.Sprintf(`,"stream":%t}`, stream)))
				req.Header.Set("Content-Type", "application/json")
				if resp, err := http.DefaultClient.Do(req); err == nil {
					_ = resp.Body.Close()
				}
			}()
			id := <-submitted
			leave()
			if got := <-d.fleet.canceled; got != id {
				t.Errorf("canceled %s, want %s", got, id)
			}
			<-gone
		})
	}
}

// TestHalfClosed: a client that closes its sending side is told what that means, and its job is canceled.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	d := open(t, func(_ *gateway.Config, f *fakeFleet) { f.hold = make(chan struct{}) })
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	body := chatBody + "}"
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if text := string(answer); err != nil || !strings.HasPrefix(text, "HTTP/1.1 499 ") || !strings.Contains(text, "its sending side") || !strings.Contains(text, "POST /v1/jobs") {
		t.Errorf("%v, %q, want 499 that says why", err, text)
	}
	<-d.fleet.canceled
}

func TestLeavingAfterSomeChunks(t *testing.T) {
	t.Parallel()
	d := open(t, func(_ *gateway.Config, f *fakeFleet) { f.pace = time.Millisecond })
	ctx, leave := context.WithCancel(t.Context())
	resp := d.send(ctx, "POST", "/v1/completions", `{"model":"fake/parrot","prompt":["a","b"],"max_tokens":1900,"stream":true}`)
	defer func() { _ = resp.Body.Close() }()
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	leave()
	got := []string{<-d.fleet.canceled, <-d.fleet.canceled}
	want := strings.Split(resp.Header.Get("X-Pelton-Job"), ",")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("canceled %v, want %v", got, want)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	body := chatBody + `}`
	one := d.do("POST", "/v1/chat/completions", body, "Idempotency-Key: k1")
	two := d.do("POST", "/v1/chat/completions", body, "Idempotency-Key: k1")
	other := d.do("POST", "/v1/chat/completions", body, "Idempotency-Key: k2")
	id := one.header.Get("X-Pelton-Job")
	if one.status != 200 || two.status != 200 || two.header.Get("X-Pelton-Job") != id || one.json(t)["choices"].([]any)[0].(map[string]any)["message"] == nil {
		t.Errorf("the same key gave %s %s, then %s %s", id, one.text, two.header.Get("X-Pelton-Job"), two.text)
	}
	if diff := cmp.Diff(one.json(t)["choices"], two.json(t)["choices"]); diff != "" {
		t.Error(diff)
	}
	if other.header.Get("X-Pelton-Job") == id {
		t.Errorf("another key gave the same job %s", id)
	}
	changed := d.do("POST", "/v1/chat/completions", chatBody+`,"temperature":0.5}`, "Idempotency-Key: k1")
	if changed.status != 409 || changed.header.Get("X-Should-Retry") != "false" {
		t.Errorf("the same key with another body gave %d %s, want 409", changed.status, changed.text)
	}
}

// TestFailures: a job that fails before its first byte has a status of its own; after it, the failure
// is the last event and [DONE] does not come.
func TestFailures(t *testing.T) {
	t.Parallel()
	failure := &contracts.Chunk{Finish: "error", Code: contracts.CodeOverloaded, Message: "no room", Usage: &contracts.Usage{}}
	piece := &contracts.Chunk{Tokens: []int32{1}, Text: "hi"}
	for _, c := range []struct {
		name   string
		chunks []any
		early  int // status when nothing was sent before
		code   string
	}{
		{"job", []any{failure}, 429, "overloaded"},
		{"stream", []any{errors.New("secret detail")}, 500, "internal"},
		{"panic", []any{"panic"}, 500, "internal"},
		{"cut", nil, 503, "unavailable"},
		{"odd choice", []any{&contracts.Chunk{Choice: 5, Text: "x"}}, 500, "internal"},
		{"negative choice", []any{&contracts.Chunk{Choice: -1, Text: "x"}}, 500, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, began := range []bool{false, true} {
				d := open(t, func(cfg *gateway.Config, f *fakeFleet) {
					chunks := c.chunks
					if began {
						chunks = append([]any{piece}, chunks...)
					}
					cfg.Jobs = scripted{f, chunks}
				})
				r := d.do("POST", "/v1/chat/completions", chatBody+`,"stream":true}`)
				if strings.Contains(r.text, "[DONE]") || strings.Contains(r.text, "secret") || strings.Contains(d.log.String(), "prompt text") || !strings.Contains(r.text, `"code":"`+c.code+`"`) {
					t.Errorf("began %t: got %s, want an error with code %s and no [DONE]", began, r.text, c.code)
				}
				if data := frames(t, r.text); began && (r.status != 200 || !strings.Contains(data[len(data)-1], `{"error":`)) || !began && r.status != c.early {
					t.Errorf("began %t: got %d %s, want status %d", began, r.status, r.text, c.early)
				}
				if whole := d.do("POST", "/v1/chat/completions", chatBody+`}`); whole.status != c.early || whole.header.Get("X-Should-Retry") != "true" {
					t.Errorf("not streamed: got %d %v %s, want %d", whole.status, whole.header, whole.text, c.early)
				}
			}
		})
	}
}

// scripted is a fleet whose streams are what the test says.
type scripted struct {
	*fakeFleet
	chunks []any
}

func (s scripted) Start(ctx context.Context, job *contracts.Job) (*contracts.Answer, iter.Seq2[*contracts.Chunk, error], error) {
	return &contracts.Answer{V: 1, Job: job.ID, Outcome: contracts.OutcomeAdmitted}, s.Stream(ctx, job.Tenant, job.ID, -1), nil
}

func (s scripted) Status(_ context.Context, tenant, job string) (contracts.Status, error) {
	return contracts.Status{Job: job, Tenant: tenant, State: contracts.StateRunning}, nil
}

func (s scripted) Stream(context.Context, string, string, int) iter.Seq2[*contracts.Chunk, error] {
	return func(yield func(*contracts.Chunk, error) bool) {
		for _, c := range s.chunks {
			if err, ok := c.(error); ok {
				yield(nil, err)
				return
			}
			if c == "panic" {
				panic("prompt text")
			}
			if !yield(c.(*contracts.Chunk), nil) {
				return
			}
		}
	}
}

func TestRetryHeaders(t *testing.T) {
	t.Parallel()
	d := open(t, func(_ *gateway.Config, f *fakeFleet) {
		f.refuse = func(*contracts.Job) error {
			return &contracts.Error{Code: contracts.CodeOverloaded, Message: "shed", RetryAfterMS: 1500}
		}
	})
	r := d.do("POST", "/v1/chat/completions", chatBody+`}`)
	if h := r.header; r.status != 429 || h.Get("Retry-After") != "2" || h.Get("Retry-After-Ms") != "1500" || h.Get("X-Should-Retry") != "true" {
		t.Errorf("got %d %v", r.status, r.header)
	}
}

// TestRetryWithKey: a request with a key that would find the same ended job again is not to be repeated; one whose
// job may go on is.
func TestRetryWithKey(t *testing.T) {
	t.Parallel()
	ended := &contracts.Chunk{Finish: "error", Code: contracts.CodeOverloaded, Message: "evicted", Usage: &contracts.Usage{}}
	for _, c := range []struct {
		chunk     any
		key, want string
	}{
		{ended, "", "true"}, {ended, "k", "false"}, {contracts.Errorf(contracts.CodeUnavailable, "broker away"), "k", "true"},
	} {
		for _, streamed := range []bool{false, true} {
			d := open(t, func(cfg *gateway.Config, f *fakeFleet) { cfg.Jobs = scripted{f, []any{c.chunk}} })
			r := d.do("POST", "/v1/chat/completions", chatBody+fmt.Sprintf(`,"stream":%t}`, streamed), "Idempotency-Key: "+c.key)
			if r.header.Get("X-Should-Retry") != c.want || (r.header.Get("Retry-After") != "") != (c.want == "true") || r.status < 400 {
				t.Errorf("key %q, streamed %t: got %d %v, want x-should-retry %s", c.key, streamed, r.status, r.header, c.want)
			}
		}
	}
}

func TestInFlightBound(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 1)
	d := open(t, func(c *gateway.Config, f *fakeFleet) {
		c.MaxInFlight = 1
		f.hold = make(chan struct{})
		f.refuse = func(*contracts.Job) error { arrived <- struct{}{}; return nil }
	})
	first := make(chan reply)
	go func() { first <- d.do("POST", "/v1/chat/completions", chatBody+`}`) }()
	<-arrived
	if r := d.do("POST", "/v1/chat/completions", chatBody+`}`); r.status != 429 || r.header.Get("Retry-After-Ms") != "1000" {
		t.Errorf("got %d %v, want 429", r.status, r.header)
	}
	if r := d.do("GET", "/livez", ""); r.status != 200 {
		t.Errorf("livez got %d while full, want 200", r.status)
	}
	close(d.fleet.hold)
	if r := <-first; r.status != 200 {
		t.Errorf("the first request got %d, want 200", r.status)
	}
}

func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, _ *fakeFleet) {
		c.Ready = func() error { panic("secret prompt") }
	})
	if r := d.do("GET", "/readyz", ""); r.status != 500 || strings.Contains(r.text, "secret") || strings.Contains(d.log.String(), "prompt text") || strings.Contains(d.log.String(), "secret") {
		t.Errorf("got %d %s, log %s", r.status, r.text, d.log)
	}
}

// TestNoModels: before any model is known a completion is refused at once; a job waits or is refused by
// the dispatcher.
func TestNoModels(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, _ *fakeFleet) { c.Models = func() []admission.ModelStatus { return nil } })
	if r := d.do("POST", "/v1/chat/completions", chatBody+`}`); r.status != 503 || r.header.Get("X-Should-Retry") != "true" {
		t.Errorf("got %d %s, want 503", r.status, r.text)
	}
	if r := d.do("GET", "/v1/models", ""); strings.TrimSpace(r.text) != `{"object":"list","data":[]}` {
		t.Errorf("models list as %s", r.text)
	}
	if r := d.do("POST", "/v1/jobs", `{"model":"fake/parrot","kind":"text","prompt":"x"}`); r.status != 202 {
		t.Errorf("a job got %d %s, want 202", r.status, r.text)
	}
}

// flood is a fleet whose jobs say a lot; gone is closed when nobody reads one any longer.
type flood struct {
	*fakeFleet
	gone chan struct{}
}

func (f flood) Start(_ context.Context, job *contracts.Job) (*contracts.Answer, iter.Seq2[*contracts.Chunk, error], error) {
	return &contracts.Answer{V: 1, Job: job.ID, Outcome: contracts.OutcomeAdmitted}, func(yield func(*contracts.Chunk, error) bool) {
		defer close(f.gone)
		c := &contracts.Chunk{Tokens: []int32{1}, Text: strings.Repeat("x", 1<<20)}
		for yield(c, nil) {
		}
	}, nil
}

// TestReaderThatStopsReading is let go after the time of one write.
func TestReaderThatStopsReading(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	d := open(t, func(c *gateway.Config, f *fakeFleet) {
		c.Jobs, c.WriteTime = flood{f, gone}, 50*time.Millisecond
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	body := chatBody + `,"stream":true}`
	_, _ = fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	<-gone
}
