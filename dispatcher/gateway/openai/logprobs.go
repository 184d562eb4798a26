package openai

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelton-run/pelton/contracts"
)

// floor stands for a log-probability too small to be a JSON number, as in OpenAI's API.
const floor = -9999

// ChatLogprobs are the log-probabilities of a chat's choice or of a piece of it.
type ChatLogprobs struct {
	Content []ChatToken `json:"content"`
	Refusal *string     `json:"refusal"` // always null
}

// ChatToken is one token with its rivals. Token is its text; a token that is not whole UTF-8
// characters is written as escapes (\xe2\x80), and Bytes has it exactly.
type ChatToken struct {
	Token   string    `json:"token"`
	Logprob float32   `json:"logprob"`
	Bytes   []int     `json:"bytes"`
	Top     []TopItem `json:"top_logprobs"`
}

// TopItem is one of the most likely tokens at a place.
type TopItem struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

func chatLogprobs(in []contracts.TokenLogprob) *ChatLogprobs {
	out := &ChatLogprobs{Content: make([]ChatToken, 0, len(in))}
	for _, t := range in {
		token := ChatToken{Token: tokenText(t.Bytes, ""), Logprob: finite(t.Logprob), Bytes: numbers(t.Bytes), Top: make([]TopItem, 0, len(t.Top))}
		for _, r := range t.Top {
			token.Top = append(token.Top, TopItem{Token: tokenText(r.Bytes, ""), Logprob: finite(r.Logprob), Bytes: numbers(r.Bytes)})
		}
		out.Content = append(out.Content, token)
	}
	return out
}

// TextLogprobs are the log-probabilities of a text's choice or of a piece of it, in parallel arrays.
// Offsets count characters from the beginning of the choice's text.
type TextLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []float32            `json:"token_logprobs"`
	Top      []map[string]float32 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"`
}

// position is a place in a text of which the bytes come in pieces.
type position struct {
	characters int    // complete ones
	begun      []byte // of the next one
}

// pass moves on by b. Bytes that are no character count as the text has them: one U+FFFD for each piece of what could
// have become one.
func (p *position) pass(b []byte) {
	b = append(p.begun, b...)
	for utf8.FullRune(b) {
		r, n := utf8.DecodeRune(b)
		for r == utf8.RuneError && n < len(b) && !utf8.FullRune(b[:n+1]) {
			n++
		}
		b = b[n:]
		p.characters++
	}
	p.begun = b
}

// textLogprobs converts in, whose first token starts at a place in the text, and moves it behind the last one.
func textLogprobs(in []contracts.TokenLogprob, at *position) *TextLogprobs {
	out := &TextLogprobs{Tokens: []string{}, Logprobs: []float32{}, Top: []map[string]float32{}, Offsets: []int{}}
	for _, t := range in {
		text := tokenText(t.Bytes, "bytes:")
		out.Tokens = append(out.Tokens, text)
		out.Logprobs = append(out.Logprobs, finite(t.Logprob))
		out.Offsets = append(out.Offsets, at.characters+min(1, len(at.begun)))
		top := map[string]float32{}
		for i := len(t.Top) - 1; i >= 0; i-- { // of two tokens with one text the likelier one stays
			top[tokenText(t.Top[i].Bytes, "bytes:")] = finite(t.Top[i].Logprob)
		}
		top[text] = finite(t.Logprob)
		out.Top = append(out.Top, top)
		at.pass(t.Bytes)
	}
	return out
}

func (l *TextLogprobs) add(more *TextLogprobs) {
	l.Tokens = append(l.Tokens, more.Tokens...)
	l.Logprobs = append(l.Logprobs, more.Logprobs...)
	l.Top = append(l.Top, more.Top...)
	l.Offsets = append(l.Offsets, more.Offsets...)
}

// tokenText is a token's text, or its bytes as escapes after prefix when they are no UTF-8.
func tokenText(b []byte, prefix string) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	s.WriteString(prefix)
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

func numbers(b []byte) []int {
	out := make([]int, len(b))
	for i, c := range b {
		out[i] = int(c)
	}
	return out
}

// Finite is in with numbers that JSON can carry: a copy when one of them needs it.
func Finite(in []contracts.TokenLogprob) []contracts.TokenLogprob {
	clean := true
	for _, t := range in {
		clean = clean && finite(t.Logprob) == t.Logprob
		for _, r := range t.Top {
			clean = clean && finite(r.Logprob) == r.Logprob
		}
	}
	if clean {
		return in
	}
	out := slices.Clone(in)
	for i := range out {
		out[i].Logprob = finite(out[i].Logprob)
		out[i].Top = Finite(out[i].Top)
	}
	return out
}

func finite(p float32) float32 {
	if f := float64(p); math.IsNaN(f) || math.IsInf(f, 0) || f < floor {
		return floor
	}
	return p
}
