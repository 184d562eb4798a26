package grammar

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"
)

// Vocabulary is the tokens of a model as a tree of their bytes. It is immutable but for what it keeps of earlier
// work, and safe for concurrent use.
type Vocabulary struct {
	tokens []string // by id
	ends   []int32
	writes []bool     // bytes of which tokens of one byte or one character are
	nodes  []treeNode // depth first; the first is the root
	ids    []int32    // tokens in the order of their nodes
	cache  cache
}

// treeNode is the end of all tokens that begin with the same bytes.
type treeNode struct {
	label byte  // the last of these
	depth int32 // how many they are
	skip  int32 // the node behind all that go on from here
	first int32 // in ids, of the tokens that end here; those of the next node follow
}

// NewVocabulary makes a vocabulary of n tokens. text gives the bytes of one, none for those that are no part of a
// text. ends are the tokens that end an answer.
func NewVocabulary(n int, text func(id int32) string, ends []int32) *Vocabulary {
	v := &Vocabulary{tokens: make([]string, n), writes: make([]bool, 256)}
	var ids []int32
	for id := range int32(n) {
		if v.tokens[id] = text(id); slices.Contains(ends, id) {
			v.tokens[id] = ""
			v.ends = append(v.ends, id)
		}
		if v.tokens[id] == "" {
			continue
		}
		ids = append(ids, id)
		if _, n := utf8.DecodeRuneInString(v.tokens[id]); n == len(v.tokens[id]) {
			for _, c := range []byte(v.tokens[id]) {
				v.writes[c] = true
			}
		}
	}
	slices.SortStableFunc(ids, func(a, b int32) int { return strings.Compare(v.tokens[a], v.tokens[b]) })
	v.ids = ids
	v.nodes = append(v.nodes, treeNode{})
	v.grow(0, len(ids), 0)
	v.nodes[0].skip = int32(len(v.nodes))
	v.nodes = append(v.nodes, treeNode{first: int32(len(ids))}) // where the last one's tokens end
	return v
}

// grow adds what goes on from the last node: the tokens from one place in ids to another, which share depth bytes.
func (v *Vocabulary) grow(from, to, depth int) {
	for from < to {
		c, end := v.tokens[v.ids[from]][depth], from+1
		for end < to && v.tokens[v.ids[end]][depth] == c {
			end++
		}
		at := len(v.nodes)
		v.nodes = append(v.nodes, treeNode{label: c, depth: int32(depth + 1), first: int32(from)})
		for from < end && len(v.tokens[v.ids[from]]) == depth+1 {
			from++
		}
		v.grow(from, end, depth+1)
		v.nodes[at].skip = int32(len(v.nodes))
		from = end
	}
}

// In is what of a grammar a vocabulary can write. Its answers never come to where nothing may follow, but in a
// vocabulary that has characters as tokens and not their bytes: there a text may want one that it lacks.
func (g *Grammar) In(v *Vocabulary) (*Grammar, error) {
	if len(v.ends) == 0 {
		return nil, fmt.Errorf("%w: it has no token that ends an answer", ErrVocabulary)
	}
	live := living(g.code, v.writes)
	switch {
	case slices.Equal(live, living(g.code, everyByte)):
		return g, nil
	case live[g.start]:
		return &Grammar{program: g.only(live), name: grammars.Add(1)}, nil
	}
	c := sort.Search(255, func(c int) bool { // the first byte without which there is no way
		return !living(g.code, slices.Concat(v.writes[:c+1], everyByte[c+1:]))[g.start]
	})
	return nil, fmt.Errorf("%w: it has no token for the byte %+q", ErrVocabulary, string([]byte{byte(c)}))
}

// longest is the longest token that a text begins with, and its bytes; 0 if there is none.
func (v *Vocabulary) longest(text []byte) (id int32, size int) {
	at := int32(0)
	for i, c := range text {
		end := v.nodes[at].skip
		for at++; at < end && v.nodes[at].label != c; {
			at = v.nodes[at].skip
		}
		if at >= end {
			break
		}
		if first := v.nodes[at].first; first < v.nodes[at+1].first {
			id, size = v.ids[first], i+1
		}
	}
	return id, size
}

// set is a set of tokens.
type set []uint64

func (v *Vocabulary) set() set { return make(set, (len(v.tokens)+63)/64) }

func (s set) add(id int32) { s[id>>6] |= 1 << (id & 63) }

// endAt adds the tokens that end at a node.
func (v *Vocabulary) endAt(node int32, s set) {
	for _, id := range v.ids[v.nodes[node].first:v.nodes[node+1].first] {
		s.add(id)
	}
}

// local is what can follow places of which it is not known what stands around their base.
type local struct {
	allowed set
	leaves  []int32 // nodes at whose end the base is left: what follows them depends on it
}

// cache keeps locals by their places: those that were put or asked for last, and some more.
type cache struct {
	mu           sync.Mutex
	kept, before map[string]*local
	size         int // bytes of kept
}

// mostKept is how many bytes are kept, and as many of before.
const mostKept = 8 << 20

func (c *cache) get(key []byte) *local {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.kept[string(key)]
	if l == nil {
		if l = c.before[string(key)]; l != nil {
			c.add(string(key), l)
		}
	}
	return l
}

func (c *cache) put(key []byte, l *local) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(string(key), l)
}

func (c *cache) add(key string, l *local) {
	size := 8*len(l.allowed) + 4*len(l.leaves) + len(key)
	if c.size += size; c.kept == nil || c.size > mostKept {
		c.before, c.kept, c.size = c.kept, map[string]*local{}, size
	}
	c.kept[key] = l
}
