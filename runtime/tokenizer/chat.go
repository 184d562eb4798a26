package tokenizer

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/pelton-run/pelton/runtime/tokenizer/template"
)

// Message is one turn of a chat.
type Message struct {
	Role    string // system, user, assistant, tool or developer
	Content string
	Name    string // optional
}

// Errors of Chat.
var (
	// ErrMessages is returned, wrapped, when the conversation is at fault: no or too many messages, an
	// unknown role, or a template that refuses it. The caller can change it; the text says how.
	ErrMessages = errors.New("bad messages")
	// ErrTemplate is returned, wrapped, when the model's template is at fault: it cannot be compiled, breaks or
	// exceeds its limits. Only another template helps; plain prompts are taken.
	ErrTemplate = template.ErrFailed
	// ErrNoTemplate is returned for a model without a chat template; it takes plain prompts only.
	ErrNoTemplate = errors.New("the model has no chat template; send a plain prompt instead")
)

// chatML is the template of models that have its tokens and bring no template of their own.
const chatML = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}" +
	"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

// chatTemplate is a compiled template and the special tokens that it can write.
type chatTemplate struct {
	source   string
	template *template.Template
	special  addedTokens
}

// newChatTemplate compiles source. ErrNoTemplate: there is nothing to compile.
func newChatTemplate(source string, t *Tokenizer, names map[string]string) (*chatTemplate, error) {
	if strings.TrimSpace(source) == "" {
		if _, ok := t.Special("<|im_start|>"); !ok {
			return nil, ErrNoTemplate
		}
		source = chatML
	}
	compiled, err := template.Compile(source, names)
	if err != nil {
		return nil, err
	}
	var special []addedToken
	for _, a := range t.added.tokens {
		if a.special {
			special = append(special, a)
		}
	}
	return &chatTemplate{source: source, template: compiled, special: newAddedTokens(special)}, nil
}

// edgeTokens reads the names of the tokens at the edges of a text from the post-processor, the only
// place in tokenizer.json that tells them. What tokenizer_config.json says comes first.
func edgeTokens(f *fileJSON) map[string]string {
	type processor struct {
		Type       string            `json:"type"`
		Processors []json.RawMessage `json:"processors"`
		Single     []struct {
			SpecialToken *struct {
				ID string `json:"id"`
			} `json:"SpecialToken"`
		} `json:"single"`
	}
	names := map[string]string{}
	var top processor
	if json.Unmarshal(f.PostProcessor, &top) != nil {
		return names
	}
	all := []processor{top}
	for _, raw := range top.Processors {
		var p processor
		if json.Unmarshal(raw, &p) == nil {
			all = append(all, p)
		}
	}
	for _, p := range all {
		if p.Type != "TemplateProcessing" || len(p.Single) < 2 {
			continue
		}
		if s := p.Single[0].SpecialToken; s != nil {
			names["bos_token"] = s.ID
		}
		if s := p.Single[len(p.Single)-1].SpecialToken; s != nil {
			names["eos_token"] = s.ID
		}
	}
	return names
}

// maxMessages bounds a conversation; a turn costs some 50 µs of rendering.
const maxMessages = 4096

// ChatError is why Chat takes no messages: ErrNoTemplate when neither the model folder has a template nor the
// vocabulary ChatML's tokens, or ErrTemplate, wrapped; nil if it does.
func (t *Tokenizer) ChatError() error { return t.noChat }

// Chat renders messages with the model's template and returns the token ids of the result. With
// addGenerationPrompt it ends where the assistant's answer begins.
//
// Only special tokens that the template itself writes become special tokens. What looks like one in a
// message stays text: before rendering it is replaced by a placeholder that occurs nowhere in the
// messages, the rendered text is cut at special tokens, and the pieces get their text back. The same
// holds for a message that ends in the middle of such a name, and for what is left of one when the template
// takes something out of its middle.
//
// The template runs in a sandbox without files, with bounds on steps, time and output; it sees
// messages, add_generation_prompt, tools and documents (always none), bos_token and eos_token if
// tokenizer_config.json or tokenizer.json tells them, raise_exception and strftime_now (in UTC).
func (t *Tokenizer) Chat(messages []Message, addGenerationPrompt bool) ([]int32, error) {
	return t.chatOf(messages, addGenerationPrompt, 0)
}

// chatOf is Chat that may stop behind most tokens; 0 is never.
func (t *Tokenizer) chatOf(messages []Message, addGenerationPrompt bool, most int) ([]int32, error) {
	if t.noChat != nil {
		return nil, t.noChat
	}
	if err := checkMessages(messages); err != nil {
		return nil, err
	}
	m := newMask(t.chat, messages)
	turns := make([]template.Message, len(messages))
	for i := range messages {
		turns[i] = template.Message{Role: messages[i].Role, Content: m.hide(validUTF8(messages[i].Content)), Name: m.hide(validUTF8(messages[i].Name))}
	}
	text, err := t.chat.template.Render(turns, addGenerationPrompt, m.hideMade)
	if errors.Is(err, template.ErrRaised) {
		return nil, fmt.Errorf("%w: %w", ErrMessages, err)
	}
	if err != nil {
		return nil, err
	}
	s := t.scratch.take()
	defer t.scratch.give(s)
	ids := make([]int32, 0, len(text)/3+8)
	t.chat.special.split(text, true, func(piece string) {
		e := encoder{t: t, scratch: s, ids: ids, most: most}
		t.added.split(m.show(piece), false, e.text, e.added)
		ids = e.ids
	}, func(id int32) { ids = append(ids, id) })
	return ids, nil
}

func checkMessages(messages []Message) error {
	if len(messages) == 0 {
		return fmt.Errorf("%w: no message; send at least one", ErrMessages)
	}
	if len(messages) > maxMessages {
		return fmt.Errorf("%w: %d messages, at most %d are taken", ErrMessages, len(messages), maxMessages)
	}
	for i := range messages {
		switch messages[i].Role {
		case "system", "user", "assistant", "tool", "developer":
		default:
			return fmt.Errorf("%w: messages[%d].role is %.40q, want system, user, assistant, tool or developer", ErrMessages, i, messages[i].Role)
		}
	}
	return nil
}

// mask replaces names of special tokens in messages by placeholders and back. A placeholder is a
// private-use character, a number in private-use digits, and the character again: nothing that a
// template trims, escapes or changes the case of.
type mask struct {
	special *addedTokens
	fence   string // begins and ends a placeholder; occurs in no message
	hidden  []string
	number  map[string]int
}

func newMask(t *chatTemplate, messages []Message) *mask {
	m := &mask{special: &t.special, fence: "\U000f0000"}
	for m.occurs(t.source, messages) {
		m.fence = randomFence()
	}
	return m
}

func (m *mask) occurs(source string, messages []Message) bool {
	found := strings.Contains(source, m.fence)
	for i := range messages {
		found = found || strings.Contains(messages[i].Content, m.fence) || strings.Contains(messages[i].Name, m.fence)
	}
	return found
}

// randomFence is three different private-use characters that no sender can foresee. As they differ,
// no end of the fence is a start of it, so text beside a fence cannot be mistaken for a part of it.
func randomFence() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	var fence strings.Builder
	for i := range 3 {
		fence.WriteRune(0xf0000 + rune(i)*0x5000 + (rune(b[2*i])<<8|rune(b[2*i+1]))%0x5000)
	}
	return fence.String()
}

// blank is white space as Python sees it, whose strip templates use.
func blank(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// hide replaces every name of a special token in s, and the start of one that s ends with.
func (m *mask) hide(s string) string {
	var b strings.Builder
	start := 0
	for start < len(s) {
		at, t := m.special.find(s, start)
		if t == nil {
			break
		}
		b.WriteString(s[start:at])
		m.put(&b, t.text)
		start = at + len(t.text)
	}
	// Templates trim messages, so the end that counts may have white space after it.
	rest := s[start:]
	trimmed := strings.TrimRightFunc(rest, blank)
	if n := m.special.partial(trimmed); n > 0 {
		b.WriteString(trimmed[:len(trimmed)-n])
		m.put(&b, trimmed[len(trimmed)-n:])
		rest = rest[len(trimmed):]
	} else if start == 0 {
		return s
	}
	b.WriteString(rest)
	return b.String()
}

// hideMade hides names in what a template makes of parts, such as a message without some of its words, unless a
// part holds one: then the template wrote it.
func (m *mask) hideMade(s string, parts []string) string {
	for _, p := range parts {
		if _, t := m.special.find(p, 0); t != nil {
			return s
		}
	}
	return m.hide(s)
}

func (m *mask) put(b *strings.Builder, name string) {
	n, ok := m.number[name]
	if !ok {
		if m.number == nil {
			m.number = map[string]int{}
		}
		n = len(m.hidden)
		m.number[name], m.hidden = n, append(m.hidden, name)
	}
	b.WriteString(m.fence)
	for _, digit := range strconv.Itoa(n) {
		b.WriteRune(0x100000 + digit)
	}
	b.WriteString(m.fence)
}

// show puts the names back.
func (m *mask) show(s string) string {
	if len(m.hidden) == 0 || !strings.Contains(s, m.fence) {
		return s
	}
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, m.fence)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		digits, rest, _ := strings.Cut(after, m.fence)
		n := 0
		for _, r := range digits {
			n = n*10 + int(r-0x100000-'0')
			if n < 0 || n >= len(m.hidden) {
				break
			}
		}
		if digits != "" && n >= 0 && n < len(m.hidden) {
			b.WriteString(m.hidden[n])
		}
		s = rest
	}
}
