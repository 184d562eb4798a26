package tokenizer

import (
	"encoding/json"
	"fmt"
)

// configJSON is what tokenizer_config.json says of chats.
type configJSON struct {
	BOS      tokenName       `json:"bos_token"`
	EOS      tokenName       `json:"eos_token"`
	Template json.RawMessage `json:"chat_template"`
}

// tokenName is a text, or an object with the text as its content.
type tokenName string

func (n *tokenName) UnmarshalJSON(b []byte) error {
	var text *string
	if json.Unmarshal(b, &text) == nil {
		if text != nil {
			*n = tokenName(*text)
		}
		return nil
	}
	var added struct {
		Content string `json:"content"`
	}
	err := json.Unmarshal(b, &added)
	*n = tokenName(added.Content)
	return err
}

// readConfig returns the names of the tokens at the edges of a text, as templates call them, and what
// chooseTemplate reads. A file that names no such token means that there is none.
func readConfig(b []byte) (names map[string]string, templates json.RawMessage, err error) {
	names = map[string]string{}
	if len(b) == 0 {
		return names, nil, nil
	}
	var c configJSON
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, nil, err
	}
	names["bos_token"], names["eos_token"] = string(c.BOS), string(c.EOS)
	return names, c.Template, nil
}

// chooseTemplate reads one template, "" when there is none, or a list of named ones, of which it takes the default.
func chooseTemplate(raw json.RawMessage) (string, error) {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var list []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", fmt.Errorf("tokenizer_config.json: chat_template is neither a text nor a list of named templates: %w", err)
	}
	for _, t := range list {
		if t.Name == "default" {
			return t.Template, nil
		}
	}
	return "", fmt.Errorf("tokenizer_config.json: chat_template: %d templates, none named default", len(list))
}
