package openai

import (
	"strings"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
)

// params reads the sampling parameters, OpenAI's and the usual extras of vLLM.
func params(f *body.Fields) contracts.Params {
	p := contracts.Params{
		Temperature:       f.Float("temperature"),
		TopP:              f.Float("top_p"),
		TopK:              f.Int("top_k"),
		MinP:              f.Float("min_p"),
		Seed:              f.Int64("seed"),
		Stop:              f.Strings("stop", contracts.MaxStops),
		N:                 f.Int("n"),
		RepetitionPenalty: f.Float("repetition_penalty"),
		PresencePenalty:   f.Float("presence_penalty"),
		FrequencyPenalty:  f.Float("frequency_penalty"),
		LogitBias:         f.FloatMap("logit_bias", contracts.MaxLogitBias),
		IgnoreEOS:         f.Bool("ignore_eos"),
		ResponseFormat:    ResponseFormat(f),
	}
	if p.TopK != nil && *p.TopK == -1 { // vLLM's way to say off
		p.TopK = nil
	}
	return p
}

// ResponseFormat reads the parameter of that name: OpenAI's, or llama.cpp's json_object with a schema.
func ResponseFormat(f *body.Fields) *contracts.ResponseFormat {
	o := f.Object("response_format")
	if o == nil {
		return nil
	}
	format := &contracts.ResponseFormat{Type: o.Text("type")}
	holder := o.Object("json_schema")
	switch {
	case o.Get("schema").Null():
	case format.Type == contracts.FormatObject && holder == nil:
		format.Type, holder = contracts.FormatSchema, o
	default:
		o.Failf("schema", "response_format.schema stands beside the type json_object alone: put it into response_format.json_schema")
	}
	if holder != nil {
		schema := holder.Get("schema")
		if schema.Null() {
			holder.Failf("schema", "%s is missing: send a JSON Schema", schema.Path())
		}
		format.Schema = &contracts.Schema{Name: holder.Text("name"), Schema: string(schema.Raw())}
		if schema.IsText() { // as it is over NATS
			format.Schema.Schema = holder.Text("schema")
		}
		f.Fail(holder.Err())
	}
	f.Fail(o.Err())
	if format.Type == contracts.FormatText && format.Schema == nil {
		return nil
	}
	return format // what does not go together, the job's own check refuses, over NATS as here
}

// neutral tells whether a value of a parameter that is not served asks for nothing.
type neutral func(body.Value) bool

func never(body.Value) bool       { return false }
func emptyList(v body.Value) bool { e, err := v.List(0); return err == nil && len(e) == 0 }
func emptyText(v body.Value) bool { s, err := v.Text(); return err == nil && s == "" }
func isFalse(v body.Value) bool   { b, err := v.Bool(); return err == nil && !b }
func isTrue(v body.Value) bool    { b, err := v.Bool(); return err == nil && b }
func isZero(v body.Value) bool    { n, err := v.Float(); return err == nil && n == 0 }
func isOne(v body.Value) bool     { n, err := v.Float(); return err == nil && n == 1 }
func noneOrAuto(v body.Value) bool {
	s, err := v.Text()
	return err == nil && (s == "none" || s == "auto")
}
func onlyText(v body.Value) bool {
	e, err := v.List(1)
	return err == nil && len(e) == 1 && isText(e[0])
}
func isText(v body.Value) bool { s, err := v.Text(); return err == nil && s == "text" }

// rule is a parameter that is not served, with the values of it that ask for nothing.
type rule struct {
	name string
	ok   neutral
}

// chatOnly, textOnly, sampling and messageOnly list the parameters that would change the meaning of a
// reply and are not served. A parameter that stands in no list and is read nowhere is unknown and
// ignored, as other servers do.
var (
	chatOnly = []rule{
		{"tools", emptyList}, {"tool_choice", noneOrAuto}, {"functions", emptyList}, {"function_call", noneOrAuto},
		{"modalities", onlyText}, {"audio", never}, {"web_search_options", never},
		{"moderation", never}, {"continue_final_message", isFalse}, {"add_generation_prompt", isTrue},
		{"chat_template", emptyText}, {"chat_template_kwargs", never}, {"documents", emptyList}, {"echo", isFalse},
	}
	textOnly = []rule{{"suffix", emptyText}, {"prompt_embeds", never}}
	sampling = []rule{
		{"min_tokens", isZero}, {"stop_token_ids", emptyList}, {"bad_words", emptyList}, {"allowed_token_ids", emptyList},
		{"use_beam_search", isFalse}, {"length_penalty", isOne}, {"prompt_logprobs", never}, {"include_stop_str_in_output", isFalse},
		{"skip_special_tokens", isTrue}, {"truncate_prompt_tokens", never}, {"logits_processors", emptyList},
		{"structured_outputs", never}, {"guided_json", never}, {"guided_regex", never}, {"guided_choice", never},
		{"guided_grammar", never}, {"grammar", emptyText}, {"json_schema", never},
	}
	messageOnly = []rule{{"tool_calls", emptyList}, {"function_call", never}, {"audio", never}}
)

func refuseUnsupported(f *body.Fields, lists ...[]rule) {
	for _, list := range lists {
		for _, r := range list {
			if v := f.Get(r.name); !v.Null() && !r.ok(v) {
				f.Unsupported(r.name, "%s is not served yet: leave it out", r.name)
			}
		}
	}
}

// messages reads the turns of a chat.
func messages(f *body.Fields) []contracts.Message {
	list := f.List("messages", contracts.MaxMessages)
	if len(list) == 0 {
		f.Failf("messages", "messages is missing or empty: send at least one message")
		return nil
	}
	out := make([]contracts.Message, 0, len(list))
	for _, v := range list {
		m, err := v.Object()
		if err != nil {
			f.Fail(err)
			return nil
		}
		refuseUnsupported(m, messageOnly)
		if m.Get("role").Null() {
			m.Failf("role", "%s.role is missing", v.Path())
		}
		out = append(out, contracts.Message{Role: m.Text("role"), Content: content(m, v.Path()), Name: m.Text("name")})
		f.Fail(m.Err())
	}
	return out
}

// content is a message's text: a string, or text parts joined by line ends, as vLLM and llama.cpp do.
func content(m *body.Fields, path string) string {
	v := m.Get("content")
	switch {
	case v.Null():
		m.Failf("content", "%s.content is missing: send a string or an array of text parts", path)
		return ""
	case !v.IsList():
		if !v.IsText() {
			m.Failf("content", "%s.content must be a string or an array of text parts", path)
		}
		return m.Text("content")
	}
	parts := m.List("content", contracts.MaxMessages)
	if len(parts) == 0 {
		m.Failf("content", "%s.content is an empty array: send at least one text part", path)
	}
	texts := make([]string, 0, len(parts))
	for _, p := range parts {
		o, err := p.Object()
		if err != nil {
			m.Fail(err)
			return ""
		}
		switch kind := o.Text("type"); kind {
		case "text":
			if o.Get("text").Null() {
				o.Failf("text", "%s.text is missing", p.Path())
			}
			texts = append(texts, o.Text("text"))
		case "":
			o.Failf("type", "%s.type is missing: only text parts are served", p.Path())
		default:
			o.Unsupported("type", "content parts of type %q are not served: send text parts", kind)
		}
		m.Fail(o.Err())
	}
	return strings.Join(texts, "\n")
}

// cutParams takes the job's name for its parameters off, which OpenAI's requests do not have.
func cutParams(param string) (string, bool) { return strings.CutPrefix(param, "params.") }
