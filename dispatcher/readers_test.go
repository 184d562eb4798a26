package dispatcher_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

// door is a dispatcher with its HTTP door.
type door struct {
	*dispatcher.Dispatcher
	url  string
	kill func() // cuts all connections and ends the dispatcher
}

func openDoor(t testing.TB, b *contractstest.Broker) *door {
	t.Helper()
	d, stop := startDispatcher(t, testConfig(b.Conn()))
	h, err := gateway.New(gateway.Config{Jobs: d, Models: func() []admission.ModelStatus { return []admission.ModelStatus{{Name: model, Workers: 1}} },
		Tenant: func(*http.Request) (string, error) { return tenant, nil }})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(c net.Conn, state http.ConnState) { // so that little hides in the system
		if tcp, ok := c.(*net.TCPConn); ok && state == http.StateNew {
			_ = tcp.SetWriteBuffer(4 << 10)
		}
	}
	s.Start()
	kill := sync.OnceFunc(func() { s.CloseClientConnections(); stop(); s.Close() })
	t.Cleanup(kill)
	return &door{d, s.URL, kill}
}

func send(t testing.TB, method, url, body string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(testContext(t), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode > 299 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s %s", method, url, resp.Status, text)
	}
	return resp
}

// follow reads events until the stream ends or visit, called with each event's id and data, returns
// false. It returns the last id.
func follow(resp *http.Response, id string, visit func(id, data string) bool) (last string) {
	last, _ = followed(resp, id, visit)
	return last
}

// followed is follow that tells too what the events ended with: an error event, or what is wrong with the connection.
func followed(resp *http.Response, id string, visit func(id, data string) bool) (last, why string) {
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	next := id
	failed := false
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			next = value
		case "event":
			failed = value == "error"
		case "data":
			if failed || strings.HasPrefix(value, `{"error"`) {
				return id, value
			}
			if id = next; !visit(id, value) {
				return id, ""
			}
		}
	}
	return id, fmt.Sprint(lines.Err())
}

// TestReadersChangeDispatcher: the dispatcher dies while clients read from it; they go on at another one
// after the last event they got, without gap or repeat, for one choice and for the reply of a repeated
// request.
func TestReadersChangeDispatcher(t *testing.T) {
	t.Parallel()
	const tokens = 60
	whole := expected("abcde", tokens)
	for name, tt := range map[string]struct {
		method, path, body string
		text               func(data string) string
	}{
		"events": {"GET", "/v1/jobs/j/events", "", func(data string) string {
			var c contracts.Chunk
			_ = json.Unmarshal([]byte(data), &c)
			return c.Text
		}},
		"completion": {"POST", "/v1/completions", fmt.Sprintf(`{"model":%q,"prompt":"abcde","max_tokens":%d,"stream":true}`, model, tokens), func(data string) string {
			var c struct{ Choices []struct{ Text string } }
			if json.Unmarshal([]byte(data), &c) != nil || len(c.Choices) == 0 {
				return ""
			}
			return c.Choices[0].Text
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := contractstest.StartBroker(t, nil)
			first, second := openDoor(t, b), openDoor(t, b)
			release := make(chan struct{})
			startWorker(t, b.Conn(), "w", func(w *fakeWorker) {
				w.step = func(ctx context.Context, _ *contracts.Admitted, index int) error {
					if index == 25 {
						select {
						case <-release:
						case <-ctx.Done():
						}
					}
					return nil
				}
			})
			if tt.method == "GET" {
				job := textJob("j", "abcde")
				job.Params.MaxTokens = ptr(tokens)
				if _, err := first.Submit(testContext(t), job); err != nil {
					t.Fatal(err)
				}
			}
			var text strings.Builder
			events := 0
			read := func(_, data string) bool {
				text.WriteString(tt.text(data))
				if events++; events == 20 {
					first.kill()
				}
				return true
			}
			last := follow(send(t, tt.method, first.url+tt.path, tt.body, "Idempotency-Key: k", "Content-Type: application/json"), "", read)
			if text.String() == whole || events < 20 {
				t.Fatalf("%d events before the dispatcher died: %q", events, &text)
			}
			close(release)
			follow(send(t, tt.method, second.url+tt.path, tt.body, "Idempotency-Key: k", "Content-Type: application/json", "Last-Event-ID: "+last), last, read)
			if text.String() != whole {
				t.Errorf("got %q, want %q", &text, whole)
			}
		})
	}
}

// TestCancelOnLeave: a job that asked for it ends when any dispatcher loses its last reader, not before,
// and wherever it was accepted; other jobs go on.
func TestCancelOnLeave(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	first, second := openDoor(t, b), openDoor(t, b)
	ctx := testContext(t)
	for _, cancels := range []bool{true, false} {
		job := textJob(fmt.Sprint("cancels ", cancels), "abc")
		job.CancelOnLeave = cancels
		if _, err := first.Submit(ctx, job); err != nil {
			t.Fatal(err)
		}
		events := func() *http.Response {
			return send(t, "GET", second.url+"/v1/jobs/"+url.PathEscape(job.ID)+"/events", "")
		}
		other, one := events(), events()
		_ = other.Body.Close()
		if err := second.Leave(ctx, tenant, job.ID); err != nil { // one still reads
			t.Fatal(err)
		}
		if s, err := second.Status(ctx, tenant, job.ID); err != nil || s.State != contracts.StateQueued {
			t.Errorf("%s with a reader left: %+v, %v, want queued", job.ID, s, err)
		}
		_ = one.Body.Close()
		if cancels {
			waitFor(t, "the job's end", func() bool {
				s, err := first.Status(ctx, tenant, job.ID)
				return err == nil && s.State == contracts.StateCanceled
			})
			continue
		}
		if err := second.Leave(ctx, tenant, job.ID); err != nil {
			t.Fatal(err)
		}
		if s, err := first.Status(ctx, tenant, job.ID); err != nil || s.State != contracts.StateQueued {
			t.Errorf("%s without a reader: %+v, %v, want queued", job.ID, s, err)
		}
	}
}

// TestSocketNeverRead: a client that never reads its socket takes nothing from fifty that do.
func TestSocketNeverRead(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	d := openDoor(t, b)
	const records = 200
	if _, err := d.Submit(testContext(t), textJob("j", "x")); err != nil {
		t.Fatal(err)
	}
	stuck, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stuck.Close() }()
	_ = stuck.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := io.WriteString(stuck, "GET /v1/jobs/j/events HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for i := range 50 {
		resp := send(t, "GET", d.url+"/v1/jobs/j/events", "")
		readers.Go(func() {
			n := 0
			last, why := followed(resp, "", func(string, string) bool { n++; return true })
			if n != records+1 || last != strconv.Itoa(records) {
				t.Errorf("reader %d: %d events up to %s, then %s; want all %d and the final one", i, n, last, why, records)
			}
		})
	}
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	worker := &chain{js: js, out: subject.Out(tenant, "j")} // 400 KiB: more than the sockets' buffers hold
	for i := range records {
		if err := worker.write(&contracts.Chunk{V: 1, Job: "j", Fence: 1, Index: i, Tokens: []int32{7}, Text: strings.Repeat("x", 2<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := worker.write(&contracts.Chunk{V: 1, Job: "j", Fence: 1, Index: records, Finish: contracts.FinishLength, Usage: &contracts.Usage{CompletionTokens: records}}); err != nil {
		t.Fatal(err)
	}
	readers.Wait()
}
