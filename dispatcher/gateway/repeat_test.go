package gateway_test

import (
	"net/http"
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
