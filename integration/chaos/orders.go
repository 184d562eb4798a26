package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/pelton-run/pelton/contracts"
)

// Orders draws n kinds of jobs of about so many tokens each, by name: greedy ones, sampled ones with
// penalties and logprobs, two choices at once, and stop strings.
func Orders(seed uint64, n, tokens int, model string) map[string]contracts.Job {
	rng := rand.New(rand.NewPCG(seed, 2))
	out := map[string]contracts.Job{}
	for i := range n {
		j := contracts.Job{Model: model, Kind: contracts.KindText, Prompt: fmt.Sprintf("Story %d: %s", i, strings.Repeat("once upon a time ", 1+rng.IntN(12))),
			Class:  contracts.Classes[1+rng.IntN(3)],
			Params: contracts.Params{MaxTokens: new(tokens/2 + rng.IntN(tokens)), Temperature: new(0.0), Seed: new(rng.Int64N(1 << 40)), IgnoreEOS: true}}
		switch p := &j.Params; i % 4 {
		case 1:
			p.Temperature, p.Logprobs = new(1.1), new(2)
			p.PresencePenalty, p.FrequencyPenalty, p.RepetitionPenalty = new(0.6), new(0.3), new(1.1)
		case 2:
			p.Temperature, p.N = new(0.8), new(2)
			*p.MaxTokens = max(1, *p.MaxTokens/2)
		case 3:
			p.Temperature, p.Stop = new(0.7), []string{"turbine", "qqqq"}
		}
		out[fmt.Sprintf("kind-%02d", i)] = j
	}
	return out
}
