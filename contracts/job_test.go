package contracts_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
)

func ptr[T any](v T) *T { return &v }

func chatJob() *contracts.Job {
	return &contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "m", Kind: contracts.KindChat, Messages: []contracts.Message{{Role: "user", Content: "hi"}}}
}

func textJob() *contracts.Job {
	return &contracts.Job{V: 1, ID: "j", Tenant: "t", Model: "m", Kind: contracts.KindText, Prompt: "hi"}
}

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*contracts.Job){
		"as is":             func(*contracts.Job) {},
		"no version":        func(j *contracts.Job) { j.V = 0 },
		"each class":        func(j *contracts.Job) { j.Class = contracts.P3 },
		"odd names":         func(j *contracts.Job) { j.Tenant, j.Model, j.ID = "a.b *>", "日本 語", "\x01\n" },
		"whitespace prompt": func(j *contracts.Job) { j.Kind, j.Messages, j.Prompt = contracts.KindText, nil, " " },
		"NUL prompt":        func(j *contracts.Job) { j.Kind, j.Messages, j.Prompt = contracts.KindText, nil, "\x00" },
		"empty message":     func(j *contracts.Job) { j.Messages[0].Content = "" },
		"token ids":         func(j *contracts.Job) { j.Kind, j.Messages, j.Tokens = contracts.KindText, nil, []int32{0, 1} },
		"every parameter": func(j *contracts.Job) {
			j.Params = contracts.Params{
				MaxTokens: ptr(1), Temperature: ptr(0.0), TopP: ptr(1.0), TopK: ptr(0), MinP: ptr(0.0), Seed: ptr(int64(math.MinInt64)),
				Stop: []string{"\n"}, N: ptr(16), RepetitionPenalty: ptr(10.0), PresencePenalty: ptr(-2.0), FrequencyPenalty: ptr(2.0),
				LogitBias: map[string]float64{"0": -100, "2147483647": 100}, Logprobs: ptr(0), IgnoreEOS: true, ResponseFormat: &contracts.ResponseFormat{Type: contracts.FormatText},
			}
		},
		"JSON": func(j *contracts.Job) {
			j.Params.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatObject}
		},
		"schema": func(j *contracts.Job) {
			j.Params.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatSchema, Schema: &contracts.Schema{Schema: "{}"}}
		},
		"labels": func(j *contracts.Job) {
			j.Labels = map[string]string{"traceparent": "00-…", "empty": "", "metadata": strings.Repeat("é", 512)}
		},
	} {
		j := chatJob()
		change(j)
		if err := j.Validate(); err != nil {
			t.Errorf("%s: %v, want it accepted", name, err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 129)
	many := map[string]string{}
	for i := range contracts.MaxLabels + 1 {
		many[strings.Repeat("k", i+1)] = ""
	}
	bias := map[string]float64{}
	for i := range contracts.MaxLogitBias + 1 {
		bias[strings.Repeat("1", i+1)] = 0
	}
	p := func(set func(*contracts.Params)) func(*contracts.Job) {
		return func(j *contracts.Job) { set(&j.Params) }
	}
	for _, tt := range []struct {
		name   string
		change func(*contracts.Job)
		param  string
		code   contracts.Code // default invalid_argument
	}{
		{"newer version", func(j *contracts.Job) { j.V = 2 }, "v", contracts.CodeUnimplemented},
		{"negative version", func(j *contracts.Job) { j.V = -1 }, "v", ""},
		{"no id", func(j *contracts.Job) { j.ID = "" }, "job", ""},
		{"long id", func(j *contracts.Job) { j.ID = long }, "job", ""},
		{"id not UTF-8", func(j *contracts.Job) { j.ID = "\xff" }, "job", ""},
		{"no tenant", func(j *contracts.Job) { j.Tenant = "" }, "tenant", ""},
		{"control character", func(j *contracts.Job) { j.Tenant = "a\nb" }, "tenant", ""},
		{"no model", func(j *contracts.Job) { j.Model = "" }, "model", ""},
		{"long model", func(j *contracts.Job) { j.Model = long }, "model", ""},
		{"unknown class", func(j *contracts.Job) { j.Class = "p4" }, "class", ""},
		{"negative deadline", func(j *contracts.Job) { j.Deadline = -1 }, "deadline", ""},
		{"no kind", func(j *contracts.Job) { j.Kind = "" }, "kind", ""},
		{"unknown kind", func(j *contracts.Job) { j.Kind = contracts.Kind(strings.Repeat("x", 1<<20)) }, "kind", ""},
		{"unknown kind", func(j *contracts.Job) { j.Kind = "image" }, "kind", contracts.CodeInvalidArgument},
		{"embed with a prompt", func(j *contracts.Job) { j.Kind = contracts.KindEmbed }, "input", contracts.CodeInvalidArgument},
		{"no messages", func(j *contracts.Job) { j.Messages = nil }, "messages", ""},
		{"many messages", func(j *contracts.Job) { j.Messages = make([]contracts.Message, 1025) }, "messages", ""},
		{"unknown role", func(j *contracts.Job) { j.Messages[0].Role = strings.Repeat("x", 1<<20) }, "messages[0].role", ""},
		{"content not UTF-8", func(j *contracts.Job) { j.Messages[0].Content = "\xc3" }, "messages[0].content", ""},
		{"long content", func(j *contracts.Job) { j.Messages[0].Content = strings.Repeat("x", 4<<20+1) }, "messages[0].content", contracts.CodePayloadTooLarge},
		{"long name", func(j *contracts.Job) { j.Messages[0].Name = long }, "messages[0].name", ""},
		{"chat with a prompt", func(j *contracts.Job) { j.Prompt = "x" }, "prompt", ""},
		{"text with messages", func(j *contracts.Job) { j.Kind = contracts.KindText }, "messages", ""},
		{"empty prompt", func(j *contracts.Job) { *j = *textJob(); j.Prompt = "" }, "prompt", ""},
		{"prompt and tokens", func(j *contracts.Job) { *j = *textJob(); j.Tokens = []int32{1} }, "prompt", ""},
		{"negative token", func(j *contracts.Job) { *j = *textJob(); j.Prompt, j.Tokens = "", []int32{-1} }, "tokens", ""},
		{"many tokens", func(j *contracts.Job) { *j = *textJob(); j.Prompt, j.Tokens = "", make([]int32, 1<<20+1) }, "tokens", ""},
		{"many labels", func(j *contracts.Job) { j.Labels = many }, "labels", ""},
		{"long label", func(j *contracts.Job) { j.Labels = map[string]string{"k": strings.Repeat("x", 2049)} }, "labels", ""},
		{"label not UTF-8", func(j *contracts.Job) { j.Labels = map[string]string{"k": "\xff"} }, "labels", ""},
		{"zero max_tokens", p(func(p *contracts.Params) { p.MaxTokens = ptr(0) }), "params.max_tokens", ""},
		{"negative max_tokens", p(func(p *contracts.Params) { p.MaxTokens = ptr(-5) }), "params.max_tokens", ""},
		{"huge max_tokens", p(func(p *contracts.Params) { p.MaxTokens = ptr(math.MaxInt) }), "params.max_tokens", ""},
		{"hot", p(func(p *contracts.Params) { p.Temperature = ptr(2.1) }), "params.temperature", ""},
		{"NaN", p(func(p *contracts.Params) { p.Temperature = ptr(math.NaN()) }), "params.temperature", ""},
		{"infinite", p(func(p *contracts.Params) { p.Temperature = ptr(math.Inf(1)) }), "params.temperature", ""},
		{"zero top_p", p(func(p *contracts.Params) { p.TopP = ptr(0.0) }), "params.top_p", ""},
		{"negative top_k", p(func(p *contracts.Params) { p.TopK = ptr(-1) }), "params.top_k", ""},
		{"min_p", p(func(p *contracts.Params) { p.MinP = ptr(1.5) }), "params.min_p", ""},
		{"zero n", p(func(p *contracts.Params) { p.N = ptr(0) }), "params.n", ""},
		{"repetition", p(func(p *contracts.Params) { p.RepetitionPenalty = ptr(0.0) }), "params.repetition_penalty", ""},
		{"presence", p(func(p *contracts.Params) { p.PresencePenalty = ptr(-3.0) }), "params.presence_penalty", ""},
		{"frequency", p(func(p *contracts.Params) { p.FrequencyPenalty = ptr(3.0) }), "params.frequency_penalty", ""},
		{"logprobs", p(func(p *contracts.Params) { p.Logprobs = ptr(21) }), "params.logprobs", ""},
		{"empty stop", p(func(p *contracts.Params) { p.Stop = []string{""} }), "params.stop", ""},
		{"many stops", p(func(p *contracts.Params) { p.Stop = make([]string, 17) }), "params.stop", ""},
		{"bias of a word", p(func(p *contracts.Params) { p.LogitBias = map[string]float64{"the": 1} }), "params.logit_bias", ""},
		{"bias of 007", p(func(p *contracts.Params) { p.LogitBias = map[string]float64{"007": 1} }), "params.logit_bias", ""},
		{"bias beyond 32 bits", p(func(p *contracts.Params) { p.LogitBias = map[string]float64{"2147483648": 1} }), "params.logit_bias", ""},
		{"many biases", p(func(p *contracts.Params) { p.LogitBias = bias }), "params.logit_bias", ""},
		{"bias too strong", p(func(p *contracts.Params) { p.LogitBias = map[string]float64{"7": 101} }), "params.logit_bias.7", ""},
		{"another format", p(func(p *contracts.Params) { p.ResponseFormat = &contracts.ResponseFormat{Type: "xml"} }), "params.response_format", contracts.CodeUnimplemented},
		{"no schema", p(func(p *contracts.Params) { p.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatSchema} }), "params.response_format.json_schema", ""},
		{"format without a type", p(func(p *contracts.Params) { p.ResponseFormat = &contracts.ResponseFormat{} }), "params.response_format.type", ""},
		{"schema of text", p(func(p *contracts.Params) {
			p.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatText, Schema: &contracts.Schema{Schema: "{}"}}
		}), "params.response_format.json_schema", ""},
		{"schema of any object", p(func(p *contracts.Params) {
			p.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatObject, Schema: &contracts.Schema{Schema: "{}"}}
		}), "params.response_format.json_schema", ""},
		{"schema that is no text", p(func(p *contracts.Params) {
			p.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatSchema, Schema: &contracts.Schema{Schema: "\xff"}}
		}), "params.response_format.json_schema.schema", ""},
		{"schema with a name that is none", p(func(p *contracts.Params) {
			p.ResponseFormat = &contracts.ResponseFormat{Type: contracts.FormatSchema, Schema: &contracts.Schema{Name: "a\nb", Schema: "{}"}}
		}), "params.response_format.json_schema.name", ""},
		{"JSON without an end", p(func(p *contracts.Params) {
			p.ResponseFormat, p.IgnoreEOS = &contracts.ResponseFormat{Type: contracts.FormatObject}, true
		}), "params.response_format", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			j := chatJob()
			tt.change(j)
			if tt.code == "" {
				tt.code = contracts.CodeInvalidArgument
			}
			e := contracts.AsError(j.Validate())
			if e.Code != tt.code || e.Param != tt.param || e.Message == "" || len(e.Message) > 300 {
				t.Errorf("got code %q, param %q, message %q, want %q, %q", e.Code, e.Param, e.Message, tt.code, tt.param)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<31-1).Draw(t, "n")
		s := contracts.SizeFor(n)
		if n > s.Tokens() {
			t.Fatalf("size of %d tokens is %s, which holds %d", n, s, s.Tokens())
		}
		for _, smaller := range contracts.Sizes {
			if smaller == s {
				break
			}
			if n <= smaller.Tokens() {
				t.Fatalf("size of %d tokens is %s, but %s holds them", n, s, smaller)
			}
		}
	})
	if got := contracts.SizeFor(math.MaxInt); got != contracts.SizeX {
		t.Errorf("size of the largest number is %s, want x", got)
	}
}

func TestSchemaInJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{`{"name":"n","schema":{"z":1, "a":[]}}`: `{"z":1, "a":[]}`, `{"name":"n","schema":"{\"z\":1}"}`: `{"z":1}`, `{"name":"n","schema":true}`: `true`} {
		var s contracts.Schema
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Name != "n" || s.Schema != want {
			t.Errorf("%s: %+v, %v", text, s, err)
		}
		again, err := json.Marshal(s)
		var back contracts.Schema
		if err != nil || json.Unmarshal(again, &back) != nil || back != s {
			t.Errorf("%s: written as %s and read as %+v, %v", text, again, back, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"name":1}`), new(contracts.Schema)); err == nil {
		t.Error("a name that is a number was taken")
	}
}
