package openai

import (
	"fmt"
	"strconv"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
)

// Limits of a request beyond those of a job.
const (
	MaxPrompts  = 64 // prompts in one text completion
	MaxMetadata = 16 // pairs in metadata
)

// Request is a decoded completion request. Its jobs lack what the body does not say: ID, Tenant,
// Deadline and Submitted.
type Request struct {
	Kind         contracts.Kind
	Jobs         []*contracts.Job // one for each prompt; a chat has one
	Choices      int              // of each prompt
	Echo         []string         // text that goes before each prompt's choices; nil is none
	Logprobs     bool
	Stream       bool
	IncludeUsage bool // an extra chunk with the usage ends the stream
}

// Model is the model that the request names.
func (r *Request) Model() string { return r.Jobs[0].Model }

// ParseChat decodes the body of POST /v1/chat/completions. The error is a [*contracts.Error] that
// names the parameter: CodeUnimplemented for a feature that is not served, CodeInvalidArgument else.
func ParseChat(data []byte) (*Request, error) {
	f, err := body.Parse(data)
	if err != nil {
		return nil, err
	}
	refuseUnsupported(f, chatOnly, sampling)
	job := &contracts.Job{V: contracts.Version, Kind: contracts.KindChat, Messages: messages(f)}
	r := &Request{Kind: contracts.KindChat, Jobs: []*contracts.Job{job}}
	steer(f, r, job)
	job.Params.MaxTokens = chatMaxTokens(f)
	want, top := f.Bool("logprobs"), f.Int("top_logprobs")
	if top != nil && !want {
		f.Failf("top_logprobs", "top_logprobs needs logprobs to be true")
	}
	if top != nil && (*top < 0 || *top > contracts.MaxTopLogprobs) {
		f.Failf("top_logprobs", "top_logprobs is %d, it must be from 0 to %d", *top, contracts.MaxTopLogprobs)
	}
	if want {
		if job.Params.Logprobs = top; top == nil {
			job.Params.Logprobs = new(int)
		}
	}
	return r.checked(f)
}

// ParseText decodes the body of POST /v1/completions; errors are as [ParseChat]'s.
func ParseText(data []byte) (*Request, error) {
	f, err := body.Parse(data)
	if err != nil {
		return nil, err
	}
	refuseUnsupported(f, textOnly, sampling)
	job := contracts.Job{V: contracts.Version, Kind: contracts.KindText}
	r := &Request{Kind: contracts.KindText}
	steer(f, r, &job)
	job.Params.MaxTokens = f.Int("max_tokens")
	job.Params.Logprobs = f.Int("logprobs")
	if best := f.Int("best_of"); best != nil && *best != r.Choices {
		f.Unsupported("best_of", "best_of is %d, only the same value as n (%d) is served: leave it out", *best, r.Choices)
	}
	echo := f.Bool("echo")
	if echo && job.Params.Logprobs != nil {
		f.Unsupported("echo", "echo together with logprobs is not served: leave one of them out")
	}
	for _, p := range prompts(f, "prompt", MaxPrompts) {
		if echo && len(p.tokens) > 0 {
			f.Unsupported("echo", "echo of a prompt given as token ids is not served: send the prompt as text")
		}
		one := job
		one.Prompt, one.Tokens = p.text, p.tokens
		r.Jobs = append(r.Jobs, &one)
		if echo {
			r.Echo = append(r.Echo, p.text)
		}
	}
	return r.checked(f)
}

// checked is r when its fields were all right and its jobs hold together.
func (r *Request) checked(f *body.Fields) (*Request, error) {
	if err := f.Err(); err != nil {
		return nil, err
	}
	r.Logprobs = r.Jobs[0].Params.Logprobs != nil
	for i, j := range r.Jobs {
		probe := *j // what the gateway fills in later must not fail here
		probe.ID, probe.Tenant = "probe", "probe"
		if err := probe.Validate(); err != nil {
			return nil, named(err, i, len(r.Jobs))
		}
	}
	return r, nil
}

// steer reads what chat and text completions share.
func steer(f *body.Fields, r *Request, job *contracts.Job) {
	if job.Model = f.Text("model"); job.Model == "" {
		f.Failf("model", "model is missing: ask /v1/models what is served")
	}
	job.Params = params(f)
	job.Class = class(f)
	job.Labels = labels(f)
	r.Choices = 1
	if n := job.Params.N; n != nil {
		r.Choices = *n
	}
	r.Stream = f.Bool("stream")
	if o := f.Object("stream_options"); o != nil {
		if !r.Stream {
			f.Failf("stream_options", "stream_options needs stream to be true")
		}
		r.IncludeUsage = o.Bool("include_usage")
		o.Bool("include_obfuscation") // padding against traffic analysis: accepted, not added
		f.Fail(o.Err())
	}
	f.Bool("store") // nothing is stored
}

func chatMaxTokens(f *body.Fields) *int {
	old, current := f.Int("max_tokens"), f.Int("max_completion_tokens")
	switch {
	case current == nil:
		return old
	case old != nil && *old != *current:
		f.Failf("max_tokens", "max_tokens is %d and max_completion_tokens is %d: send one of them", *old, *current)
	}
	return current
}

// class maps OpenAI's service tiers and vLLM's integer priority to a priority class. The priority wins
// over the tier, because only those who mean it send it.
func class(f *body.Fields) contracts.Class {
	out := contracts.P2
	switch tier := f.Text("service_tier"); tier {
	case "", "auto", "default":
	case "priority", "fast", "scale":
		out = contracts.P1
	case "flex":
		out = contracts.P3
	default:
		f.Failf("service_tier", "service_tier %q is not one of auto, default, flex, scale, priority, fast", tier)
	}
	if p := f.Int("priority"); p != nil { // lower is sooner: -2 is p0, 0 is p2, 1 is p3
		out = contracts.Classes[min(max(*p, -2), 1)+2]
	}
	return out
}

// Tier is the service tier that a reply reports for a job of class c.
func Tier(c contracts.Class) string {
	switch c {
	case contracts.P0, contracts.P1:
		return "priority"
	case contracts.P3:
		return "flex"
	}
	return "default"
}

// labels keeps metadata and user with the job.
func labels(f *body.Fields) map[string]string {
	out := f.StringMap("metadata", MaxMetadata)
	for k, v := range out {
		if k == "" || len(k) > contracts.MaxLabelLength || len(v) > contracts.MaxLabelValue {
			f.Failf("metadata", "metadata keys and values are 1 to %d and 0 to %d bytes", contracts.MaxLabelLength, contracts.MaxLabelValue)
		}
	}
	if user := f.Text("user"); user != "" {
		if len(user) > contracts.MaxLabelValue {
			f.Failf("user", "user has %d bytes, at most %d are allowed", len(user), contracts.MaxLabelValue)
		}
		if out == nil {
			out = map[string]string{}
		}
		out["user"] = user
	}
	return out
}

type prompt struct {
	text   string
	tokens []int32
}

// prompts reads a field of that name: a string, strings, token ids, or lists of token ids; at most most.
func prompts(f *body.Fields, name string, most int) []prompt {
	v := f.Get(name)
	switch {
	case v.Null():
		f.Failf(name, "%s is missing: send a string, an array of strings or token ids", name)
		return nil
	case v.IsText():
		return []prompt{textPrompt(f, name, v)}
	case !v.IsList():
		f.Failf(name, "%s must be a string, an array of strings, an array of token ids or an array of such arrays", name)
		return nil
	}
	first, ok := v.First()
	if !ok {
		f.Failf(name, "%s is an empty array: send at least one %s", name, name)
		return nil
	}
	if first.IsNumber() {
		return []prompt{{tokens: f.Tokens(name, contracts.MaxMaxTokens)}}
	}
	var out []prompt
	for _, e := range f.List(name, most) {
		if e.IsList() {
			tokens, err := e.Tokens(contracts.MaxMaxTokens)
			f.Fail(err)
			if err == nil && len(tokens) == 0 {
				f.Failf(name, "%s is empty: send at least one token id", e.Path())
			}
			out = append(out, prompt{tokens: tokens})
			continue
		}
		out = append(out, textPrompt(f, name, e))
	}
	return out
}

func textPrompt(f *body.Fields, name string, v body.Value) prompt {
	s, err := v.Text()
	f.Fail(err)
	if err == nil && s == "" {
		f.Failf(name, "%s is empty: send at least one character", v.Path())
	}
	return prompt{text: s}
}

// named turns the parameter of a job's error into the one of the request.
func named(err error, prompt, prompts int) error {
	e := *contracts.AsError(err)
	if p, ok := cutParams(e.Param); ok {
		e.Param = p
	}
	if e.Param == "prompt" && prompts > 1 {
		e.Param = "prompt[" + strconv.Itoa(prompt) + "]"
		e.Message = fmt.Sprintf("%s: %s", e.Param, e.Message)
	}
	return &e
}
