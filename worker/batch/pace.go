package batch

import (
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Pace learns from past steps what they cost, and says how many prompt tokens may join the next one. Two want
// to wait little: streams for their next token, prompts for their first one.
//
//   - Prompts join in pieces that take somewhat less than the streams' own step, so that a step beside them takes
//     less than twice as long as one without, and a prompt little more than twice the time that it takes alone.
//   - Where that is too little for the prompts that come, they wait, and steps become longer: each may take
//     [growth] times what steps usually took of late. So the time between tokens rises to what the load needs,
//     and stays even: neither prompts nor streams wait for the other in turns.
//   - When nobody decodes, prompts get all the room there is.
//
// Pure: time is an argument.
type Pace struct {
	plain, mixed contracts.StepSums // of steps without prompt tokens, and with some
	fit          contracts.StepFit  // of both
	since        int                // steps that fit does not know yet
	usual        float64            // milliseconds that a stream waited for its token of late
}

const (
	// beside is how long, in steps of the streams alone, what joins such a step takes: with it and what varies by
	// itself, the slowest hundredth of the tokens comes within twice the usual time.
	beside = 0.8
	// growth is how much longer than usual a step may take for prompts that wait.
	growth = 1.25
	// usualRise and usualFall are how fast what is usual follows longer and shorter steps: soon enough for prompts
	// that fill many steps, slowly enough that steps are alike, and down last, or longer and shorter ones take turns.
	usualRise, usualFall = 1. / 32, 1. / 48
	// paceFloor keeps prompts going beside few and fast streams, in tokens.
	paceFloor = 8
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
	if rows > 0 { // the larger of the two is the rise of a longer step, and the fall of a shorter one
		p.usual += max(usualFall*(ms-p.usual), usualRise*(ms-p.usual))
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

// Budget is the most prompt tokens that should join a step in which rows sequences decode, at least paceFloor and
// at most most; pressing says whether prompts may make steps longer if they must wait otherwise.
func (p *Pace) Budget(rows int, pressing bool, most int) int {
	token := p.fit.PerToken
	if rows == 0 || !p.fit.Known() || token == 0 {
		return most
	}
	plain := p.fit.Took(0, float64(rows))
	spare := beside * plain
	if pressing {
		spare = max(spare, growth*p.usual-plain)
	}
	return int(min(max(spare/token, paceFloor), float64(most)))
}
