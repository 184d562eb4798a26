package sampler

import (
	"math"
	"slices"
)

const (
	tail    = 32 // tokens whose scaled logit is this far below the largest are never drawn
	perUnit = 64 // bins a unit of scaled logit
	bins    = tail * perUnit
	block   = 256 // tokens whose weights are summed together in a draw
)

// cut is a place in the order of tokens by logit, then by id: it keeps tokens up to and including it.
// Every way of cutting a distribution is such a place, which is why nothing is ever sorted as a whole.
type cut struct {
	logit float32
	id    int32
}

// distribution is the scaled distribution of one step and what is kept of it.
type distribution struct {
	logits []float32
	top    float64 // the largest logit
	scale  float64 // 1 / temperature
	floor  float64 // scaled logits below it are out
	cut    cut
}

// x is the scaled logit of a token, at most 0; NaN for NaN.
func (d *distribution) x(l float32) float64 { return (float64(l) - d.top) * d.scale }

// keeps reports whether the token i with logit l and scaled logit x is still in.
func (d *distribution) keeps(i int, l float32, x float64) bool {
	return x >= d.floor && (l > d.cut.logit || l == d.cut.logit && int32(i) <= d.cut.id)
}

// lower moves the cut so that it keeps the first tokens, in the order of the cut, whose measure adds up
// to at least target: their number, or with mass set their share of the probability that was kept so
// far. A histogram over scaled logits finds the bin where the sum is reached; only its tokens are
// sorted.
func (s *Sampler) lower(d *distribution, target float64, mass bool) {
	if s.bins == nil {
		s.bins = new([bins + 1]float64)
	}
	clear(s.bins[:])
	for i, l := range d.logits {
		if x := d.x(l); d.keeps(i, l, x) {
			s.bins[int(-x*perUnit)] += measure(x, mass)
		}
	}
	if mass {
		total := 0.0
		for _, m := range s.bins {
			total += m
		}
		target *= total
	}
	sum, bin := 0.0, 0
	for ; bin <= bins && sum+s.bins[bin] < target; bin++ {
		sum += s.bins[bin]
	}
	if bin > bins {
		return // all of them
	}
	s.near = s.near[:0]
	for i, l := range d.logits {
		if x := d.x(l); d.keeps(i, l, x) && int(-x*perUnit) == bin {
			s.near = append(s.near, int32(i))
		}
	}
	slices.SortFunc(s.near, func(a, b int32) int {
		switch la, lb := d.logits[a], d.logits[b]; {
		case la > lb:
			return -1
		case la < lb:
			return 1
		}
		return int(a) - int(b)
	})
	for _, id := range s.near {
		d.cut = cut{logit: d.logits[id], id: id}
		if sum += measure(d.x(d.logits[id]), mass); sum >= target {
			return
		}
	}
}

func measure(x float64, mass bool) float64 {
	if mass {
		return exp(x)
	}
	return 1
}

// draw picks one of the kept tokens with the random number u in [0,1). best is the likeliest token.
func (s *Sampler) draw(d *distribution, u float64, best int32) int32 {
	s.sums = s.sums[:0]
	total := 0.0
	for start := 0; start < len(d.logits); start += block {
		sum := 0.0
		for i, l := range d.logits[start:min(start+block, len(d.logits))] {
			if x := d.x(l); d.keeps(start+i, l, x) {
				sum += exp(x)
			}
		}
		s.sums = append(s.sums, sum)
		total += sum
	}
	target, start := u*total, 0
	last := best
	for k, sum := range s.sums {
		if sum == 0 {
			continue
		}
		start = k * block
		if target >= sum {
			target -= sum
			last = -1 // rounding may run past the last block: its last token is taken then
			continue
		}
		for i, l := range d.logits[start:min(start+block, len(d.logits))] {
			x := d.x(l)
			if !d.keeps(start+i, l, x) {
				continue
			}
			last = int32(start + i)
			if target -= exp(x); target < 0 {
				return last
			}
		}
		return last
	}
	if last >= 0 {
		return last
	}
	return best
}

// exp is e^x for x in [-tail, 0], relative error below 1e-14. It is not math.Exp, whose assembly gives other last
// bits on other processors: the same seed has to give the same tokens on every worker. The conversions keep
// compilers from fusing multiplications with additions, which would do the same.
func exp(x float64) float64 {
	const (
		perLn2 = 128 / math.Ln2
		ln2Hi  = 6.93147180369123816490e-01 / 128 // its last 32 bits are 0: a product with k is exact
		ln2Lo  = 1.90821492927058770002e-10 / 128
	)
	k := int(float64(x*perLn2) - 0.5) // the nearest
	n := float64(k)
	r := float64(x-float64(n*ln2Hi)) - float64(n*ln2Lo) // in [-0.0028, 0.0028]
	p := float64(r*(1.0/24)) + 1.0/6                    // Taylor's series, fourth order
	p = float64(r*p) + 0.5
	p = float64(r*p) + 1
	p = float64(r*p) + 1
	return math.Float64frombits(math.Float64bits(powers[k&127]*p) + uint64(k>>7)<<52)
}

// powers is 2^(i/128), of square roots, which are the same on every processor.
var powers = func() (p [128]float64) {
	for i := range p {
		p[i] = 1
		for bit, root := 64, math.Sqrt2; bit > 0; bit, root = bit/2, math.Sqrt(root) {
			if i&bit != 0 {
				p[i] *= root
			}
		}
	}
	return p
}()
