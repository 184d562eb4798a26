package loadgen

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Prompter writes prompts of about so many tokens for a server whose tokenizer it does not know.
type Prompter struct {
	PerToken float64 // characters of English words in a token
	Overhead float64 // tokens that the server adds to each prompt
}

// blockTokens is the block of hash ids in Mooncake's traces.
const blockTokens = 512

// Gauge learns PerToken and Overhead by two short questions of a tenant, whose prompt tokens the server counts.
func Gauge(ctx context.Context, t Target, tenant string) (Prompter, error) {
	var chars, tokens [2]float64
	for i, n := range []int{200, 1200} {
		text := words(rand.New(rand.NewPCG(1, uint64(i))), n)
		a := t.Send(ctx, Request{Output: 1, Tenant: tenant}, text, func() {})
		if a.Outcome != Completed {
			return Prompter{}, fmt.Errorf("the first question, to learn how the server counts tokens, was %s: %s: see that the server serves this model, then run again", a.Outcome, a.Message)
		}
		chars[i], tokens[i] = float64(len(text)), float64(a.InputTokens)
	}
	if tokens[1] <= tokens[0] { // no usage in the answers
		return Prompter{PerToken: 4}, nil
	}
	per := (chars[1] - chars[0]) / (tokens[1] - tokens[0])
	return Prompter{PerToken: per, Overhead: max(0, tokens[0]-chars[0]/per)}, nil
}

// Prompt writes the prompt of r: the same one for the same request, and with a shared beginning where
// the trace says so.
func (p Prompter) Prompt(r Request) string {
	left := max(1, float64(r.Input)-p.Overhead)
	var b strings.Builder
	for _, id := range r.Blocks {
		n := min(left, blockTokens)
		b.WriteString(words(rand.New(rand.NewPCG(2, uint64(id))), int(n*p.PerToken)))
		if left -= n; left <= 0 {
			return b.String()
		}
	}
	b.WriteString(words(rand.New(rand.NewPCG(3, r.Seed)), int(left*p.PerToken)))
	return b.String()
}

var vocabulary = strings.Fields(`about after again air all along always animal answer around ask back because
	before begin between book both boy build call came carry change child city close come country cut day
	different does door draw each earth eat end enough even every eye face family far father feet few find
	first follow food form found four from girl give good great group grow hand hard head hear help here high
	home house idea important keep kind know land large last later learn leave letter life light line list
	little live long look made make many mean might mile moon more morning most mother mountain move much
	music must name near need never next night number often old once only open other over page paper part
	people picture place plant play point press question quick read really right river run same school sea
	second seem sentence set should show side small something song soon sound spell stand start state still
	stop story study such sun table take talk tell than that their them then there these thing think three
	through time together took tree turn under until use very walk want watch water way well went what wheel
	when where which while white whole why will wind word work world would write year young`)

// words is English of n characters, at least 1.
func words(rng *rand.Rand, n int) string {
	n = max(1, n)
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(append(b, vocabulary[rng.IntN(len(vocabulary))]...), ' ')
	}
	return string(b[:n])
}
