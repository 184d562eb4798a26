package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
	h, err := gateway.New(gateway.Config{Jobs: limited{newFake(t)}, Models: func() []gateway.Model { return []gateway.Model{{Name: "m", Workers: 1}} }})
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
