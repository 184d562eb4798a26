package openai

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"

	"github.com/pelton-run/pelton/contracts"
)

// Meta is what a reply says of itself beyond the request.
type Meta struct {
	ID          string // of the first job
	Created     int64  // Unix seconds
	Fingerprint string
	Class       contracts.Class // that the jobs really ran in
}

// Assembler turns the chunks of a request's jobs into its reply. Use either Stream and End for a
// streamed reply, or Collect and Whole for one piece. Chunks of one job come in their order; those of
// different jobs may be mixed.
//
// Invariants: each choice gets its role before its text and exactly one finish reason, after all of
// its text; a chunk of a choice that the request did not ask for is an error.
type Assembler struct {
	req     *Request
	head    Reply
	choices []choice
	usage   Usage
}

type choice struct {
	started bool
	finish  string
	text    strings.Builder
	at      position // of the next token
	chat    *ChatLogprobs
	plain   *TextLogprobs
}

// NewAssembler prepares the reply to req.
func NewAssembler(req *Request, meta Meta) *Assembler {
	a := &Assembler{req: req, choices: make([]choice, len(req.Jobs)*req.Choices)}
	a.head = Reply{
		ID: "chatcmpl-" + meta.ID, Object: "chat.completion", Created: meta.Created, Model: req.Model(),
		Fingerprint: meta.Fingerprint, ServiceTier: Tier(meta.Class),
	}
	if req.Kind == contracts.KindText {
		a.head.ID, a.head.Object = "cmpl-"+meta.ID, "text_completion"
	} else if req.Stream {
		a.head.Object = "chat.completion.chunk"
	}
	return a
}

// at is the choice that a chunk of a prompt's job belongs to, and its index in the reply.
func (a *Assembler) at(prompt int, c *contracts.Chunk) (*choice, int, error) {
	if prompt < 0 || prompt >= len(a.req.Jobs) || c.Choice < 0 || c.Choice >= a.req.Choices {
		return nil, 0, contracts.Errorf(contracts.CodeInternal, "a worker sent choice %d of prompt %d, which nobody asked for", c.Choice, prompt)
	}
	i := prompt*a.req.Choices + c.Choice
	return &a.choices[i], i, nil
}

// Event is one JSON value of a streamed reply, about one choice.
type Event struct {
	Choice int
	JSON   []byte
}

// Stream is what a reader of the stream gets for chunk c of the job of the given prompt: no, one or
// several events. Those of a choice depend on that choice's chunks alone. Claims give none. The error is
// the job's own failure or an internal one.
func (a *Assembler) Stream(prompt int, c *contracts.Chunk) ([]Event, error) {
	if err := c.Err(); err != nil || c.IsClaim() {
		return nil, err
	}
	ch, index, err := a.at(prompt, c)
	if err != nil {
		return nil, err
	}
	var out []Event
	if len(c.Tokens) > 0 || c.Text != "" {
		out = a.piece(out, ch, index, c)
	}
	if c.Finish != "" && !c.Final() {
		out = a.finish(out, ch, index, c.Finish)
	}
	if c.Final() {
		a.count(c)
		for i := prompt * a.req.Choices; i < (prompt+1)*a.req.Choices; i++ {
			out = a.finish(out, &a.choices[i], i, c.Finish)
		}
	}
	return out, nil
}

// End is the last JSON value of a stream, with the usage, nil when the request did not ask for it.
func (a *Assembler) End() []byte {
	if !a.req.IncludeUsage {
		return nil
	}
	r := a.head
	r.Choices = []Choice{}
	return Marshal(streamed{Reply: r, Usage: &a.usage})
}

// start gives the choice its role, or the echo of its prompt.
func (a *Assembler) start(out []Event, ch *choice, index int) []Event {
	if ch.started {
		return out
	}
	ch.started = true
	if a.req.Kind == contracts.KindChat {
		return append(out, a.event(Choice{Index: index, Delta: &Delta{Role: "assistant", Content: new(string)}}))
	}
	if echo := a.echo(index); echo != "" {
		ch.at.pass([]byte(echo))
		return append(out, a.event(Choice{Index: index, Text: &echo}))
	}
	return out
}

func (a *Assembler) echo(index int) string {
	if a.req.Echo == nil {
		return ""
	}
	return a.req.Echo[index/a.req.Choices]
}

func (a *Assembler) piece(out []Event, ch *choice, index int, c *contracts.Chunk) []Event {
	out = a.start(out, ch, index)
	logprobs := a.req.Logprobs && len(c.Logprobs) > 0
	if c.Text == "" && !logprobs {
		return out
	}
	text := c.Text
	e := Choice{Index: index}
	if a.req.Kind == contracts.KindChat {
		e.Delta = &Delta{Content: &text}
		if logprobs {
			e.Logprobs = chatLogprobs(c.Logprobs)
		}
	} else {
		e.Text = &text
		if logprobs {
			e.Logprobs = textLogprobs(c.Logprobs, &ch.at)
		}
	}
	return append(out, a.event(e))
}

func (a *Assembler) finish(out []Event, ch *choice, index int, reason string) []Event {
	if ch.finish != "" {
		return out
	}
	out = a.start(out, ch, index)
	ch.finish = reason
	e := Choice{Index: index, Finish: &reason}
	if a.req.Kind == contracts.KindChat {
		e.Delta = &Delta{}
	} else {
		e.Text = new(string)
	}
	return append(out, a.event(e))
}

func (a *Assembler) event(c Choice) Event {
	r := a.head
	r.Choices = []Choice{c}
	if a.req.IncludeUsage {
		return Event{c.Index, Marshal(streamed{Reply: r})}
	}
	return Event{c.Index, Marshal(r)}
}

// Collect takes chunk c of the job of the given prompt for [Assembler.Whole]. The error is the job's
// own failure or an internal one.
func (a *Assembler) Collect(prompt int, c *contracts.Chunk) error {
	if err := c.Err(); err != nil || c.IsClaim() {
		return err
	}
	ch, index, err := a.at(prompt, c)
	if err != nil {
		return err
	}
	if !ch.started {
		ch.started = true
		ch.text.WriteString(a.echo(index))
		ch.at.pass([]byte(a.echo(index)))
	}
	ch.text.WriteString(c.Text)
	if a.req.Logprobs {
		ch.collectLogprobs(a.req.Kind, c.Logprobs)
	}
	if c.Finish != "" && !c.Final() && ch.finish == "" {
		ch.finish = c.Finish
	}
	if c.Final() {
		a.count(c)
		for i := prompt * a.req.Choices; i < (prompt+1)*a.req.Choices; i++ {
			a.choices[i].finish = cmp.Or(a.choices[i].finish, c.Finish)
		}
	}
	return nil
}

func (ch *choice) collectLogprobs(kind contracts.Kind, in []contracts.TokenLogprob) {
	if kind == contracts.KindChat {
		if ch.chat == nil {
			ch.chat = chatLogprobs(nil)
		}
		ch.chat.Content = append(ch.chat.Content, chatLogprobs(in).Content...)
		return
	}
	if ch.plain == nil {
		ch.plain = textLogprobs(nil, &ch.at)
	}
	ch.plain.add(textLogprobs(in, &ch.at))
}

// Whole is the reply after all chunks were collected.
func (a *Assembler) Whole() Reply {
	r := a.head
	r.Usage = &a.usage
	for i := range a.choices {
		ch := &a.choices[i]
		text, finish := ch.text.String(), ch.finish
		if !ch.started {
			text = a.echo(i)
		}
		c := Choice{Index: i, Finish: &finish}
		if a.req.Kind == contracts.KindChat {
			c.Message = &Message{Role: "assistant", Content: text}
			if ch.chat != nil {
				c.Logprobs = ch.chat
			}
		} else {
			c.Text = &text
			if ch.plain != nil {
				c.Logprobs = ch.plain
			}
		}
		r.Choices = append(r.Choices, c)
	}
	return r
}

// count takes from a final record what the reply says of all jobs.
func (a *Assembler) count(c *contracts.Chunk) {
	if c.Claim != nil && c.Claim.Class != "" { // it may have been demoted, or submitted in another class before
		a.head.ServiceTier = Tier(c.Claim.Class)
	}
	u := c.Usage
	a.usage.PromptTokens += u.PromptTokens
	a.usage.CompletionTokens += u.CompletionTokens
	a.usage.TotalTokens += u.TotalTokens
	a.usage.PromptDetails.CachedTokens += u.CachedTokens
}

// Marshal is v, plain data with finite numbers, as JSON on one line, without the escapes that only
// matter inside HTML.
func Marshal(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // cannot fail
	return bytes.TrimRight(buf.Bytes(), "\n")
}
