package dispatcher_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// ask is send for requests that may be refused, from any goroutine.
func ask(t testing.TB, method, url, body string, headers ...string) (status int, job, text string) {
	req, err := http.NewRequestWithContext(testContext(t), method, url, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Pelton-Job"), string(data)
}

// said is the text of a completion, whole or streamed.
func said(t testing.TB, answer string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(answer), "\n") {
		line = strings.TrimPrefix(line, "data: ")
		if line == "" || line == "[DONE]" || strings.HasPrefix(line, "id: ") {
			continue
		}
		var c struct{ Choices []struct{ Text string } }
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Errorf("answer %q: %v", line, err)
			continue
		}
		for _, choice := range c.Choices {
			b.WriteString(choice.Text)
		}
	}
	return b.String()
}

// TestIdempotencyKeys: one key is one job at every dispatcher, whatever the job's state, streamed or whole.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	doors := []*door{openDoor(t, b), openDoor(t, b)}
	var all sync.WaitGroup
	const body = `{"model":"` + model + `","prompt":"abc","max_tokens":12`
	ids := make([]string, 50)
	for i := range ids { // queued, later running and finished ones among them
		all.Go(func() {
			status, job, answer := ask(t, "POST", doors[i%2].url+"/v1/completions", fmt.Sprintf(`%s,"stream":%t}`, body, i%3 == 0), "Idempotency-Key: one key, \"odd\" ~ é")
			if text := said(t, answer); status != 200 || text != expected("abc", 12) {
				t.Errorf("answer %d: %d %q", i, status, text)
			}
			ids[i] = job
		})
		if i == len(ids)/2 {
			startWorker(t, b.Conn(), "w", nil)
		}
	}
	all.Wait()
	for i, job := range ids {
		if job != ids[0] {
			t.Errorf("answer %d is of job %q, the first of %q", i, job, ids[0])
		}
	}
	oneFinal(t, b.Conn(), ids[0])
	for _, c := range []struct {
		name, key, body string
		status          int
	}{
		{"finished", "one key, \"odd\" ~ é", body + "}", 200},
		{"another body", "one key, \"odd\" ~ é", body + `,"temperature":0.5}`, 409},
		{"longest", strings.Repeat("k", 256), body + "}", 200},
		{"too long", strings.Repeat("k", 257), body + "}", 400},
	} {
		status, job, answer := ask(t, "POST", doors[1].url+"/v1/completions", c.body, "Idempotency-Key: "+c.key)
		if status != c.status || c.name == "finished" && (job != ids[0] || said(t, answer) != expected("abc", 12)) {
			t.Errorf("%s: %d %s %s", c.name, status, job, answer)
		}
	}
}

// TestAnswerIsThereAlready: who asks again for what was answered gets it, also when the request would be refused now:
// for a quota, or because its deadline has passed.
func TestAnswerIsThereAlready(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	cfg := testConfig(b.Conn())
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: {Requests: 1}}
	d, _ := startDispatcher(t, cfg)
	startWorker(t, b.Conn(), "w", nil)
	ctx := testContext(t)
	for i, deadline := range []int64{0, 0, time.Now().Add(-time.Hour).UnixMilli()} {
		job := textJob("j", "abc")
		job.Deadline = deadline
		_, chunks, err := d.Start(ctx, job)
		if err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
		if text, _ := read(t, "the answer", chunks); text != expected("abc", 16) {
			t.Errorf("time %d: %q", i, text)
		}
	}
	_, _, err := d.Start(ctx, textJob("new", "abc"))
	wantCode(t, err, contracts.CodeQuotaExceeded, "retry")
	_, _, err = d.Start(ctx, textJob("j", "xyz"))
	wantCode(t, err, contracts.CodeConflict, "choose a new id")

	door := openDoor(t, b)
	const body = `{"model":"` + model + `","prompt":"abc","max_tokens":12}`
	for i, deadline := range []string{"1h", "2020-01-01T00:00:00Z"} {
		status, _, answer := ask(t, "POST", door.url+"/v1/completions", body, "Idempotency-Key: k", "X-Pelton-Deadline: "+deadline)
		if status != 200 || said(t, answer) != expected("abc", 12) {
			t.Errorf("over HTTP, time %d: %d %s", i, status, answer)
		}
	}
}

// TestJobsByKeyWhileScheduled also reads not_before, and the dead letters, over HTTP.
func TestJobsByKeyWhileScheduled(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	doors := []*door{openDoor(t, b), openDoor(t, b)}
	body := fmt.Sprintf(`{"model":%q,"kind":"text","prompt":"abc","not_before":%d}`, model, time.Now().Add(time.Hour).UnixMilli())
	var id string
	for i := range 4 {
		status, job, answer := ask(t, "POST", doors[i%2].url+"/v1/jobs", body, "Idempotency-Key: k")
		if status != 202 || !strings.Contains(answer, `"outcome":"held"`) || i > 0 && job != id {
			t.Errorf("submit %d: %d %s %s", i, status, job, answer)
		}
		id = job
	}
	if status, _, answer := ask(t, "POST", doors[1].url+"/v1/jobs", strings.Replace(body, "abc", "xyz", 1), "Idempotency-Key: k"); status != 409 {
		t.Errorf("another body: %d %s", status, answer)
	}
	if n := stored(t, b, topology.StreamSched); n != 1 {
		t.Errorf("%d jobs are scheduled, want 1", n)
	}
	if status, _, answer := ask(t, "DELETE", doors[1].url+"/v1/jobs/"+id, ""); status != 200 || !strings.Contains(answer, string(contracts.StateCanceled)) {
		t.Errorf("cancel: %d %s", status, answer)
	}
	oneFinal(t, b.Conn(), id)
}

// TestDeadLettersOverHTTP: the prompt is shown only when it is asked for.
func TestDeadLettersOverHTTP(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	d := openDoor(t, b)
	for i, job := range []string{"j", "k"} {
		if _, err := d.Submit(testContext(t), textJob(job, "abc")); err != nil {
			t.Fatal(err)
		}
		giveUp(t, b, uint64(i+1))
		read(t, job, d.Stream(testContext(t), tenant, job, -1))
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		has, hasNot        string
	}{
		{"GET", "", "", 200, `"job":"k"`, "payload"},
		{"GET", "?limit=1", "", 200, `"job":"k"`, `"job":"j"`},
		{"GET", "?limit=0", "", 400, "limit", "data"},
		{"GET", "?tenant=other", "", 403, "tenant", "data"},
		{"GET", "/j", "", 200, "given up", "payload"},
		{"GET", "/j?payload=true", "", 200, `"tokens":[97,98,99]`, "error"},
		{"GET", "/none", "", 404, "not_found", "history"},
		{"POST", "/j/retry", `{"job":"k"}`, 202, `"job":"k"`, "error"}, // the same request: it is that job
		{"POST", "/j/retry", "", 404, "only jobs that were given up", "outcome"},
		{"POST", "/k/retry", `{"job":5}`, 400, "job", "outcome"},
		{"POST", "/k/retry", "", 202, `"job":"k.retry1"`, "error"},
		{"DELETE", "/k", "", 404, "not_found", "outcome"},
	} {
		status, _, answer := ask(t, c.method, d.url+"/v1/dlq"+c.path, c.body)
		if status != c.status || !strings.Contains(answer, c.has) || strings.Contains(answer, c.hasNot) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, status, answer)
		}
	}
}
