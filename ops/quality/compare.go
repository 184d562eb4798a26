package quality

import (
	"fmt"
	"slices"
	"strings"
)

// NearTie is the margin of the reference's two best logits below which either choice is accepted.
const NearTie = 0.5

// Report says how far a candidate's greedy continuations agree with a reference's.
type Report struct {
	Prompts int     `json:"prompts"`
	NearTie float32 `json:"near_tie"` // logits

	// Decided counts prompts whose tokens agree up to the reference's first near tie (or to the end
	// when there is none); Same those that agree to the end.
	Decided int `json:"decided"`
	Same    int `json:"same"`

	Kinds    []Kind   `json:"kinds"`
	Differed []string `json:"differed"` // prompts that differ before the first near tie
}

// Kind is the report of one kind of prompts.
type Kind struct {
	Kind    string `json:"kind"`
	Prompts int    `json:"prompts"`
	Decided int    `json:"decided"`
	Same    int    `json:"same"`
}

// Limits are what a candidate must reach, as shares of the prompts.
type Limits struct {
	Decided float64
	Same    float64
}

// Compare holds got against ref, prompt by prompt. Both must hold the same prompts. A continuation ends
// with the reference's first end token.
func Compare(ref, got []Transcript, eos []int32) (Report, error) {
	r := Report{Prompts: len(ref), NearTie: NearTie}
	byID := map[string]Transcript{}
	for _, t := range got {
		byID[t.ID] = t
	}
	kinds := map[string]*Kind{}
	for _, want := range ref {
		if len(want.Tokens) != len(want.Margins) {
			return r, fmt.Errorf("prompt %s: %d tokens but %d margins", want.ID, len(want.Tokens), len(want.Margins))
		}
		have, ok := byID[want.ID]
		if !ok || !slices.Equal(have.Prompt, want.Prompt) {
			return r, fmt.Errorf("prompt %s: the other side tokenized it differently or lacks it", want.ID)
		}
		if len(want.Tokens) == 0 {
			return r, fmt.Errorf("prompt %s: the reference has no tokens", want.ID)
		}
		if len(have.Tokens) < len(want.Tokens) {
			return r, fmt.Errorf("prompt %s: %d tokens were generated and the reference has %d: generate as many", want.ID, len(have.Tokens), len(want.Tokens))
		}
		k := kinds[want.Kind]
		if k == nil {
			k = &Kind{Kind: want.Kind}
			kinds[want.Kind] = k
		}
		k.Prompts++
		if end := slices.IndexFunc(want.Tokens, func(t int32) bool { return slices.Contains(eos, t) }); end >= 0 {
			want.Tokens, want.Margins = want.Tokens[:end+1], want.Margins[:end+1]
		}
		tie := slices.IndexFunc(want.Margins, func(m float32) bool { return m < NearTie })
		if tie < 0 {
			tie = len(want.Tokens)
		}
		equal := 0
		for equal < len(want.Tokens) && want.Tokens[equal] == have.Tokens[equal] {
			equal++
		}
		if equal >= tie {
			k.Decided++
		} else {
			r.Differed = append(r.Differed, fmt.Sprintf("%s at token %d (margin %.2f)", want.ID, equal, want.Margins[equal]))
		}
		if equal == len(want.Tokens) {
			k.Same++
		}
	}
	for _, k := range kinds {
		r.Decided += k.Decided
		r.Same += k.Same
		r.Kinds = append(r.Kinds, *k)
	}
	slices.SortFunc(r.Kinds, func(a, b Kind) int { return strings.Compare(a.Kind, b.Kind) })
	return r, nil
}

// Pass tells whether r reaches the limits.
func (r Report) Pass(l Limits) bool {
	n := float64(r.Prompts)
	return r.Prompts > 0 && float64(r.Decided) >= l.Decided*n && float64(r.Same) >= l.Same*n
}
