package integration

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/integration/harness"
)

// TestDispatcherKilledMidStream kills the dispatcher process that a client reads from; the client goes on
// at another one after the last event it got, and has the stream's text once.
func TestDispatcherKilledMidStream(t *testing.T) {
	t.Parallel()
	p := harness.Up(t, t.TempDir(), "--engine", "sim", "--model", "sim")
	other := harness.Start(t, "dispatcher", "--nats", p.NATS, "--http", "127.0.0.1:0", "--engine", "sim", "--model", "sim")
	ctx := testContext(t, 5*time.Minute)
	c := connect(t, p)
	if _, err := c.Submit(ctx, &contracts.Job{ID: "j", Model: "sim", Kind: contracts.KindText, Prompt: "count",
		Params: contracts.Params{MaxTokens: new(800), IgnoreEOS: true}}); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	last := ""
	read := func(base string, enough func(n int) bool) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/jobs/j/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		id, n := "", 0
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				got.WriteString(v + "\n")
				last = id
				if n++; enough(n) {
					return
				}
			}
		}
	}
	read(other.HTTP, func(n int) bool { // what comes later may be cut off anywhere
		if n == 5 {
			other.Kill()
		}
		return n == 5
	})
	if strings.Contains(got.String(), `"usage"`) {
		t.Fatalf("the stream ended before the dispatcher died: %s", &got)
	}
	read(p.HTTP, func(int) bool { return false })

	whole := got.String()
	got.Reset()
	last = ""
	read(p.HTTP, func(int) bool { return false })
	if whole != got.String() || !strings.Contains(whole, `"completion_tokens":800`) {
		t.Errorf("two readings in turn: %s\nin one: %s", whole, &got)
	}
}
