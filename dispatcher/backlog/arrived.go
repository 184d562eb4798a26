package backlog

import "maps"

// Arrived counts what was asked of a model since the start, refused or not: what a scaler forecasts.
type Arrived struct {
	Jobs   int64 `json:"jobs"`
	Prompt int64 `json:"prompt_tokens"`
	Output int64 `json:"output_tokens"` // as expected when the jobs came
}

// arrivals are by model.
type arrivals map[string]Arrived

func (a arrivals) add(model string, prompt, output int) {
	n := a[model]
	a[model] = Arrived{n.Jobs + 1, n.Prompt + int64(prompt), n.Output + int64(output)}
}

// Arrived tells, by model, what came to this dispatcher.
func (b *Backlog) Arrived() map[string]Arrived {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.arrived)
}
