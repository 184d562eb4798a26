package batch

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Pace learns from past steps what they cost, and says how many prompt tokens may join the next one. Two want
// to wait little: streams for their next token, prompts for their first one.
//
//   - Prompts that the device feeds within [patience] join in pieces that take about as long as the streams'
//     own step. A step beside prompts then takes at most about twice as long as one without, and each such
//     prompt has its first token within twice the time that it takes alone.
//   - A longer prompt gets as much more as brings it through within patience, at most all the room there is. At
//     twice its time it would keep those behind it waiting for seconds.
//   - When nobody decodes, prompts get all the room there is.
//
// Pure: time is an argument.
type Pace struct {
	plain, mixed contracts.StepSums // of steps without prompt tokens, and with some
	fit          contracts.StepFit  // of both
	since        int                // steps that fit does not know yet
}

const (
	// patience is how soon the first token of a prompt should come, of what the worker can do about it.
	patience = 300 * time.Millisecond
	// paceFloor keeps prompts going beside few and fast streams, in tokens.
	paceFloor = 16
	// paceFade is how much less the steps before count with each step.
	paceFade = 0.02
	// paceLag is after how many steps the constants are found anew.
	paceLag = 8
	// paceMost bounds, as a multiple of what was expected, how long a step counts: one during which something
	// else had the processor does not change the pace by much.
	paceMost = 2
)

// Observe takes a step into account: its prompt tokens, its rows that decoded, and how long it took. Steps
// with and without prompt tokens are forgotten apart, or a while without prompts would unlearn what they cost.
func (p *Pace) Observe(prompt, rows int, took time.Duration) {
	ms := milliseconds(took)
	if p.fit.Known() {
		ms = min(ms, paceMost*p.fit.Took(float64(prompt), float64(rows)))
	}
	sums := &p.plain
	if prompt > 0 {
		sums = &p.mixed
	}
	sums.Add(float64(prompt), float64(rows), ms, paceFade)
	if p.since++; p.since >= paceLag {
		all := p.plain
		all.Sum(p.mixed, 1)
		p.fit, p.since = all.Fit(), 0
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Budget is the most prompt tokens that should join a step in which rows sequences decode, when the longest
// prompt that they should make room for has so many tokens; from paceFloor (or most, if that is less) to most.
func (p *Pace) Budget(rows, longest, most int) int {
	token := p.fit.PerToken
	if rows == 0 || !p.fit.Known() || token == 0 {
		return most
	}
	plain := p.fit.Took(0, float64(rows))
	budget := max(plain/token, paceFloor)
	spare := milliseconds(patience) - float64(longest)*token // is left for the streams until it is through
	if spare <= 0 {
		return most
	}
	return int(min(max(budget, float64(longest)*plain/spare), float64(most)))
}
