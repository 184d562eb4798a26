package batch

// Progress counts how far a sequence is, in tokens. Pure.
type Progress struct {
	Prompt int // of the prompt
	Replay int // that an earlier holder emitted
	Most   int // that may be generated, replayed ones included

	Fed       int // of the prompt, in the KV cache
	Replayed  int // of Replay, in the KV cache
	Generated int // replayed ones included

	joined int // of Prompt, that an earlier holder emitted
}

// NewProgress is that of a sequence that has not begun here.
func NewProgress(prompt, replay, most int) Progress {
	return Progress{Prompt: prompt, Replay: replay, Most: most, Generated: replay}
}

// Join makes the replay a part of the prompt, for engines whose bits do not depend on how a token is fed.
func (p *Progress) Join() {
	p.Prompt, p.joined, p.Replay = p.Prompt+p.Replay, p.Replay, 0
}

// Rest is what of the prompt is not fed yet.
func (p *Progress) Rest() int { return p.Prompt - p.Fed }

// Full tells whether no more tokens may be generated.
func (p *Progress) Full() bool { return p.Generated >= p.Most }

// Samples tells whether a row of so many prompt tokens, or of one generated token when it is 0, brings the
// sequence to a position that nobody sampled yet.
func (p *Progress) Samples(prompt int) bool {
	switch {
	case prompt > 0:
		return p.Fed+prompt == p.Prompt && p.Replay == 0
	case p.Replayed < p.Replay:
		return p.Replayed+1 == p.Replay
	}
	return true
}

// Advance says that such a row was computed. A token that was sampled counts when the caller says so, in
// Generated.
func (p *Progress) Advance(prompt int) {
	if prompt > 0 {
		p.Fed += prompt
	} else if p.Replayed < p.Replay {
		p.Replayed++
	}
}

// Held is how many tokens of the sequence the KV cache holds; the newest generated one is not in it.
func (p *Progress) Held() int {
	return p.Fed + p.Replayed + max(0, p.Generated-p.Replay-p.joined-1)
}
