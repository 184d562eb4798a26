package kvcache

import (
	"errors"
	"fmt"

	"github.com/pelton-run/pelton/runtime/engine"
)

// Limits of a step's rows, beside the reservations.
type Limits struct {
	Vocab         int // token ids are in [0, Vocab)
	MaxStepTokens int // most tokens of a row
	Drafts        int // most guessed tokens of all rows
}

// Admit checks the rows of a step before anything runs. It sets Err of each row that cannot run (and
// clears it in the others), takes Logits of the last step away, and returns the rows that can, in
// their order; the slice is valid until the next call. The error is for a step that no engine could
// run: a row that is nil.
//
// Nothing behind it checks lengths again: the kernels themselves may crash on a wrong one.
func (k *Cache) Admit(rows []*engine.Row, limits Limits) ([]*engine.Row, error) {
	for i, r := range rows {
		if r == nil {
			return nil, fmt.Errorf("row %d of %d is nil", i, len(rows))
		}
	}
	k.admitted = k.admitted[:0]
	for _, r := range rows {
		r.Logits = nil
		if r.Err = k.admit(r, limits); r.Err == nil {
			limits.Drafts -= len(r.Draft)
			k.admitted = append(k.admitted, r)
			k.open[r.Seq].stepping = true
		}
	}
	for _, r := range k.admitted {
		k.open[r.Seq].stepping = false
	}
	return k.admitted, nil
}

func (k *Cache) admit(r *engine.Row, limits Limits) error {
	s, ok := k.open[r.Seq]
	switch {
	case !ok:
		return fmt.Errorf("%w: %d", engine.ErrUnknownSequence, r.Seq)
	case s.stepping:
		return fmt.Errorf("sequence %d has two rows in one step: give each sequence one", r.Seq)
	case len(r.Tokens) == 0:
		return errors.New("row without tokens")
	case len(r.Tokens) > limits.MaxStepTokens:
		return fmt.Errorf("row of %d tokens, at most %d a step: cut the prompt", len(r.Tokens), limits.MaxStepTokens)
	case len(r.Draft) > limits.Drafts:
		return fmt.Errorf("row with a draft of %d tokens, the engine takes %d more in this step", len(r.Draft), limits.Drafts)
	case len(r.Draft) > 0 && !r.Sample:
		return errors.New("row with a draft of which nothing is wanted: set Sample")
	}
	for _, tokens := range [...][]int32{r.Tokens, r.Draft} {
		for i, token := range tokens {
			if token < 0 || int(token) >= limits.Vocab {
				return fmt.Errorf("%w: token %d of the row is %d, the vocabulary has %d", engine.ErrBadToken, i, token, limits.Vocab)
			}
		}
	}
	return k.Fits(r.Seq, len(r.Tokens)+len(r.Draft))
}
