package contracts

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Version is the protocol version that this code speaks. Readers refuse higher ones.
const Version = 1

// Kind says what is asked of a model.
type Kind string

// The kinds of jobs. A model serves either chat and text, or embed, or tensor.
const (
	KindChat   Kind = "chat"   // Messages in, streamed text out
	KindText   Kind = "text"   // Prompt (or Tokens) in, streamed text out
	KindEmbed  Kind = "embed"  // Input (or Rows) in, one vector for each out
	KindTensor Kind = "tensor" // Tensors in, tensors out
)

// Class is the priority of a job: p0 goes first.
type Class string

// The priority classes, most urgent first.
const (
	P0 Class = "p0" // realtime
	P1 Class = "p1" // interactive
	P2 Class = "p2" // standard
	P3 Class = "p3" // batch
)

// Classes lists the priority classes, most urgent first.
var Classes = []Class{P0, P1, P2, P3}

// Size is a size class: the KV cache a job needs, in tokens, rounded up.
type Size string

// The size classes, smallest first.
const (
	SizeS Size = "s" // up to 1,024 tokens
	SizeM Size = "m" // up to 4,096
	SizeL Size = "l" // up to 16,384
	SizeX Size = "x" // above
)

// Sizes lists the size classes, smallest first.
var Sizes = []Size{SizeS, SizeM, SizeL, SizeX}

// Tokens is the most tokens that a job of this size class needs; [math.MaxInt32] for SizeX.
func (s Size) Tokens() int {
	switch s {
	case SizeS:
		return 1024
	case SizeM:
		return 4096
	case SizeL:
		return 16384
	}
	return math.MaxInt32
}

// SizeFor is the size class of a job that needs KV cache for n tokens.
func SizeFor(n int) Size {
	for _, s := range Sizes {
		if n <= s.Tokens() {
			return s
		}
	}
	return SizeX
}

// Limits on what one job may carry. Lengths are in bytes unless they say otherwise.
const (
	MaxIDLength     = 128
	MaxNameLength   = 128 // tenant and model names
	MaxMessages     = 1024
	MaxStops        = 16
	MaxStopLength   = 256
	MaxChoices      = 16
	MaxTopLogprobs  = 20
	MaxLabels       = 32
	MaxLabelLength  = 256     // of a label's name
	MaxLabelValue   = 4 * 512 // OpenAI's metadata has values of 512 characters
	MaxLogitBias    = 1024
	MaxMaxTokens    = 1 << 20
	MaxPromptLength = 4 << 20
)

// Message is one turn of a chat.
type Message struct {
	Role    string `msgpack:"role" json:"role"`
	Content string `msgpack:"content" json:"content"`
	Name    string `msgpack:"name,omitempty" json:"name,omitempty"`
}

// Params steer generation. A nil pointer means "the default"; zero is a value of its own.
type Params struct {
	MaxTokens         *int            `msgpack:"max_tokens,omitempty" json:"max_tokens,omitempty"`                 // at least 1; default 512 for chat, 16 for text
	Temperature       *float64        `msgpack:"temperature,omitempty" json:"temperature,omitempty"`               // 0 to 2; 0 is greedy; default 1
	TopP              *float64        `msgpack:"top_p,omitempty" json:"top_p,omitempty"`                           // above 0, up to 1; default 1
	TopK              *int            `msgpack:"top_k,omitempty" json:"top_k,omitempty"`                           // 0 is off; default 0
	MinP              *float64        `msgpack:"min_p,omitempty" json:"min_p,omitempty"`                           // 0 to 1; default 0
	Seed              *int64          `msgpack:"seed,omitempty" json:"seed,omitempty"`                             // default: drawn by the dispatcher
	Stop              []string        `msgpack:"stop,omitempty" json:"stop,omitempty"`                             // text ends before the first of these
	N                 *int            `msgpack:"n,omitempty" json:"n,omitempty"`                                   // choices, 1 to 16; default 1
	RepetitionPenalty *float64        `msgpack:"repetition_penalty,omitempty" json:"repetition_penalty,omitempty"` // above 0, up to 10; default 1
	PresencePenalty   *float64        `msgpack:"presence_penalty,omitempty" json:"presence_penalty,omitempty"`     // -2 to 2; default 0
	FrequencyPenalty  *float64        `msgpack:"frequency_penalty,omitempty" json:"frequency_penalty,omitempty"`   // -2 to 2; default 0
	LogitBias         LogitBias       `msgpack:"logit_bias,omitempty" json:"logit_bias,omitempty"`                 // token id as text -> -100 to 100
	Logprobs          *int            `msgpack:"logprobs,omitempty" json:"logprobs,omitempty"`                     // nil: none; k: the chosen token's and the k most likely ones', up to 20
	IgnoreEOS         bool            `msgpack:"ignore_eos,omitempty" json:"ignore_eos,omitempty"`                 // go on past end tokens until max_tokens (benchmarks)
	ResponseFormat    *ResponseFormat `msgpack:"response_format,omitempty" json:"response_format,omitempty"`       // default: text
}

// Types of a response format.
const (
	FormatText   = "text"        // any text
	FormatObject = "json_object" // a JSON object
	FormatSchema = "json_schema" // JSON that satisfies a schema
)

// ResponseFormat says what the text of an answer is. An answer that ends with [FinishLength] is the beginning of such
// a text.
type ResponseFormat struct {
	Type   string  `msgpack:"type" json:"type"`
	Schema *Schema `msgpack:"json_schema,omitempty" json:"json_schema,omitempty"` // of FormatSchema
}

// Schema is a JSON Schema, as its text: maps do not keep the order of properties, in which an answer has them.
type Schema struct {
	Name   string `msgpack:"name,omitempty" json:"name,omitempty"` // for people
	Schema string `msgpack:"schema" json:"schema"`
}

// UnmarshalJSON takes the schema itself as well as its text.
func (s *Schema) UnmarshalJSON(data []byte) error {
	var v struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	s.Name, s.Schema = v.Name, string(v.Schema)
	if len(v.Schema) > 0 && v.Schema[0] == '"' {
		return json.Unmarshal(v.Schema, &s.Schema)
	}
	return nil
}

// Job is the unit of work that a producer submits.
type Job struct {
	V             int               `msgpack:"v" json:"v"`
	ID            string            `msgpack:"job" json:"job"` // chosen by the producer (ULID, UUIDv7 or any key)
	Tenant        string            `msgpack:"tenant" json:"tenant"`
	Model         string            `msgpack:"model" json:"model"`
	Kind          Kind              `msgpack:"kind" json:"kind"`
	Class         Class             `msgpack:"class,omitempty" json:"class,omitempty"`           // default p2
	Deadline      int64             `msgpack:"deadline,omitempty" json:"deadline,omitempty"`     // Unix milliseconds; 0 is none
	NotBefore     int64             `msgpack:"not_before,omitempty" json:"not_before,omitempty"` // Unix milliseconds: the job is not started earlier; 0 is at once
	Messages      []Message         `msgpack:"messages,omitempty" json:"messages,omitempty"`
	Prompt        string            `msgpack:"prompt,omitempty" json:"prompt,omitempty"`
	Tokens        []int32           `msgpack:"tokens,omitempty" json:"tokens,omitempty"`     // a text prompt as token ids, instead of Prompt
	Input         []string          `msgpack:"input,omitempty" json:"input,omitempty"`       // texts to embed
	Rows          [][]int32         `msgpack:"rows,omitempty" json:"rows,omitempty"`         // the same as token ids, just as the model reads them
	Truncate      bool              `msgpack:"truncate,omitempty" json:"truncate,omitempty"` // of Input: cut what is longer than the model reads, instead of refusing the job
	Tensors       []Tensor          `msgpack:"tensors,omitempty" json:"tensors,omitempty"`
	Outputs       []string          `msgpack:"outputs,omitempty" json:"outputs,omitempty"` // tensors that are wanted; none is all
	Params        Params            `msgpack:"params,omitempty" json:"params,omitzero"`
	Labels        map[string]string `msgpack:"labels,omitempty" json:"labels,omitempty"`
	CancelOnLeave bool              `msgpack:"cancel_on_leave,omitempty" json:"cancel_on_leave,omitempty"`
	Submitted     int64             `msgpack:"submitted,omitempty" json:"submitted,omitempty"` // Unix milliseconds
}

// Admitted is a job as the dispatcher admitted it and as it waits in JetStream: the prompt is already
// token ids and every default is filled in, so that any worker computes the same answer.
type Admitted struct {
	V        int     `msgpack:"v" json:"v"`
	Job      Job     `msgpack:"job" json:"job"`             // without Messages and Prompt
	Tokens   []int32 `msgpack:"tokens" json:"tokens"`       // the rendered prompt
	KVTokens int     `msgpack:"kv_tokens" json:"kv_tokens"` // memory needed, in tokens: of KV cache over all choices, or of activations over all rows
	Digest   string  `msgpack:"digest" json:"digest"`       // of what the producer asked, to tell a repeat from a conflict
	// Rows are the token ids of an embed job's inputs.
	Rows [][]int32 `msgpack:"rows,omitempty" json:"rows,omitempty"`
}

// Validate checks everything that can be checked without knowing the model. The error is an [*Error]
// with CodeInvalidArgument (or CodeUnimplemented) that names the parameter.
func (j *Job) Validate() error {
	switch {
	case j.V > Version:
		return &Error{Code: CodeUnimplemented, Param: "v", Message: fmt.Sprintf("version %d is newer than this dispatcher's %d: upgrade it", j.V, Version)}
	case j.V < 0:
		return Invalid("v", "version %d does not exist", j.V)
	case j.ID == "" || len(j.ID) > MaxIDLength || !utf8.ValidString(j.ID):
		return Invalid("job", "job id must be 1 to %d bytes of UTF-8, got %d", MaxIDLength, len(j.ID))
	case j.Deadline < 0 || j.Submitted < 0 || j.NotBefore < 0:
		return Invalid("deadline", "times are Unix milliseconds and not negative")
	case j.NotBefore > 0 && j.Deadline > 0 && j.Deadline <= j.NotBefore:
		return Invalid("not_before", "the job may start only after its deadline: move one of them")
	}
	if err := validName("tenant", j.Tenant); err != nil {
		return err
	}
	if err := validName("model", j.Model); err != nil {
		return err
	}
	if j.Class != "" && !j.Class.Valid() {
		return Invalid("class", "class %.40q is not one of p0, p1, p2, p3", j.Class)
	}
	if err := j.validateInput(); err != nil {
		return err
	}
	if len(j.Labels) > MaxLabels {
		return Invalid("labels", "%d labels, at most %d are allowed", len(j.Labels), MaxLabels)
	}
	for k, v := range j.Labels {
		if len(k) == 0 || len(k) > MaxLabelLength || len(v) > MaxLabelValue || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return Invalid("labels", "label names must be 1 to %d bytes of UTF-8, values at most %d", MaxLabelLength, MaxLabelValue)
		}
	}
	return j.Params.validate()
}

// Valid tells whether c is one of the four classes.
func (c Class) Valid() bool { return c == P0 || c == P1 || c == P2 || c == P3 }

func (j *Job) validateInput() error {
	switch j.Kind {
	case KindChat:
		return j.validateChat()
	case KindText:
		if len(j.Messages) > 0 {
			return Invalid("messages", "a text job takes prompt, not messages: use kind chat")
		}
		if (j.Prompt == "") == (len(j.Tokens) == 0) {
			return Invalid("prompt", "a text job needs a prompt that is not empty (or tokens, not both)")
		}
		if len(j.Tokens) > MaxMaxTokens || slices.ContainsFunc(j.Tokens, func(t int32) bool { return t < 0 }) {
			return Invalid("tokens", "tokens must be at most %d ids, none negative", MaxMaxTokens)
		}
		return validText("prompt", j.Prompt)
	case KindEmbed:
		return j.validateEmbed()
	case KindTensor:
		return j.validateTensor()
	case "":
		return Invalid("kind", "kind is missing: use chat, text, embed or tensor")
	}
	return Invalid("kind", "kind %.40q is not one of chat, text, embed, tensor", j.Kind)
}

func (j *Job) validateChat() error {
	if j.Prompt != "" || len(j.Tokens) > 0 {
		return Invalid("prompt", "a chat job takes messages, not prompt or tokens: use kind text")
	}
	if len(j.Messages) == 0 || len(j.Messages) > MaxMessages {
		return Invalid("messages", "a chat job needs 1 to %d messages, got %d", MaxMessages, len(j.Messages))
	}
	for i, m := range j.Messages {
		switch m.Role {
		case "system", "user", "assistant", "tool", "developer":
		default:
			return Invalid(fmt.Sprintf("messages[%d].role", i), "role %.40q is not one of system, user, assistant, tool, developer", m.Role)
		}
		if err := validText(fmt.Sprintf("messages[%d].content", i), m.Content); err != nil {
			return err
		}
		if m.Name != "" {
			if err := validName(fmt.Sprintf("messages[%d].name", i), m.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func validText(param, s string) error {
	if len(s) > MaxPromptLength {
		return &Error{Code: CodePayloadTooLarge, Param: param, Message: fmt.Sprintf("%s has %d bytes, at most %d are allowed: shorten it", param, len(s), MaxPromptLength)}
	}
	if !utf8.ValidString(s) {
		return Invalid(param, "%s is not valid UTF-8", param)
	}
	return nil
}

func validName(param, s string) error {
	if s == "" || len(s) > MaxNameLength || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return Invalid(param, "%s must be 1 to %d bytes of UTF-8 without control characters", param, MaxNameLength)
	}
	return nil
}

func (p *Params) validate() error {
	if err := errorsFirst(
		intRange("max_tokens", p.MaxTokens, 1, MaxMaxTokens),
		floatRange("temperature", p.Temperature, 0, 2),
		floatRange("top_p", p.TopP, math.SmallestNonzeroFloat64, 1),
		intRange("top_k", p.TopK, 0, math.MaxInt32),
		floatRange("min_p", p.MinP, 0, 1),
		intRange("n", p.N, 1, MaxChoices),
		floatRange("repetition_penalty", p.RepetitionPenalty, math.SmallestNonzeroFloat64, 10),
		floatRange("presence_penalty", p.PresencePenalty, -2, 2),
		floatRange("frequency_penalty", p.FrequencyPenalty, -2, 2),
		intRange("logprobs", p.Logprobs, 0, MaxTopLogprobs),
	); err != nil {
		return err
	}
	if len(p.Stop) > MaxStops {
		return Invalid("params.stop", "%d stop strings, at most %d are allowed", len(p.Stop), MaxStops)
	}
	for _, s := range p.Stop {
		if s == "" || len(s) > MaxStopLength || !utf8.ValidString(s) {
			return Invalid("params.stop", "a stop string must be 1 to %d bytes of UTF-8", MaxStopLength)
		}
	}
	if err := p.validateFormat(); err != nil {
		return err
	}
	return p.validateBias()
}

// validateFormat looks at the form of a response format; who has a compiler of schemas looks at those.
func (p *Params) validateFormat() error {
	f, param := p.ResponseFormat, "params.response_format"
	switch {
	case f == nil:
		return nil
	case f.Type == "":
		return Invalid(param+".type", "the type of a response format is missing: send text, json_object or json_schema")
	case f.Type != FormatText && f.Type != FormatObject && f.Type != FormatSchema:
		return &Error{Code: CodeUnimplemented, Param: param, Message: "response formats are text, json_object and json_schema"}
	case f.Schema == nil && f.Type == FormatSchema:
		return Invalid(param+".json_schema", "the json_schema of a response format of that type is missing: send an object with a schema")
	case f.Schema != nil && f.Type != FormatSchema:
		return Invalid(param+".json_schema", "a response format of type %s has no json_schema: leave it out, or send json_schema as the type", f.Type)
	case f.Type != FormatText && p.IgnoreEOS:
		return Invalid(param, "ignore_eos goes on behind the end of an answer, which has none in JSON: leave one of them out")
	case f.Schema == nil:
		return nil
	}
	if err := validText(param+".json_schema.schema", f.Schema.Schema); err != nil {
		return err
	}
	if f.Schema.Name == "" {
		return nil
	}
	return validName(param+".json_schema.name", f.Schema.Name)
}

func (p *Params) validateBias() error {
	if len(p.LogitBias) > MaxLogitBias {
		return Invalid("params.logit_bias", "%d entries, at most %d are allowed", len(p.LogitBias), MaxLogitBias)
	}
	for k, v := range p.LogitBias {
		if id, err := strconv.ParseInt(k, 10, 32); err != nil || id < 0 || strconv.FormatInt(id, 10) != k {
			return Invalid("params.logit_bias", "key %.20q is not a token id", k)
		}
		if err := floatRange("logit_bias."+k, &v, -100, 100); err != nil {
			return err
		}
	}
	return nil
}

func intRange(name string, v *int, lo, hi int) error {
	if v != nil && (*v < lo || *v > hi) {
		return Invalid("params."+name, "%s is %d, it must be from %d to %d", name, *v, lo, hi)
	}
	return nil
}

func floatRange(name string, v *float64, lo, hi float64) error {
	if v != nil && !(*v >= lo && *v <= hi) { // NaN fails both
		if lo == math.SmallestNonzeroFloat64 {
			return Invalid("params."+name, "%s is %g, it must be above 0 and at most %g", name, *v, hi)
		}
		return Invalid("params."+name, "%s is %g, it must be from %g to %g", name, *v, lo, hi)
	}
	return nil
}

func errorsFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
