package loadgen

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
)

// Request is one planned question.
type Request struct {
	At          time.Duration   // since the start of the run; in a closed loop the time it was really sent
	Input       int             // prompt tokens wanted; the server's own count may differ
	Output      int             // tokens asked for
	Class       contracts.Class // "" leaves it to the server
	Tenant      string          // "" is the target's own
	Deadline    time.Duration   // from sending; 0 is none
	CancelAfter time.Duration   // the producer gives up after so long; 0 is never
	Blocks      []int64         // 512-token blocks of the prompt: equal leading ids are a shared prefix
	Seed        uint64          // of the words of the prompt
}

// Plan is a run drawn ahead.
type Plan []Request

// Mix says what requests are made of. What a trace says already stays.
type Mix struct {
	Input, Output Lengths
	MaxInput      int // longer inputs of a trace are cut to it; 0 is no bound
	Classes       Weights
	Tenants       Weights
	Deadline      time.Duration
	CancelShare   float64 // of the requests, given up after CancelAfter
	CancelAfter   time.Duration
}

// Fill completes p in place and returns it.
func (m Mix) Fill(rng *rand.Rand, p Plan) Plan {
	for i := range p {
		r := &p[i]
		if r.Input == 0 {
			r.Input = m.Input.draw(rng)
		}
		if r.Output == 0 {
			r.Output = m.Output.draw(rng)
		}
		if m.MaxInput > 0 {
			r.Input = min(r.Input, m.MaxInput)
		}
		r.Input, r.Output = max(1, r.Input), max(1, r.Output)
		r.Class, r.Tenant = contracts.Class(m.Classes.draw(rng)), m.Tenants.draw(rng)
		r.Deadline = m.Deadline
		if rng.Float64() < m.CancelShare {
			r.CancelAfter = m.CancelAfter
		}
		r.Seed = rng.Uint64()
	}
	return p
}

// At makes a plan of bare arrival times.
func At(times []time.Duration) Plan {
	p := make(Plan, len(times))
	for i, t := range times {
		p[i].At = t
	}
	return p
}

// maxTokens bounds what one request may ask for: prompts are written in memory.
const maxTokens = 1 << 24

// Lengths is a distribution of token counts: uniform from Low to High, both included.
type Lengths struct{ Low, High int }

// ParseLengths reads "512" or "100-900".
func ParseLengths(text string) (Lengths, error) {
	low, high, two := strings.Cut(text, "-")
	a, err := strconv.Atoi(low)
	b := a
	if err == nil && two {
		b, err = strconv.Atoi(high)
	}
	if err != nil || a < 1 || b < a || b > maxTokens {
		return Lengths{}, fmt.Errorf("length %q: wanted a count of tokens such as 512, or a range such as 100-900, up to %d", text, maxTokens)
	}
	return Lengths{a, b}, nil
}

func (l Lengths) draw(rng *rand.Rand) int { return l.Low + rng.IntN(max(0, l.High-l.Low)+1) }

// Weights is a choice of names; the empty one always draws "".
type Weights struct {
	names []string
	upTo  []float64 // running sum
}

// ParseWeights reads names with weights such as "p1:3,p3:1"; without a weight it is 1.
func ParseWeights(text string) (Weights, error) {
	var w Weights
	total := 0.0
	for part := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		name, weight, given := strings.Cut(part, ":")
		v := 1.0
		var err error
		if given {
			v, err = strconv.ParseFloat(weight, 64)
		}
		if err != nil || name == "" || !(v > 0 && v < 1e9) {
			return Weights{}, fmt.Errorf("%q: wanted names with weights such as a:3,b:1", text)
		}
		total += v
		w.names, w.upTo = append(w.names, name), append(w.upTo, total)
	}
	return w, nil
}

// Names lists the names that may be drawn.
func (w Weights) Names() []string { return w.names }

func (w Weights) draw(rng *rand.Rand) string {
	if len(w.names) == 0 {
		return ""
	}
	x := rng.Float64() * w.upTo[len(w.upTo)-1]
	for i, limit := range w.upTo {
		if x < limit {
			return w.names[i]
		}
	}
	return w.names[len(w.names)-1]
}
