package cost

import "math"

const (
	// Quantile of a tenant's answers that counts as the length of its next one.
	Quantile = 0.8
	// learned is how many answers must have been seen.
	learned = 8
	// fades is the weight at which all counts are halved, so that habits may change.
	fades = 512
	// perOctave is how many buckets double the length: an answer is known to within 9 %.
	perOctave = 8
	// maxTenants bounds the tenants that are remembered.
	maxTenants = 4096
)

// Lengths remembers how many tokens the answers to a tenant's jobs have. Not safe for concurrent use.
type Lengths struct {
	of map[[2]string]*histogram // by model and tenant
}

type histogram struct {
	total  float64
	counts [20 * perOctave]float64
}

// NewLengths returns one that knows nothing.
func NewLengths() *Lengths { return &Lengths{of: map[[2]string]*histogram{}} }

// Observe notes an answer of so many tokens.
func (l *Lengths) Observe(model, tenant string, tokens int) {
	l.at(model, tenant).add(tokens)
}

func (l *Lengths) at(model, tenant string) *histogram {
	key := [2]string{model, tenant}
	h := l.of[key]
	if h != nil {
		return h
	}
	if len(l.of) >= maxTenants {
		for other := range l.of { // any: the order of maps is random
			delete(l.of, other)
			break
		}
	}
	h = &histogram{}
	l.of[key] = h
	return h
}

func (h *histogram) add(tokens int) {
	b := int(perOctave * math.Log2(float64(max(1, tokens))))
	h.counts[min(b, len(h.counts)-1)]++
	if h.total++; h.total < fades {
		return
	}
	h.total = 0
	for i := range h.counts {
		h.counts[i] /= 2
		h.total += h.counts[i]
	}
}

// Expect is how many tokens an answer of at most most tokens will have: [Quantile] of the tenant's earlier
// ones. known is false before enough of them were seen; then it says most.
func (l *Lengths) Expect(model, tenant string, most int) (tokens int, known bool) {
	h := l.of[[2]string{model, tenant}]
	if h == nil || h.total < learned {
		return most, false
	}
	left := Quantile * h.total
	for i, n := range h.counts {
		if left -= n; left <= 0 {
			return min(most, int(math.Ceil(math.Exp2(float64(i+1)/perOctave)))), true
		}
	}
	return most, true
}
