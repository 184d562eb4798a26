package backlog

import "maps"

// Arrived counts what was asked of a model since the start, refused or not: what a scaler forecasts.
type Arrived struct {
	Jobs   int64 `json:"jobs"`
	Prompt int64 `json:"prompt_tokens"`
	Output int64 `json:"output_tokens"` // as expected when the jobs came
}

// Arrived tells, by model, what came to this dispatcher.
func (b *Backlog) Arrived() map[string]Arrived {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.arrived)
}

// arrive counts a job in. Callers hold the lock.
func (b *Backlog) arrive(model string, prompt, output int) {
	a := b.arrived[model]
	b.arrived[model] = Arrived{a.Jobs + 1, a.Prompt + int64(prompt), a.Output + int64(output)}
}
