package openai_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/openai"
)

func ptr[T any](v T) *T { return &v }

func TestParseResponseFormat(t *testing.T) {
	t.Parallel()
	schema := func(name, text string) *contracts.ResponseFormat {
		return &contracts.ResponseFormat{Type: contracts.FormatSchema, Schema: &contracts.Schema{Name: name, Schema: text}}
	}
	for text, want := range map[string]*contracts.ResponseFormat{
		`{"type":"text"}`:        nil,
		`null`:                   nil,
		`{"type":"json_object"}`: {Type: contracts.FormatObject},
		`{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"z":1, "a":{}}}}`: schema("n", `{"z":1, "a":{}}`),
		`{"type":"json_schema","json_schema":{"schema":"{\"z\":1}"}}`:                              schema("", `{"z":1}`),
		`{"type":"json_object","schema":{"z":1}}`:                                                  schema("", `{"z":1}`),
	} {
		chat, err := openai.ParseChat([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":` + text + `}`))
		if err != nil || !cmp.Equal(chat.Jobs[0].Params.ResponseFormat, want) {
			t.Errorf("chat, %s: %+v, %v", text, chat, err)
		}
		plain, err := openai.ParseText([]byte(`{"model":"m","prompt":"x","response_format":` + text + `}`))
		if err != nil || !cmp.Equal(plain.Jobs[0].Params.ResponseFormat, want) {
			t.Errorf("text, %s: %+v, %v", text, plain, err)
		}
	}
	for text, param := range map[string]string{
		`{}`:                     "type",
		`{"type":null}`:          "type",
		`{"schema":{}}`:          "schema",
		`{"type":"json_schema"}`: "json_schema",
		`{"type":"json_schema","json_schema":{}}`:                          "json_schema.schema",
		`{"type":"json_schema","schema":{}}`:                               "schema",
		`{"type":"json_schema","schema":{},"json_schema":{"schema":{}}}`:   "schema",
		`{"type":"json_object","json_schema":{"schema":{}}}`:               "json_schema",
		`{"type":"json_object","schema":{},"json_schema":{"schema":{}}}`:   "schema",
		`{"type":"text","json_schema":{"schema":{}}}`:                      "json_schema",
		`{"type":"text","schema":{}}`:                                      "schema",
		`{"type":"json_object","json_schema":"a schema","schema":{"z":1}}`: "json_schema",
	} {
		_, err := openai.ParseChat([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":` + text + `}`))
		if e := contracts.AsError(err); err == nil || e.Code != contracts.CodeInvalidArgument || e.Param != "response_format."+param {
			t.Errorf("%s: %v of %s, want it refused for %s", text, err, e.Param, param)
		}
	}
}

func TestParseChat(t *testing.T) {
	t.Parallel()
	got, err := openai.ParseChat([]byte(`{"model":"m","messages":[
		{"role":"system","content":"be brief","name":"boss"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],
		"max_completion_tokens":7,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"n":2,"stop":"end","seed":-3,"presence_penalty":1,"frequency_penalty":-1,
		"repetition_penalty":1.1,"logit_bias":{"5":-100},"logprobs":true,"top_logprobs":3,"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},
		"user":"u","metadata":{"k":"v"},"store":true,"service_tier":"priority","ignore_eos":true,"tools":[],"tool_choice":"none","response_format":{"type":"text"},
		"modalities":["text"],"parallel_tool_calls":true,"reasoning_effort":"low","unknown":{"x":1},"prompt_cache_key":"p","safety_identifier":null,"logit_bias_x":1}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &openai.Request{
		Kind: contracts.KindChat, Choices: 2, Logprobs: true, Stream: true, IncludeUsage: true,
		Jobs: []*contracts.Job{{
			V: 1, Model: "m", Kind: contracts.KindChat, Class: contracts.P1, Labels: map[string]string{"k": "v", "user": "u"},
			Messages: []contracts.Message{{Role: "system", Content: "be brief", Name: "boss"}, {Role: "user", Content: "a\nb"}},
			Params: contracts.Params{
				MaxTokens: ptr(7), Temperature: ptr(0.5), TopP: ptr(0.9), TopK: ptr(40), MinP: ptr(0.1), Seed: ptr(int64(-3)), Stop: []string{"end"}, N: ptr(2),
				RepetitionPenalty: ptr(1.1), PresencePenalty: ptr(1.0), FrequencyPenalty: ptr(-1.0), LogitBias: map[string]float64{"5": -100}, Logprobs: ptr(3), IgnoreEOS: true,
			},
		}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseText(t *testing.T) {
	t.Parallel()
	type input struct {
		Prompt string
		Tokens []int32
	}
	for in, want := range map[string][]input{
		`"a"`:          {{Prompt: "a"}},
		`["a","b"]`:    {{Prompt: "a"}, {Prompt: "b"}},
		`[1,2]`:        {{Tokens: []int32{1, 2}}},
		`[[1],[2,3]]`:  {{Tokens: []int32{1}}, {Tokens: []int32{2, 3}}},
		`["a",[7]]`:    {{Prompt: "a"}, {Tokens: []int32{7}}},
		"\" \\u0000\"": {{Prompt: " \x00"}},
	} {
		r, err := openai.ParseText([]byte(`{"model":"m","prompt":` + in + `,"n":2,"best_of":2,"logprobs":0,"top_k":-1}`))
		if err != nil {
			t.Errorf("prompt %s: %v", in, err)
			continue
		}
		var got []input
		for _, j := range r.Jobs {
			got = append(got, input{j.Prompt, j.Tokens})
			if j.Kind != contracts.KindText || *j.Params.Logprobs != 0 || j.Class != contracts.P2 || j.Params.TopK != nil {
				t.Errorf("prompt %s: job %+v", in, j)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("prompt %s: %s", in, d)
		}
	}
}

func TestClass(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]contracts.Class{
		`"service_tier":"auto"`: contracts.P2, `"service_tier":"default"`: contracts.P2, `"service_tier":"flex"`: contracts.P3, `"service_tier":"fast"`: contracts.P1,
		`"service_tier":null`: contracts.P2, `"priority":-9`: contracts.P0, `"priority":-1`: contracts.P1, `"priority":0`: contracts.P2, `"priority":5`: contracts.P3,
		`"priority":-2,"service_tier":"flex"`: contracts.P0,
	} {
		r, err := openai.ParseText([]byte(`{"model":"m","prompt":"x",` + in + `}`))
		if err != nil || r.Jobs[0].Class != want {
			t.Errorf("%s: got %+v, %v, want class %s", in, r, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const invalid, unserved = contracts.CodeInvalidArgument, contracts.CodeUnimplemented
	chat := func(more string) string {
		return `{"model":"m","messages":[{"role":"user","content":"x"}],` + more + `}`
	}
	message := func(m string) string { return `{"model":"m","messages":[` + m + `]}` }
	text := func(prompt, more string) string { return `{"model":"m","prompt":` + prompt + more + `}` }
	for _, c := range []struct {
		in    string
		code  contracts.Code
		param string
	}{
		{`[]`, invalid, ""},
		{`{"messages":[{"role":"user","content":"x"}]}`, invalid, "model"},
		{`{"model":7,"messages":[{"role":"user","content":"x"}]}`, invalid, "model"},
		{`{"model":"` + strings.Repeat("m", 200) + `","messages":[{"role":"user","content":"x"}]}`, invalid, "model"},
		{`{"model":"m"}`, invalid, "messages"},
		{message(``), invalid, "messages"},
		{message(`7`), invalid, "messages[0]"},
		{message(`{"content":"x"}`), invalid, "messages[0].role"},
		{message(`{"role":"robot","content":"x"}`), invalid, "messages[0].role"},
		{message(`{"role":"user"}`), invalid, "messages[0].content"},
		{message(`{"role":"user","content":null}`), invalid, "messages[0].content"},
		{message(`{"role":"user","content":5}`), invalid, "messages[0].content"},
		{message(`{"role":"user","content":[]}`), invalid, "messages[0].content"},
		{message(`{"role":"user","content":["x"]}`), invalid, "messages[0].content[0]"},
		{message(`{"role":"user","content":[{"type":"text"}]}`), invalid, "messages[0].content[0].text"},
		{message(`{"role":"user","content":[{"text":"x"}]}`), invalid, "messages[0].content[0].type"},
		{message(`{"role":"user","content":[{"type":"input_audio"}]}`), unserved, "messages[0].content[0].type"},
		{message(`{"role":"assistant","content":"x","tool_calls":[{}]}`), unserved, "messages[0].tool_calls"},
		{chat(`"temperature":-0.1`), invalid, "temperature"},
		{chat(`"temperature":"hot"`), invalid, "temperature"},
		{chat(`"temperature":true`), invalid, "temperature"},
		{chat(`"top_p":0`), invalid, "top_p"},
		{chat(`"top_p":1.01`), invalid, "top_p"},
		{chat(`"top_k":-2`), invalid, "top_k"},
		{chat(`"min_p":2`), invalid, "min_p"},
		{chat(`"n":0`), invalid, "n"},
		{chat(`"n":17`), invalid, "n"},
		{chat(`"n":1.5`), invalid, "n"},
		{chat(`"max_tokens":0`), invalid, "max_tokens"},
		{chat(`"max_tokens":-5`), invalid, "max_tokens"},
		{chat(`"max_tokens":"5"`), invalid, "max_tokens"},
		{chat(`"max_tokens":99999999999`), invalid, "max_tokens"},
		{chat(`"max_tokens":5,"max_completion_tokens":6`), invalid, "max_tokens"},
		{chat(`"seed":1.5`), invalid, "seed"},
		{chat(`"seed":99999999999999999999`), invalid, "seed"},
		{chat(`"stop":7`), invalid, "stop"},
		{chat(`"stop":[7]`), invalid, "stop[0]"},
		{chat(`"stop":""`), invalid, "stop"},
		{chat(`"stop":["` + strings.Repeat(`a","`, 16) + `a"]`), invalid, "stop"},
		{chat(`"presence_penalty":3`), invalid, "presence_penalty"},
		{chat(`"frequency_penalty":-3`), invalid, "frequency_penalty"},
		{chat(`"repetition_penalty":0`), invalid, "repetition_penalty"},
		{chat(`"logit_bias":{"x":1}`), invalid, "logit_bias"},
		{chat(`"logit_bias":{"1":"x"}`), invalid, "logit_bias.1"},
		{chat(`"logit_bias":{"1":101}`), invalid, "logit_bias.1"},
		{chat(`"logit_bias":[]`), invalid, "logit_bias"},
		{chat(`"logprobs":3`), invalid, "logprobs"},
		{chat(`"top_logprobs":3`), invalid, "top_logprobs"},
		{chat(`"logprobs":true,"top_logprobs":21`), invalid, "top_logprobs"},
		{chat(`"stream":"yes"`), invalid, "stream"},
		{chat(`"stream_options":{"include_usage":true}`), invalid, "stream_options"},
		{chat(`"stream":true,"stream_options":{"include_usage":1}`), invalid, "stream_options.include_usage"},
		{chat(`"service_tier":"gold"`), invalid, "service_tier"},
		{chat(`"priority":"high"`), invalid, "priority"},
		{chat(`"metadata":{"a":1}`), invalid, "metadata.a"},
		{chat(`"metadata":{"a":"` + strings.Repeat("x", 2049) + `"}`), invalid, "metadata"},
		{chat(`"user":"` + strings.Repeat("x", 2049) + `"`), invalid, "user"},
		{chat(`"tools":[{}]`), unserved, "tools"},
		{chat(`"tool_choice":"required"`), unserved, "tool_choice"},
		{chat(`"tool_choice":{"type":"function"}`), unserved, "tool_choice"},
		{chat(`"functions":[{}]`), unserved, "functions"},
		{chat(`"response_format":{"type":"xml"}`), unserved, "response_format"},
		{chat(`"response_format":"text"`), invalid, "response_format"},
		{chat(`"response_format":{"type":"json_schema"}`), invalid, "response_format.json_schema"},
		{chat(`"response_format":{"type":"json_schema","json_schema":{"name":"a"}}`), invalid, "response_format.json_schema.schema"},
		{chat(`"response_format":{"type":"json_schema","json_schema":{"name":1,"schema":{}}}`), invalid, "response_format.json_schema.name"},
		{chat(`"response_format":{"type":"json_object"},"ignore_eos":true`), invalid, "response_format"},
		{chat(`"modalities":["text","audio"]`), unserved, "modalities"},
		{chat(`"audio":{}`), unserved, "audio"},
		{chat(`"guided_json":{}`), unserved, "guided_json"},
		{chat(`"min_tokens":3`), unserved, "min_tokens"},
		{chat(`"echo":true`), unserved, "echo"},
		{text(`""`, ""), invalid, "prompt"},
		{text(`null`, ""), invalid, "prompt"},
		{text(`7`, ""), invalid, "prompt"},
		{text(`[]`, ""), invalid, "prompt"},
		{text(`[[]]`, ""), invalid, "prompt"},
		{text(`[""]`, ""), invalid, "prompt"},
		{text(`["a",7]`, ""), invalid, "prompt[1]"},
		{text(`[1,"a"]`, ""), invalid, "prompt[1]"},
		{text(`[-1]`, ""), invalid, "prompt[0]"},
		{text(`[{}]`, ""), invalid, "prompt[0]"},
		{text(`["`+strings.Repeat(`a","`, openai.MaxPrompts)+`a"]`, ""), invalid, "prompt"},
		{text(`"a"`, `,"best_of":2`), unserved, "best_of"},
		{text(`"a"`, `,"suffix":"x"`), unserved, "suffix"},
		{text(`"a"`, `,"logprobs":21`), invalid, "logprobs"},
		{text(`"a"`, `,"logprobs":true`), invalid, "logprobs"},
		{text(`"a"`, `,"logprobs":1,"echo":true`), unserved, "echo"},
		{text(`[1]`, `,"echo":true`), unserved, "echo"},
	} {
		parse := openai.ParseChat
		if strings.Contains(c.in, `"prompt":`) {
			parse = openai.ParseText
		}
		_, err := parse([]byte(c.in))
		e := contracts.AsError(err)
		if err == nil || e.Code != c.code || e.Param != c.param || e.Message == "" {
			t.Errorf("%.150s: got %v (param %q), want %s of %q", c.in, err, e.Param, c.code, c.param)
		}
	}
}

// FuzzParse: any body is either refused with a code and a text, or gives jobs that hold together.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":2,"n":3,"stop":["a"],"metadata":{"a":"b"}}`,
		`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"stream":true,"stream_options":{"include_usage":true}}`,
		`{"model":"m","prompt":["a",[1,2]],"n":2,"best_of":2,"echo":false,"logit_bias":{"1":2.5},"service_tier":"flex","priority":-1}`,
		`{"model":"m","prompt":[1,2,3],"seed":1e2,"temperature":1e-3}`, `{"model":"m","prompt":[[1],[`, `{"tools":[{"a":{"b":[]}}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func([]byte) (*openai.Request, error){openai.ParseChat, openai.ParseText} {
			r, err := parse(data)
			if err != nil {
				if e := contracts.AsError(err); e.Code.Info().HTTP == 500 || e.Message == "" || !json.Valid([]byte(openai.Marshal(openai.NewError(e)))) {
					t.Fatalf("%q: %v has no code or text of its own", data, err)
				}
				continue
			}
			for _, j := range r.Jobs {
				own := *j
				own.ID, own.Tenant = "j", "t"
				if err := own.Validate(); err != nil {
					t.Fatalf("%q gave a job that is not valid: %v", data, err)
				}
				if frame, err := contracts.Encode(&own); err != nil {
					t.Fatalf("%q: %v", data, err)
				} else if err := contracts.Decode(frame, new(contracts.Job)); err != nil {
					t.Fatalf("%q gave a job that the wire refuses: %v", data, err)
				}
			}
			if len(r.Jobs) == 0 || r.Choices < 1 || r.Choices > contracts.MaxChoices {
				t.Fatalf("%q: %d jobs of %d choices", data, len(r.Jobs), r.Choices)
			}
		}
	})
}
