package sampler

import (
	"errors"
	"math"
	"slices"
)

// Params says how to sample. The zero value is greedy, without penalties. A number that is NaN or
// infinite counts as not given.
type Params struct {
	Temperature float32 // below 1e-6: greedy, the largest logit; of equal ones the lowest id
	TopK        int     // keep only the TopK largest logits; 0 or less: all
	TopP        float32 // keep the fewest tokens whose probabilities add up to TopP; 0 or less, 1 or more: all
	MinP        float32 // keep tokens at least MinP times as likely as the likeliest; 0 or less: all

	RepetitionPenalty float32 // divides positive logits of seen tokens, multiplies negative ones; 0 or 1: off
	PresencePenalty   float32 // subtracted from the logit of each token generated at least once
	FrequencyPenalty  float32 // subtracted once for each time the token was generated

	LogitBias map[int32]float32 // added to logits; ids outside the vocabulary are ignored

	Constraint Constraint // of the tokens that may follow; nil: all may

	Seed        uint64 // of the random numbers; StreamSeed makes one for each choice of a job
	Logprobs    bool   // fill Choice.Logprob
	TopLogprobs int    // fill Choice.Top with so many candidates, at most 1024; implies Logprobs
}

// Constraint says which tokens may follow in one sequence; a grammar.Matcher is one.
type Constraint interface {
	// Restrict makes the logits of those that may not minus infinity, and reports whether one may.
	Restrict(logits []float32) bool
	// Accept moves on by a token, and reports whether it was one that may follow.
	Accept(token int32) bool
	// Expect is at most n tokens that may be guessed to follow.
	Expect(n int) []int32
}

// Choice is a sampled token. Log probabilities are natural logarithms of the model's own distribution,
// before bias, penalties, temperature and cuts, as OpenAI's API reports them; -9999 at the least.
type Choice struct {
	Token   int32
	Logprob float32     // 0 unless asked for
	Top     []Candidate // most likely first; nil unless asked for; belongs to the caller
}

// Candidate is a token that might have been chosen.
type Candidate struct {
	Token   int32
	Logprob float32
}

// Bounds on parameters.
const (
	minTemperature = 1e-6
	maxTop         = 1024
)

// Sampler samples the tokens of one sequence. The order of operations is
//
//	constraint, bias, repetition penalty, presence and frequency penalty, temperature, top-k, top-p, min-p
//
// with top-p over what top-k left, and min-p relative to the likeliest token, which always stays.
// Tokens e^32 times less likely than that one are never drawn.
type Sampler struct {
	p    Params
	bias []biased
	seen []history          // tokens of prompt and answer, each once
	at   map[int32]int      // index in seen; nil without penalties
	raw  []float32          // the model's logits, where they are needed after penalties
	bins *[bins + 1]float64 // working memory of the cuts
	sums []float64          // working memory of the draw
	near []int32            // tokens in the bin where a cut falls
}

type biased struct {
	token int32
	add   float32
}

type history struct{ token, generated int32 }

// New returns a sampler for a sequence that begins with prompt. Tokens of the prompt count for the
// repetition penalty only. The sampler keeps neither prompt nor LogitBias.
func New(p Params, prompt []int32) *Sampler {
	p = p.cleaned()
	s := &Sampler{p: p}
	for id, add := range p.LogitBias {
		if add == add && add != 0 { // not NaN
			s.bias = append(s.bias, biased{id, add})
		}
	}
	s.p.LogitBias = nil
	if p.RepetitionPenalty != 1 || p.PresencePenalty != 0 || p.FrequencyPenalty != 0 {
		s.at = map[int32]int{}
	}
	if p.RepetitionPenalty != 1 {
		for _, id := range prompt {
			s.entry(id)
		}
	}
	return s
}

// cleaned maps everything that means "off" to one value.
func (p Params) cleaned() Params {
	for _, f := range []*float32{&p.Temperature, &p.TopP, &p.MinP, &p.RepetitionPenalty, &p.PresencePenalty, &p.FrequencyPenalty} {
		if *f != *f || math.IsInf(float64(*f), 0) {
			*f = 0
		}
	}
	if p.Temperature < minTemperature {
		p.Temperature = 0
	}
	if p.RepetitionPenalty <= 0 {
		p.RepetitionPenalty = 1
	}
	if p.TopP <= 0 || p.TopP > 1 {
		p.TopP = 1
	}
	p.MinP = min(max(p.MinP, 0), 1)
	p.TopK = max(p.TopK, 0)
	p.TopLogprobs = min(max(p.TopLogprobs, 0), maxTop)
	p.Logprobs = p.Logprobs || p.TopLogprobs > 0
	return p
}

func (s *Sampler) entry(token int32) *history {
	i, ok := s.at[token]
	if !ok {
		i = len(s.seen)
		s.at[token], s.seen = i, append(s.seen, history{token: token})
	}
	return &s.seen[i]
}

// Greedy tells whether the sampler always picks the likeliest token and wants to know nothing else of the logits.
func (s *Sampler) Greedy() bool {
	return s.p.Temperature == 0 && len(s.bias) == 0 && s.at == nil && !s.p.Logprobs && s.p.Constraint == nil
}

// ErrNone is what Sample panics with where the constraint allows no token: no other attempt could go on either.
var ErrNone = errors.New("no token that the constraint allows")

// Expect is at most n tokens that may be guessed to follow because the constraint leaves little else; often none.
func (s *Sampler) Expect(n int) []int32 {
	if s.p.Constraint == nil {
		return nil
	}
	return s.p.Constraint.Expect(n)
}

// Accept adds an emitted token to the history. It is called for every token of the answer, in order, on
// resume too. It panics if the constraint does not allow it, as Sample does if that allows none: nothing that
// could be said would be right.
func (s *Sampler) Accept(token int32) {
	if s.p.Constraint != nil && !s.p.Constraint.Accept(token) {
		panic("a token that the constraint does not allow")
	}
	if s.at != nil {
		s.entry(token).generated++
	}
}

// Sample picks the token at position, which counts the tokens of the answer from 0 and names the random
// number to use. It may overwrite logits, one for each token of the vocabulary. Logits that are NaN
// count as impossible; where none is possible, the token is 0.
func (s *Sampler) Sample(logits []float32, position int) Choice {
	var c Choice
	raw := logits
	if s.p.Logprobs {
		if len(s.bias) > 0 || len(s.seen) > 0 || s.p.Constraint != nil {
			s.raw = append(s.raw[:0], logits...)
			raw = s.raw
		}
	}
	if s.p.Constraint != nil && !s.p.Constraint.Restrict(logits) {
		panic(ErrNone)
	}
	s.adjust(logits)
	c.Token = s.choose(logits, position)
	if s.p.Logprobs && int(c.Token) < len(raw) {
		norm := logSumExp(raw)
		c.Logprob = logprob(raw[c.Token], norm)
		c.Top = s.candidates(raw, norm)
	}
	return c
}

// adjust applies bias and penalties, which touch few tokens.
func (s *Sampler) adjust(logits []float32) {
	for _, b := range s.bias {
		if b.token >= 0 && int(b.token) < len(logits) {
			logits[b.token] += b.add
		}
	}
	for _, h := range s.seen {
		if h.token < 0 || int(h.token) >= len(logits) {
			continue
		}
		l := logits[h.token]
		if l > 0 {
			l /= s.p.RepetitionPenalty
		} else {
			l *= s.p.RepetitionPenalty
		}
		if h.generated > 0 {
			l -= s.p.PresencePenalty + float32(float32(h.generated)*s.p.FrequencyPenalty)
		}
		logits[h.token] = l
	}
}

// choose picks a token of the adjusted logits.
func (s *Sampler) choose(logits []float32, position int) int32 {
	best := argmax(logits)
	if best < 0 {
		return 0
	}
	top := float64(logits[best])
	if s.p.Temperature == 0 || math.IsInf(top, 1) {
		return best
	}
	d := distribution{logits: logits, top: top, scale: 1 / float64(s.p.Temperature), floor: -tail, cut: cut{float32(math.Inf(-1)), math.MaxInt32}}
	if s.p.TopK > 0 && s.p.TopK < len(logits) {
		s.lower(&d, float64(s.p.TopK), false)
	}
	if s.p.TopP < 1 {
		s.lower(&d, float64(s.p.TopP), true)
	}
	if s.p.MinP > 0 {
		d.floor = max(d.floor, math.Log(float64(s.p.MinP)))
	}
	return s.draw(&d, uniform(s.p.Seed, position), best)
}

// argmax returns the lowest id of the largest logit; -1 if none is above minus infinity. From the first
// positive logit on it compares bits, which for positive numbers order as the numbers do, eight at a
// time: half the time of the plain loop, on a vocabulary that another core has just written.
func argmax(logits []float32) int32 {
	best, at, i := float32(math.Inf(-1)), -1, 0
	for ; i < len(logits) && best <= 0; i++ {
		if l := logits[i]; l > best {
			best, at = l, i
		}
	}
	top := bits(best)
	for ; i+8 <= len(logits); i += 8 {
		w := (*[8]float32)(logits[i:])
		if bits(w[0]) > top || bits(w[1]) > top || bits(w[2]) > top || bits(w[3]) > top || bits(w[4]) > top || bits(w[5]) > top || bits(w[6]) > top || bits(w[7]) > top {
			best, at = larger(w[:], i, best, at)
			top = bits(best)
		}
	}
	_, at = larger(logits[i:], i, best, at)
	return int32(at)
}

// larger goes on with an argmax over logits that begin at id first. NaN is never larger.
func larger(logits []float32, first int, best float32, at int) (float32, int) {
	for i, l := range logits {
		if l > best {
			best, at = l, first+i
		}
	}
	return best, at
}

func bits(l float32) int32 { return int32(math.Float32bits(l)) }

// candidates returns the most likely tokens of the model's own distribution.
func (s *Sampler) candidates(raw []float32, norm float64) []Candidate {
	n := min(s.p.TopLogprobs, len(raw))
	if n == 0 {
		return nil
	}
	top := make([]Candidate, 0, n)
	for _, id := range largest(raw, n) {
		top = append(top, Candidate{Token: id, Logprob: logprob(raw[id], norm)})
	}
	return top
}

// largest returns the ids of the n largest logits, largest first, of equal ones the lowest id first.
func largest(logits []float32, n int) []int32 {
	better := func(a, b int32) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return int(a) - int(b)
	}
	ids := make([]int32, 0, 2*n)
	worst := float32(math.Inf(-1))
	for i, l := range logits {
		if l <= worst || l != l {
			continue
		}
		if ids = append(ids, int32(i)); len(ids) == cap(ids) {
			slices.SortFunc(ids, better)
			ids = ids[:n]
			worst = logits[ids[n-1]]
		}
	}
	slices.SortFunc(ids, better)
	return ids[:min(n, len(ids))]
}

// minLogprob stands for everything less likely, minus infinity included, which JSON cannot write.
const minLogprob = -9999

func logprob(l float32, norm float64) float32 {
	p := float64(l) - norm
	if math.IsInf(norm, 1) && math.IsInf(float64(l), 1) {
		p = 0
	}
	if !(p > minLogprob) {
		return minLogprob
	}
	return float32(p)
}

// logSumExp is the logarithm of the sum of e^l over all logits.
func logSumExp(logits []float32) float64 {
	best := argmax(logits)
	if best < 0 {
		return math.Inf(-1)
	}
	top, sum := float64(logits[best]), 0.0
	if math.IsInf(top, 1) {
		return top
	}
	for _, l := range logits {
		if x := float64(l) - top; x >= -tail {
			sum += exp(x)
		}
	}
	return top + math.Log(sum)
}
