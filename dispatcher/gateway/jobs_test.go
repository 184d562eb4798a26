package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

const jobBody = `{"job":"j1","model":"fake/parrot","kind":"chat","messages":[{"role":"user","content":"hello"}],"params":{"max_tokens":8,"seed":5}`

func TestSubmitJob(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	r := d.do("POST", "/v1/jobs", jobBody+`,"class":"p3","labels":{"a":"b"}}`, "X-Pelton-Class: p0", "X-Pelton-Deadline: 1h", "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	want := map[string]any{"v": 1., "job": "j1", "outcome": "admitted", "live": "live.default.j1"}
	if diff := cmp.Diff(want, r.json(t)); r.status != 202 || diff != "" || r.header.Get("Location") != "/v1/jobs/j1" || r.header.Get("X-Pelton-Job") != "j1" {
		t.Errorf("got %d %v %s", r.status, r.header, diff)
	}
	j := d.fleet.job(t, "default", "j1")
	if j.Class != contracts.P0 || j.Labels["a"] != "b" || j.Labels["traceparent"] == "" || j.Submitted == 0 {
		t.Errorf("submitted %+v, want class p0 and its labels", j)
	}
	if in := time.Until(time.UnixMilli(j.Deadline)); in < 59*time.Minute || in > time.Hour {
		t.Errorf("deadline in %s, want an hour", in)
	}
	if again := d.do("POST", "/v1/jobs", jobBody+`}`); again.status != 202 {
		t.Errorf("the same job again got %d %s, want 202", again.status, again.text)
	}
	if other := d.do("POST", "/v1/jobs", strings.Replace(jobBody, "hello", "bye", 1)+`}`); other.status != 409 {
		t.Errorf("another job under the id got %d %s, want 409", other.status, other.text)
	}
	odd := d.do("POST", "/v1/jobs", strings.Replace(jobBody, "j1", `j\u0000`, 1)+`}`) // no header can carry it
	if odd.status != 202 || odd.header.Get("X-Pelton-Job") != "" || odd.header.Get("Location") != "/v1/jobs/j%00" || odd.json(t)["job"] != "j\x00" {
		t.Errorf("an odd id got %d %v %s", odd.status, odd.header, odd.text)
	}
}

func TestPreferWait(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	r := d.do("POST", "/v1/jobs", jobBody+`}`, "Prefer: respond-async, wait=60")
	got := r.json(t)
	choice, _ := got["choices"].([]any)[0].(map[string]any)
	if r.status != 200 || got["state"] != "completed" || got["finish"] != "length" || got["worker"] != "w1" || choice["text"] != said(d, "j1", 0) || len(choice["tokens"].([]any)) != 8 || choice["finish"] != "length" {
		t.Errorf("got %d %s", r.status, r.text)
	}
	held := open(t, func(_ *gateway.Config, f *fakeFleet) { f.hold = make(chan struct{}) })
	defer close(held.fleet.hold)
	if r := held.do("POST", "/v1/jobs", jobBody+`}`, "Prefer: wait=1"); r.status != 202 || r.json(t)["job"] != "j1" {
		t.Errorf("a job that is not finished in time got %d %s, want 202", r.status, r.text)
	}
}

// event is what a reader of /events sees.
type event struct {
	id    string
	chunk contracts.Chunk
}

func readEvents(t *testing.T, stream string) []event {
	t.Helper()
	var out []event
	id := ""
	for line := range strings.SplitSeq(stream, "\n") {
		if v, ok := strings.CutPrefix(line, "id: "); ok {
			id = v
		}
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			e := event{id: id}
			if err := json.Unmarshal([]byte(v), &e.chunk); err != nil {
				t.Fatalf("%s: %v", v, err)
			}
			out = append(out, e)
		}
	}
	return out
}

func TestEventsResumeAnywhere(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	d.do("POST", "/v1/jobs", jobBody+`}`)
	whole := d.do("GET", "/v1/jobs/j1/events", "")
	if whole.status != 200 || whole.header.Get("Content-Type") != "text/event-stream" || strings.Contains(whole.text, "[DONE]") {
		t.Fatalf("got %d %v %s", whole.status, whole.header, whole.text)
	}
	all := readEvents(t, whole.text)
	if len(all) != 9 {
		t.Fatalf("got %d events, want 8 pieces and the final one: %s", len(all), whole.text)
	}
	for i, e := range all {
		if e.id != strconv.Itoa(i) || e.chunk.Index != i || e.chunk.Final() != (i == 8) || e.chunk.IsClaim() {
			t.Errorf("event %d has id %s, index %d, final %t, claim %t", i, e.id, e.chunk.Index, e.chunk.Final(), e.chunk.IsClaim())
		}
	}
	for at := range 8 {
		for _, r := range []reply{d.do("GET", "/v1/jobs/j1/events", "", "Last-Event-ID: "+strconv.Itoa(at)), d.do("GET", fmt.Sprintf("/v1/jobs/j1/events?after=%d", at), "")} {
			if diff := cmp.Diff(all[at+1:], readEvents(t, r.text), cmp.AllowUnexported(event{})); diff != "" {
				t.Errorf("after %d: %s", at, diff)
			}
		}
	}
	if r := d.do("GET", "/v1/jobs/j1/events", "", "Last-Event-ID: 8"); r.status != 204 || r.text != "" {
		t.Errorf("a reader that saw the final event got %d %q, want 204", r.status, r.text)
	}
}

// TestEventsOfAQueuedJob: the stream opens at once, comments keep it alive, leaving it does not cancel
// the job unless the job says so.
func TestEventsOfAQueuedJob(t *testing.T) {
	t.Parallel()
	for _, cancels := range []bool{false, true} {
		t.Run(fmt.Sprint("cancel_on_leave ", cancels), func(t *testing.T) {
			t.Parallel()
			d := open(t, func(c *gateway.Config, f *fakeFleet) {
				c.KeepAlive = time.Millisecond
				f.hold = make(chan struct{})
			})
			d.do("POST", "/v1/jobs", jobBody+fmt.Sprintf(`,"cancel_on_leave":%t}`, cancels))
			if r := d.do("HEAD", "/v1/jobs/j1/events", ""); r.status != 200 || r.header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("HEAD: %d %v", r.status, r.header) // it reads nothing, so nobody leaves
			}
			ctx, leave := context.WithCancel(t.Context())
			resp := d.send(ctx, "GET", "/v1/jobs/j1/events", "")
			line, err := bufio.NewReader(resp.Body).ReadString('\n')
			if err != nil || line != ": keep-alive\n" {
				t.Errorf("first line = %q, %v, want a comment", line, err)
			}
			leave()
			_ = resp.Body.Close()
			if cancels {
				if got := <-d.fleet.canceled; got != "j1" {
					t.Errorf("canceled %s, want j1", got)
				}
				return
			}
			close(d.fleet.hold)
			if r := d.do("GET", "/v1/jobs/j1/events", ""); !strings.Contains(r.text, `"finish":"length"`) {
				t.Errorf("the job did not finish: %s", r.text)
			}
		})
	}
}

func TestEventsError(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, f *fakeFleet) {
		c.Jobs = scripted{f, []any{&contracts.Chunk{Text: "a"}, contracts.Errorf(contracts.CodeUnavailable, "broker away")}}
	})
	r := d.do("GET", "/v1/jobs/j/events", "")
	if !strings.Contains(r.text, "event: error\ndata: {\"error\":{\"message\":\"broker away\"") {
		t.Errorf("got %s, want an error event", r.text)
	}
}

func TestCancelAndShow(t *testing.T) {
	t.Parallel()
	d := open(t, func(_ *gateway.Config, f *fakeFleet) { f.hold = make(chan struct{}) })
	d.do("POST", "/v1/jobs", jobBody+`}`)
	if got := d.do("GET", "/v1/jobs/j1", "").json(t)["state"]; got != "queued" && got != "running" {
		t.Errorf("state = %v, want queued", got)
	}
	for range 2 {
		r := d.do("DELETE", "/v1/jobs/j1", "")
		if got := r.json(t); r.status != 200 || got["state"] != "canceled" || got["finish"] != "cancelled" || got["code"] != "canceled" {
			t.Errorf("cancel got %d %s", r.status, r.text)
		}
	}
	if r := d.do("POST", "/v1/jobs", jobBody+`}`, "Prefer: wait"); r.status != 200 || r.json(t)["code"] != "canceled" {
		t.Errorf("waiting for a canceled job got %d %s, want its state", r.status, r.text)
	}
	odd := strings.Replace(jobBody, "j1", "a/b c", 1) + `}`
	if r := d.do("POST", "/v1/jobs", odd); r.status != 202 || r.header.Get("Location") != "/v1/jobs/a%2Fb%20c" {
		t.Fatalf("got %d %v", r.status, r.header)
	}
	if r := d.do("GET", "/v1/jobs/a%2Fb%20c", ""); r.status != 200 || r.json(t)["job"] != "a/b c" {
		t.Errorf("an id with a slash got %d %s", r.status, r.text)
	}
}

func TestListJobs(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	if r := d.do("GET", "/v1/jobs", ""); strings.TrimSpace(r.text) != `{"object":"list","data":[]}` {
		t.Errorf("no jobs list as %s", r.text)
	}
	for i := range 5 {
		d.do("POST", "/v1/jobs", strings.Replace(jobBody, "j1", fmt.Sprint("j", i), 1)+fmt.Sprintf(`,"class":"p%d"}`, i%4), "Prefer: wait")
	}
	for query, want := range map[string]int{"": 5, "?limit=2": 2, "?class=p0": 2, "?state=completed&class=p1": 1, "?state=failed": 0, "?tenant=default": 5, "?tenant=other": 0} {
		data, _ := d.do("GET", "/v1/jobs"+query, "").json(t)["data"].([]any)
		if len(data) != want {
			t.Errorf("GET /v1/jobs%s lists %d jobs, want %d", query, len(data), want)
		}
	}
}

// TestTenants: where callers are known, nobody sees or cancels another tenant's jobs.
func TestTenants(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, _ *fakeFleet) {
		c.Tenant = func(r *http.Request) (string, error) {
			who := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			if who == "" {
				return "", contracts.Errorf(contracts.CodeUnauthenticated, "send a bearer token")
			}
			return who, nil
		}
	})
	if r := d.do("POST", "/v1/jobs", jobBody+`}`, "Authorization: Bearer ann", "Prefer: wait"); r.status != 200 || r.json(t)["tenant"] != "ann" {
		t.Fatalf("got %d %s", r.status, r.text)
	}
	for _, c := range []struct {
		method, path, who string
		want              int
	}{
		{"GET", "/v1/jobs/j1", "ann", 200}, {"GET", "/v1/jobs/j1", "bob", 404}, {"GET", "/v1/jobs/j1?tenant=ann", "bob", 403}, {"GET", "/v1/jobs/j1", "", 401},
		{"DELETE", "/v1/jobs/j1", "bob", 404}, {"GET", "/v1/jobs/j1/events", "bob", 404}, {"GET", "/v1/jobs?tenant=ann", "bob", 403}, {"GET", "/v1/jobs", "", 401},
		{"POST", "/v1/chat/completions", "", 401}, {"GET", "/livez", "", 200},
	} {
		var headers []string
		if c.who != "" {
			headers = append(headers, "Authorization: Bearer "+c.who)
		}
		if r := d.do(c.method, c.path, "", headers...); r.status != c.want {
			t.Errorf("%s %s as %q got %d %s, want %d", c.method, c.path, c.who, r.status, r.text, c.want)
		}
	}
	if r := d.do("GET", "/v1/jobs", "", "Authorization: Bearer bob"); len(r.json(t)["data"].([]any)) != 0 {
		t.Errorf("bob sees %s", r.text)
	}
}

func TestHealthAndModels(t *testing.T) {
	t.Parallel()
	var down error
	d := open(t, func(c *gateway.Config, _ *fakeFleet) {
		c.Ready = func() error { return down }
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x 1\n")) })
	})
	for path, want := range map[string]string{
		"/livez": `{"status":"ok"}`, "/readyz": `{"status":"ok"}`, "/health": `{"status":"ok"}`, "/version": `{"protocol":1,"version":"test"}`, "/metrics": "x 1",
		"/v1/models":             `{"object":"list","data":[{"id":"fake/parrot","object":"model","created":1700000000,"owned_by":"pelton","max_model_len":2048}]}`,
		"/v1/models/fake/parrot": `{"id":"fake/parrot","object":"model","created":1700000000,"owned_by":"pelton","max_model_len":2048}`,
		"/v1/models/parrot":      `{"id":"fake/parrot","object":"model","created":1700000000,"owned_by":"pelton","max_model_len":2048}`,
	} {
		if r := d.do("GET", path, ""); r.status != 200 || strings.TrimSpace(r.text) != want {
			t.Errorf("GET %s = %d %s, want %s", path, r.status, r.text, want)
		}
		if r := d.do("HEAD", path, ""); r.status != 200 || r.text != "" {
			t.Errorf("HEAD %s = %d %q", path, r.status, r.text)
		}
	}
	down = contracts.Errorf(contracts.CodeUnavailable, "no worker has joined yet")
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503, "/health": 503} {
		if r := d.do("GET", path, ""); r.status != want {
			t.Errorf("GET %s while not ready = %d %s, want %d", path, r.status, r.text, want)
		}
	}
}

// beside are the paths that ops/node adds.
var beside = map[string]gateway.Value{"/v1/workers": nothing, "/v1/queues": nothing, "/v1/load": nothing}

func nothing(context.Context) (any, error) {
	return nil, contracts.Errorf(contracts.CodeUnavailable, "not now")
}

// TestBeside: paths beside the gateway's own fail as its own do.
func TestBeside(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, _ *fakeFleet) { c.Beside = beside })
	r := d.do("GET", "/v1/queues", "")
	if r.status != 503 || r.header.Get("Retry-After") == "" || r.header.Get("X-Request-Id") == "" || !strings.Contains(r.text, `"code":"unavailable"`) {
		t.Errorf("%d %v %s", r.status, r.header, r.text)
	}
}

// settable is a fleet whose queues can be set.
type settable struct {
	*fakeFleet
	set []string
}

// SetQueues implements gateway.Queues.
func (s *settable) SetQueues(_ context.Context, model string, state contracts.QueueState) ([]string, error) {
	if model == "nope" {
		return nil, contracts.Errorf(contracts.CodeModelNotFound, "no such model")
	}
	s.set = append(s.set, model+":"+string(state))
	return []string{"m"}, nil
}

// TestSetQueues: operators set the queue of a model, or all; an empty name is a mistake, not all.
func TestSetQueues(t *testing.T) {
	t.Parallel()
	var s *settable
	d := open(t, func(c *gateway.Config, f *fakeFleet) {
		s = &settable{fakeFleet: f}
		c.Jobs = s
	})
	for path, want := range map[string]int{"pause?model=m": 200, "resume": 200, "drain?model=a%2Fb": 200, "pause?model=": 400, "pause?model=nope": 404} {
		if r := d.do("POST", "/v1/queues/"+path, ""); r.status != want {
			t.Errorf("%s: %d %s, want %d", path, r.status, r.text, want)
		}
	}
	slices.Sort(s.set)
	if want := []string{":open", "a/b:draining", "m:paused"}; !slices.Equal(s.set, want) {
		t.Errorf("set %v, want %v", s.set, want)
	}
	if r := d.do("POST", "/v1/queues/pause", ""); strings.TrimSpace(r.text) != `{"object":"list","data":[{"model":"m","state":"paused"}]}` {
		t.Errorf("answered %s", r.text)
	}
	if r := d.do("GET", "/v1/queues/pause", ""); r.status != 405 {
		t.Errorf("GET: %d", r.status)
	}
	if r := d.do("POST", "/v1/queues/pause", "", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"); r.status != 403 {
		t.Errorf("from a page of another origin: %d", r.status)
	}
}

// drainable is a fleet of one worker, named w/1.
type drainable struct {
	*fakeFleet
	grace time.Duration // of the last drain
}

// DrainWorker implements gateway.Workers.
func (d *drainable) DrainWorker(_ context.Context, worker string, grace time.Duration) (contracts.Heartbeat, error) {
	if worker != "w/1" {
		return contracts.Heartbeat{}, contracts.Errorf(contracts.CodeNotFound, "no live worker %q", worker)
	}
	d.grace = grace
	return contracts.Heartbeat{Worker: worker, State: contracts.WorkerDraining}, nil
}

// TestDrainWorker: an operator's drain reaches the worker that it names, with a grace that is in bounds.
func TestDrainWorker(t *testing.T) {
	t.Parallel()
	var f *drainable
	d := open(t, func(c *gateway.Config, fake *fakeFleet) {
		f = &drainable{fakeFleet: fake}
		c.Jobs = f
	})
	for _, tt := range []struct {
		path   string
		status int
		grace  time.Duration
	}{
		{"w%2F1/drain", 200, 30 * time.Second}, {"w%2F1/drain?grace=0s", 200, 0}, {"w%2F1/drain?grace=24h", 200, 24 * time.Hour},
		{"w%2F1/drain?grace=25h", 400, -1}, {"w%2F1/drain?grace=-1s", 400, -1}, {"w%2F1/drain?grace=soon", 400, -1}, {"nobody/drain", 404, -1},
	} {
		f.grace = -1
		r := d.do("POST", "/v1/workers/"+tt.path, "")
		if r.status != tt.status || f.grace != tt.grace {
			t.Errorf("%s: %d %s, grace %s; want %d, %s", tt.path, r.status, r.text, f.grace, tt.status, tt.grace)
		}
		if r.status == 200 && (r.json(t)["worker"] != "w/1" || r.json(t)["state"] != "draining") {
			t.Errorf("%s: %s", tt.path, r.text)
		}
	}
	if r := d.do("POST", "/v1/workers/w%2F1/drain", "", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"); r.status != 403 {
		t.Errorf("from a page of another origin: %d", r.status)
	}
}

// TestDescription: the embedded document and the routes name the same paths and methods.
func TestDescription(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, _ *fakeFleet) {
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		c.Beside = beside
	})
	doc := d.do("GET", "/openapi.json", "").json(t)
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi = %v, want 3.1.0", doc["openapi"])
	}
	paths := doc["paths"].(map[string]any)
	for path, item := range paths {
		var want []string
		for method, op := range item.(map[string]any) {
			want = append(want, strings.ToUpper(method))
			if op.(map[string]any)["operationId"] == nil {
				t.Errorf("%s %s has no operationId", method, path)
			}
		}
		r := d.do("OPTIONS", strings.ReplaceAll(path, "{id}", "x"), "")
		got := slices.DeleteFunc(strings.Split(r.header.Get("Allow"), ", "), func(m string) bool { return m == "HEAD" })
		slices.Sort(got)
		slices.Sort(want)
		if r.status != 405 || !slices.Equal(got, want) {
			t.Errorf("%s allows %v (status %d), the document says %v", path, got, r.status, want)
		}
	}
	if want := gateway.Paths() + len(beside); len(paths) != want {
		t.Errorf("the document has %d paths, the gateway %d", len(paths), want)
	}
	checkRefs(t, doc, doc)
}

// checkRefs follows every $ref.
func checkRefs(t *testing.T, doc map[string]any, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			checkRefs(t, doc, e)
		}
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			var at any = doc
			for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
				at, _ = at.(map[string]any)[part].(map[string]any)
			}
			if at.(map[string]any) == nil {
				t.Errorf("%s leads nowhere", ref)
			}
		}
		for _, e := range v {
			checkRefs(t, doc, e)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	_, err := gateway.New(gateway.Config{MaxBody: -1, KeepAlive: -1})
	for _, want := range []string{"Jobs is missing", "Models is missing", "MaxBody", "durations"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New says %v, want %q in it", err, want)
		}
	}
}
