package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gate"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

// who makes a header say whom a request belongs to.
func who(r *http.Request) (string, error) { return r.Header.Get("X-Who"), nil }

// TestStreamsOfOneTenant: a tenant that opens all the streams that it can leaves places for others.
func TestStreamsOfOneTenant(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config, f *fakeFleet) {
		c.MaxInFlight, c.Tenant = 16, who
		f.hold = make(chan struct{})
	})
	if r := d.do("POST", "/v1/jobs", `{"job":"idle","model":"fake/parrot","kind":"text","prompt":"x"}`, "X-Who: greedy"); r.status != 202 {
		t.Fatalf("got %d %s", r.status, r.text)
	}
	open := 0
	for ; open < 16; open++ {
		resp := d.send(context.Background(), "GET", "/v1/jobs/idle/events", "", "X-Who: greedy")
		t.Cleanup(func() { _ = resp.Body.Close() })
		if resp.StatusCode != 200 {
			if resp.StatusCode != 429 {
				t.Errorf("stream %d got %d, want 429", open, resp.StatusCode)
			}
			break
		}
	}
	if open != 12 {
		t.Errorf("one tenant has %d of 16 places, want 12", open)
	}
	close(d.fleet.hold)
	if r := d.do("POST", "/v1/chat/completions", chatBody+`}`, "X-Who: other"); r.status != 200 {
		t.Errorf("another tenant got %d %s, want 200", r.status, r.text)
	}
}

// TestBodiesOfOneTenant: bodies that are on their way take places by what has come of them, so that their memory is
// bounded and others get in.
func TestBodiesOfOneTenant(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{}, 1)
	d := open(t, func(c *gateway.Config, f *fakeFleet) {
		c.MaxInFlight, c.Tenant = 16, who
		f.refuse = func(j *contracts.Job) error {
			if j.Tenant == "greedy" {
				entered <- struct{}{}
				<-f.hold
			}
			return nil
		}
		f.hold = make(chan struct{})
	})
	large := `{"model":"fake/parrot","messages":[{"role":"user","content":"` + strings.Repeat("x", 8*gate.PlaceBytes) + `"}]}`
	first := make(chan int, 1)
	go func() { first <- d.do("POST", "/v1/chat/completions", large, "X-Who: greedy").status }()
	<-entered
	for _, way := range []io.Reader{strings.NewReader(large), struct{ io.Reader }{strings.NewReader(large)}} { // with its length and without
		r, err := http.NewRequestWithContext(t.Context(), "POST", d.url+"/v1/chat/completions", way)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Who", "greedy")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 429 {
			t.Errorf("a second body of half of all places got %d, want 429", resp.StatusCode)
		}
	}
	if r := d.do("GET", "/v1/jobs/none/events", "", "X-Who: other"); r.status != 404 {
		t.Errorf("another tenant got %d %s, want 404", r.status, r.text)
	}
	close(d.fleet.hold)
	if got := <-first; got != 400 {
		t.Errorf("the first body got %d, want 400 for its length", got)
	}
	if r := d.do("POST", "/v1/chat/completions", large, "X-Who: greedy"); r.status != 400 {
		t.Errorf("places were not given back: got %d %s", r.status, r.text)
	}
}
