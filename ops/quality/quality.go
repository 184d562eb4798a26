// Package quality compares what two implementations of one model generate: a compressed variant with
// its full-precision twin, or our runtime with an independent one.
//
// It stands beside the walk: `pelton model eval` calls it, nothing in the fleet does. It drives an
// engine directly, without broker and jobs, and must be its engine's only driver.
package quality

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed" // for the prompts
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

//go:embed testdata/prompts.jsonl
var prompts []byte

// Prompt is one input of the comparison.
type Prompt struct {
	ID   string `json:"id"`
	Kind string `json:"kind"` // "english", "code", "lang-de", "rare-unicode", …
	Chat bool   `json:"chat"` // rendered with the chat template, or raw
	Text string `json:"text"`
}

// Prompts are the 200 built-in ones: English, code, ten languages, rare inputs.
func Prompts() ([]Prompt, error) {
	var out []Prompt
	for line := range bytes.Lines(prompts) {
		var p Prompt
		if err := json.Unmarshal(line, &p); err != nil {
			return nil, fmt.Errorf("prompt %d: %w", len(out)+1, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// Transcript is what one implementation generated greedily for one prompt.
type Transcript struct {
	ID     string  `json:"id"`
	Kind   string  `json:"kind"`
	Prompt []int32 `json:"prompt"`
	Tokens []int32 `json:"tokens"`
	// Margins[i] is the difference of the two best logits where Tokens[i] was chosen.
	Margins []float32 `json:"margins"`
}

// Tokenize turns prompts into transcripts that hold only the prompt's token ids. Prompts of zero
// tokens are left out.
func Tokenize(tok *tokenizer.Tokenizer, prompts []Prompt) ([]Transcript, error) {
	var out []Transcript
	for _, p := range prompts {
		ids := tok.Encode(p.Text)
		if p.Chat {
			var err error
			if ids, err = tok.Chat([]tokenizer.Message{{Role: "user", Content: p.Text}}, true); err != nil {
				return nil, fmt.Errorf("prompt %s: %w", p.ID, err)
			}
		}
		if len(ids) > 0 {
			out = append(out, Transcript{ID: p.ID, Kind: p.Kind, Prompt: ids})
		}
	}
	return out, nil
}

// batch is how many prompts are generated side by side.
const batch = 8

// Generate continues every prompt greedily by n tokens (end tokens are generated like any other) and
// returns the completed transcripts in the same order. progress may be nil.
func Generate(ctx context.Context, e engine.Engine, in []Transcript, n int, progress func(done, total int)) ([]Transcript, error) {
	out := slices.Clone(in)
	order := make([]int, len(in)) // similar lengths together
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(in[a].Prompt), len(in[b].Prompt)) })
	done := 0
	for part := range slices.Chunk(order, batch) {
		var group []*Transcript
		for _, i := range part {
			group = append(group, &out[i])
		}
		if err := generateGroup(ctx, e, group, n); err != nil {
			return nil, err
		}
		done += len(part)
		if progress != nil {
			progress(done, len(in))
		}
	}
	return out, nil
}

func generateGroup(ctx context.Context, e engine.Engine, group []*Transcript, n int) error {
	rows := make([]*engine.Row, len(group))
	for i, t := range group {
		s, err := e.Open(len(t.Prompt) + n)
		if err != nil {
			return fmt.Errorf("prompt %s: %w", t.ID, err)
		}
		defer e.Close(s)
		t.Tokens, t.Margins = nil, nil
		rows[i] = &engine.Row{Seq: s}
		if err := prefill(ctx, e, rows[i], t); err != nil {
			return err
		}
	}
	for range n - 1 {
		for i, t := range group {
			*rows[i] = engine.Row{Seq: rows[i].Seq, Tokens: t.Tokens[len(t.Tokens)-1:], Sample: true}
		}
		if err := step(ctx, e, rows...); err != nil {
			return err
		}
		for i, t := range group {
			if err := t.take(rows[i].Logits); err != nil {
				return err
			}
		}
	}
	return nil
}

// prefill feeds the prompt in chunks that the engine accepts and takes the first token.
func prefill(ctx context.Context, e engine.Engine, row *engine.Row, t *Transcript) error {
	info := e.Info()
	for at := 0; at < len(t.Prompt); {
		size := min(info.MaxStepTokens, len(t.Prompt)-at)
		if rest := len(t.Prompt) - at - size; rest > 0 && rest < info.MinPrefill {
			size -= info.MinPrefill - rest
		}
		*row = engine.Row{Seq: row.Seq, Tokens: t.Prompt[at : at+size], Sample: at+size == len(t.Prompt)}
		if err := step(ctx, e, row); err != nil {
			return fmt.Errorf("prompt %s: %w", t.ID, err)
		}
		at += size
	}
	return t.take(row.Logits)
}

func step(ctx context.Context, e engine.Engine, rows ...*engine.Row) error {
	if err := e.Step(ctx, rows); err != nil {
		return err
	}
	for _, r := range rows {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// take appends the most likely token and its margin over the next.
func (t *Transcript) take(logits []float32) error {
	if slices.ContainsFunc(logits, func(v float32) bool { return v != v }) {
		return fmt.Errorf("prompt %s: the logits behind %d tokens are no numbers", t.ID, len(t.Prompt)+len(t.Tokens))
	}
	best, first, second := 0, logits[0], float32(0)
	second = first
	for i, v := range logits[1:] {
		switch {
		case v > first:
			best, first, second = i+1, v, first
		case v > second || i == 0:
			second = v
		}
	}
	t.Tokens = append(t.Tokens, int32(best))
	t.Margins = append(t.Margins, first-second)
	return nil
}

// Write stores transcripts as JSON Lines.
func Write(w io.Writer, ts []Transcript) error {
	enc := json.NewEncoder(w)
	for _, t := range ts {
		if err := enc.Encode(t); err != nil {
			return err
		}
	}
	return nil
}

// Read reads JSON Lines of transcripts.
func Read(r io.Reader) ([]Transcript, error) {
	var out []Transcript
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var t Transcript
		if err := json.Unmarshal(lines.Bytes(), &t); err != nil {
			return nil, fmt.Errorf("transcript %d: %w", len(out)+1, err)
		}
		out = append(out, t)
	}
	return out, lines.Err()
}
