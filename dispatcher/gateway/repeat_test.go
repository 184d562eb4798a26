package gateway_test

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

// TestIdempotencyKeyOfMorePrompts: a request with more or fewer prompts is another request.
func TestIdempotencyKeyOfMorePrompts(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	for _, c := range []struct {
		key, prompts string
		want         int
	}{{"a", `["x"]`, 200}, {"a", `["x","y"]`, 409}, {"b", `["x","y"]`, 200}, {"b", `["x"]`, 409}, {"b", `["x","y"]`, 200}} {
		r := d.do("POST", "/v1/completions", `{"model":"fake/parrot","max_tokens":2,"prompt":`+c.prompts+`}`, "Idempotency-Key: "+c.key)
		if r.status != c.want {
			t.Errorf("key %s with %s: %d %s, want %d", c.key, c.prompts, r.status, r.text, c.want)
		}
		if c.want == 409 && (!strings.Contains(r.text, `this Idempotency-Key was used before`) || !strings.Contains(r.text, `"param":"Idempotency-Key"`)) {
			t.Errorf("%s names an id that the caller never saw", r.text)
		}
	}
}

// TestTierThatRan: a reply names the tier in which the job ran, not the one that a repeat asks for.
func TestTierThatRan(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	for _, tier := range []string{"flex", "priority"} {
		r := d.do("POST", "/v1/chat/completions", chatBody+`,"service_tier":"`+tier+`"}`, "Idempotency-Key: t")
		if r.status != http.StatusOK || !strings.Contains(r.text, `"service_tier":"flex"`) {
			t.Errorf("%d %s", r.status, r.text)
		}
	}
}

// TestWrongPromptIsNamed: a refusal of token ids names the prompt of the request, not the job's field.
func TestWrongPromptIsNamed(t *testing.T) {
	t.Parallel()
	d := open(t, func(_ *gateway.Config, f *fakeFleet) {
		f.refuse = func(j *contracts.Job) error {
			if j.Tokens[0] < 99 {
				return nil
			}
			return &contracts.Error{Code: contracts.CodeInvalidArgument, Param: "tokens", Message: "tokens[0] is 99, the model has tokens 0 to 98"}
		}
	})
	for prompt, want := range map[string]string{
		`[99]`:         `"message":"prompt[0] is 99, the model has tokens 0 to 98","type":"invalid_request_error","param":"prompt"`,
		`[[1],[2,99]]`: `"finish_reason"`,
		`[[1],[99]]`:   `"message":"prompt[1][0] is 99, the model has tokens 0 to 98","type":"invalid_request_error","param":"prompt[1]"`,
	} {
		if r := d.do("POST", "/v1/completions", `{"model":"fake/parrot","max_tokens":1,"prompt":`+prompt+`}`); !strings.Contains(r.text, want) {
			t.Errorf("%s: %d %s, want %s", prompt, r.status, r.text, want)
		}
	}
}

// TestRefusedAmongSeveral: when one of several prompts is refused for good, those before it end too, with a key as
// without one. What an earlier request submitted goes on, and so does all when a repeat may be taken.
func TestRefusedAmongSeveral(t *testing.T) {
	t.Parallel()
	d := open(t, func(_ *gateway.Config, f *fakeFleet) {
		f.hold = make(chan struct{}) // nothing ends by itself
		f.refuse = func(j *contracts.Job) error {
			switch j.Prompt {
			case "never":
				return contracts.Errorf(contracts.CodeInvalidArgument, "never")
			case "later":
				return contracts.Errorf(contracts.CodeOverloaded, "later")
			}
			return nil
		}
	})
	ask := func(key, prompts string, want int, headers ...string) {
		t.Helper()
		r := d.do("POST", "/v1/completions", `{"model":"fake/parrot","max_tokens":1,"prompt":`+prompts+`}`, append(headers, "Idempotency-Key: "+key)...)
		if r.status != want {
			t.Errorf("%s: %d %s, want %d", prompts, r.status, r.text, want)
		}
	}
	gone := func(want int) {
		t.Helper()
		if n := len(d.fleet.canceled); n != want {
			t.Errorf("%d jobs were canceled, want %d", n, want)
		}
	}
	ask("for good", `["x","y","never"]`, 400)
	gone(2)
	ask("for now", `["x","later"]`, 429)
	gone(2)
	ask("for now", `["x","never"]`, 400) // not what was asked before, but its first prompt is
	gone(2)
}

// TestFailedAmongSeveral: when one of several prompts fails, the others end too, also with a key.
func TestFailedAmongSeveral(t *testing.T) {
	t.Parallel()
	d := open(t, func(_ *gateway.Config, f *fakeFleet) { f.hold = make(chan struct{}) })
	ids := make(chan string)
	go func() {
		resp := d.send(t.Context(), "POST", "/v1/completions", `{"model":"fake/parrot","stream":true,"prompt":["x","y"]}`, "Idempotency-Key: k")
		ids <- resp.Header.Get("X-Pelton-Job")
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		close(ids)
	}()
	first, second, _ := strings.Cut(<-ids, ",")
	d.do("DELETE", "/v1/jobs/"+first, "")
	<-ids
	got := []string{<-d.fleet.canceled, ""}
	select {
	case got[1] = <-d.fleet.canceled:
	default:
	}
	if want := []string{first, second}; !slices.Equal(got, want) {
		t.Errorf("canceled %q, want %q", got, want)
	}
}

// TestMetadataSteersNothing: metadata is the caller's own, whatever its names.
func TestMetadataSteersNothing(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	r := d.do("POST", "/v1/chat/completions", chatBody+`,"metadata":{"slo_ttft_ms":"1","on_overload":"demote","retries":"3","request_parts":"2","mine":"x"}}`, "X-Pelton-On-Overload: shorten")
	if r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.text)
	}
	labels := d.fleet.job(t, "default", r.header.Get("X-Pelton-Job")).Labels
	delete(labels, "request_id")
	if want := (map[string]string{"mine": "x", "on_overload": "shorten"}); !maps.Equal(labels, want) {
		t.Errorf("labels %v, want %v", labels, want)
	}
}
