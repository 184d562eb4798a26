package scaler

import (
	"github.com/pelton-run/pelton/contracts"
)

// Demand is what arrives in a second.
type Demand struct{ Jobs, Prompt, Output float64 } // the last two in tokens

// Worker is what one worker of a model can do.
type Worker struct {
	Fit    contracts.StepFit
	Slots  float64 // most sequences at once
	Tokens float64 // that its KV cache holds
}

// Need is how many workers keep up with a demand when each may be busy for the share use of its time. Prompt
// tokens cost what they add to a step; generated ones share the steps of as many sequences as a worker holds.
// It is 0 where nothing is known.
func Need(d Demand, w Worker, use float64) float64 {
	rows := w.Slots
	if d.Jobs > 0 && d.Prompt+d.Output > 0 { // jobs without tokens need no cache
		rows = min(rows, w.Tokens/((d.Prompt+d.Output)/d.Jobs))
	}
	rows = max(1, rows)
	busy := d.Prompt*w.Fit.PerToken + d.Output*(w.Fit.Step/rows+w.Fit.PerRow) // milliseconds of steps in a second
	return busy / 1000 / use
}
