package admission

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"sync"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/runtime/grammar"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// Message is one turn of a chat, as a [Tokenizer] reads it.
type Message = tokenizer.Message

// render returns the prompt as token ids. A prompt of no tokens is refused, and so are token ids that
// the model does not have, in the prompt and in logit_bias, and schemas that cannot be held to.
func render(j *contracts.Job, c *Catalog, m *Model) ([]int32, error) {
	for id := range j.Params.LogitBias {
		if n, err := strconv.Atoi(id); err != nil || n >= m.Vocab {
			return nil, contracts.Invalid("params.logit_bias", "logit_bias names token %s, model %s has tokens 0 to %d", id, m.Name, m.Vocab-1)
		}
	}
	if f := j.Params.ResponseFormat; f != nil && f.Schema != nil {
		if err := c.schemas.check(f.Schema.Schema); err != nil {
			return nil, contracts.Invalid("params.response_format", "the schema of response_format is %v", err)
		}
	}
	var ids []int32
	switch {
	case j.Kind == contracts.KindChat:
		messages := make([]tokenizer.Message, len(j.Messages))
		for i, msg := range j.Messages {
			messages[i] = tokenizer.Message{Role: msg.Role, Content: msg.Content, Name: msg.Name}
		}
		var err error
		if ids, err = m.Tokenizer.Chat(messages, true); err != nil {
			return nil, contracts.Invalid("messages", "the messages do not fit the chat template of model %s: %v", m.Name, err)
		}
	case len(j.Tokens) > 0:
		for i, id := range j.Tokens {
			if id < 0 || int(id) >= m.Vocab {
				return nil, contracts.Invalid("tokens", "tokens[%d] is %d, model %s has tokens 0 to %d", i, id, m.Name, m.Vocab-1)
			}
		}
		ids = append(ids, j.Tokens...)
	default:
		ids = m.Tokenizer.Encode(j.Prompt)
	}
	if len(ids) == 0 {
		return nil, contracts.Invalid(inputParam(j), "the prompt has no token that model %s knows: send other text", m.Name)
	}
	return ids, nil
}

// schemas remembers those that were usable of late: the prompts of a request have the same, and often requests too.
type schemas struct {
	mu   sync.Mutex
	good [16]string
	next int
}

// check tells why a schema cannot be held to. It compiles without the lock: that may take a while, and others wait.
func (s *schemas) check(text string) error {
	s.mu.Lock()
	known := slices.Contains(s.good[:], text)
	s.mu.Unlock()
	if known && text != "" {
		return nil
	}
	if _, err := grammar.Schema(text); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.good[s.next] = text
	s.next = (s.next + 1) % len(s.good)
	return nil
}

func inputParam(j *contracts.Job) string {
	switch {
	case j.Kind == contracts.KindChat:
		return "messages"
	case len(j.Tokens) > 0:
		return "tokens"
	case len(j.Rows) > 0:
		return "rows"
	case j.Kind == contracts.KindEmbed:
		return "input"
	case j.Kind == contracts.KindTensor:
		return "tensors"
	}
	return "prompt"
}

// Digest is the SHA-256, in hexadecimal, of what the job asks: model, kind, input and parameters as
// they were given, and [LabelParts]. Times, class, deadline and the other labels are left out, so that a
// repeated submit of the same request has the same digest. The job must be valid.
func Digest(j *contracts.Job) (string, error) {
	// JSON because it sorts the keys of every map; numbers and valid UTF-8 are written one way only.
	data, err := json.Marshal(struct {
		Model    string
		Kind     contracts.Kind
		Messages []contracts.Message
		Prompt   string
		Tokens   []int32
		Params   contracts.Params
		Input    []string           `json:",omitempty"`
		Rows     [][]int32          `json:",omitempty"`
		Truncate bool               `json:",omitempty"`
		Tensors  []contracts.Tensor `json:",omitempty"`
		Outputs  []string           `json:",omitempty"`
		Parts    string             `json:",omitempty"`
	}{j.Model, j.Kind, j.Messages, j.Prompt, j.Tokens, j.Params, j.Input, j.Rows, j.Truncate, j.Tensors, j.Outputs, j.Labels[LabelParts]})
	if err != nil {
		return "", contracts.Invalid("params", "the parameters cannot be written down: %v", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}
