package sim

import "strings"

// prefix is what the logits depend on: a hash of all tokens so far, and where in a word they end.
type prefix struct {
	hash uint64
	node int32 // of the word trie; lost when the text left it
}

const lost = -1

func (p prefix) push(tokens []int32) prefix {
	for _, t := range tokens {
		p.hash = mix(p.hash ^ (uint64(t)+1)*0x9e3779b97f4a7c15)
		p.node = words.next(p.node, t)
	}
	return p
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Base logits. The distances make sampling at temperature 1 leave the words less than once in ten
// thousand tokens, and leave the choice between the letters that go on to the hash.
const (
	never   = -30 // control bytes, halves of runes, special tokens
	rare    = -10 // other printable characters
	onward  = 4   // characters that continue a word of the list
	between = 6   // the space after a whole word
	stop    = 3.5 // punctuation after a whole word
	end     = 20  // the end token where it is due
	spread  = 4   // the hash adds a number in [0, spread)
)

// unlikely is the base of what does not go on with a word.
var unlikely = func() (out [vocab]float32) {
	for t := range out {
		out[t] = never
		if t >= ' ' && t <= '~' {
			out[t] = rare
		}
	}
	return out
}()

// logits fills out with the next token's logits. They are the same in every version, whose workers may go on
// with each other's streams.
func (p prefix) logits(out []float32, endOneIn int) {
	for t, base := range unlikely {
		out[t] = base + p.noise(t)
	}
	p.likely(endOneIn, func(t int, logit float32) { out[t] = logit })
}

// likeliest is the token with the largest of the logits, of equal ones the lowest.
func (p prefix) likeliest(endOneIn int) int32 {
	best, most := 0, float32(never)
	p.likely(endOneIn, func(t int, logit float32) {
		if logit > most || logit == most && t < best {
			best, most = t, logit
		}
	})
	return int32(best)
}

// likely tells the tokens that may well be next, at least one; the logits of all others are lower.
func (p prefix) likely(endOneIn int, tell func(t int, logit float32)) {
	whole := words.from(p.node, func(t int) { tell(t, onward+p.noise(t)) })
	if whole || p.node == lost {
		tell(' ', between+p.noise(' '))
	}
	if whole {
		tell('.', stop+p.noise('.'))
		tell(',', stop+p.noise(','))
	}
	if endOneIn > 0 && mix(p.hash^0x656e64)%uint64(endOneIn) == 0 {
		tell(endOfTurn, end)
	}
}

func (p prefix) noise(t int) float32 {
	return spread * float32(mix(p.hash^uint64(t)<<32)>>40) / (1 << 24)
}

// trie holds the words that the simulated model writes.
type trie struct {
	children [][letters]int32 // 0 is none: no word goes on at the root
	whole    []bool
}

const letters = 'z' - 'a' + 1

// next is the node after token t. A word starts behind every character that is no letter, but behind
// punctuation a space is due first.
func (w *trie) next(node, t int32) int32 {
	switch {
	case t >= 'A' && t <= 'Z' || t == '.' || t == ',':
		return lost
	case t < 'a' || t > 'z':
		return 0
	case node == lost:
		return lost
	}
	if child := w.children[node][t-'a']; child != 0 {
		return child
	}
	return lost
}

// from tells the letters that continue at node, and whether a word ends there.
func (w *trie) from(node int32, tell func(letter int)) bool {
	if node == lost {
		return false
	}
	for i, child := range w.children[node] {
		if child != 0 {
			tell('a' + i)
		}
	}
	return w.whole[node]
}

func newTrie(list string) *trie {
	w := &trie{children: make([][letters]int32, 1), whole: []bool{false}}
	for word := range strings.FieldsSeq(list) {
		node := int32(0)
		for i := range len(word) {
			c := word[i] - 'a'
			child := w.children[node][c]
			if child == 0 {
				child = int32(len(w.children))
				w.children[node][c] = child
				w.children, w.whole = append(w.children, [letters]int32{}), append(w.whole, false)
			}
			node = child
		}
		w.whole[node] = true
	}
	return w
}

var words = newTrie(`
	a about above after again all also always and another any are around as at away back be because
	been before began being below best between blue both bring but by call came can change clear cloud
	cold come could day deep did different do does down each earth end even every far few find first
	flow for form found from full gave get give go good great ground had half hand hard has have he
	head hear heat help her here high him his home house how if in into is it its just keep kind know
	land large last late learn leave left less let life light like line little live long look made make
	many may me mean might more most mountain move much must my name near need never new next night no
	north not now number of off often old on once one only open or other our out over own part people
	place plant point power pressure put rain read right rise river run said same saw say sea second see
	seem set she should show side sky slow small so some soon sound south stand start still stone stop
	stream such sun take tell than that the their them then there these they thing think this those
	though three through time to together too took tree true try turbine turn two under until up upon us
	use valley very wall want was water way we well went were what wheel when where which while white who
	why will wind with without word work world would year you young your`)
