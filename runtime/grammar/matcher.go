package grammar

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// Matcher follows one answer. It belongs to one sequence and is not safe for concurrent use.
type Matcher struct {
	g      *Grammar
	v      *Vocabulary
	now    []thread // where the answer may be; several, where alternatives begin alike
	ended  bool     // the answer may end here
	spare  []thread // for those of the next byte
	levels [][]thread
	frames map[frame]*frame // each once, so that equal places have equal frames
	kept   map[keptKey]set
	key    []byte
}

// thread is a place that reads, and what it returns to.
type thread struct {
	at pc
	up *frame // nil: the answer's own
}

// frame is a call of a rule under way.
type frame struct {
	to    pc
	up    *frame
	depth int
}

type keptKey struct {
	local *local
	base  *frame
	ended bool
}

// mostSets bounds what a matcher keeps: a set of 50,000 tokens has 6 KB.
const mostSets = 16

// Matcher returns a matcher at the start of an answer in a vocabulary.
func (g *Grammar) Matcher(v *Vocabulary) *Matcher {
	m := &Matcher{g: g, v: v, frames: map[frame]*frame{}, kept: map[keptKey]set{}}
	r := run{m: m}
	m.now = r.come(nil, g.start, nil)
	m.ended = r.ended
	return m
}

// run is a walk through the grammar. It stops where base is left, nil: where the answer is.
type run struct {
	m     *Matcher
	base  *frame
	ended bool // base was left, or the answer's end reached
}

// come adds the threads of what comes to a place.
func (r *run) come(to []thread, at pc, up *frame) []thread {
	g := r.m.g
	for _, i := range g.front[at] {
		switch in := &g.code[i]; in.op {
		case read:
			if t := (thread{i, up}); !slices.Contains(to, t) {
				to = append(to, t)
			}
		case call:
			to = r.come(to, in.alts[0], r.m.frame(in.alts[1], up))
		case done:
			if up == r.base {
				r.ended = true
			} else {
				to = r.come(to, up.to, up.up)
			}
		}
	}
	return to
}

func (m *Matcher) frame(to pc, up *frame) *frame {
	f := frame{to: to, up: up}
	if up != nil {
		f.depth = up.depth + 1
	}
	p, ok := m.frames[f]
	if !ok {
		p = &f
		m.frames[f] = p
	}
	return p
}

// step adds to the threads behind byte c.
func (r *run) step(to, from []thread, c byte) []thread {
	r.ended = false
	for _, t := range from {
		for _, e := range r.m.g.code[t.at].edges {
			if e.lo <= c && c <= e.hi {
				to = r.come(to, e.to, t.up)
				break
			}
		}
	}
	return to
}

// Accept moves on by a token. Tokens that are no part of a text count for nothing. It reports whether the token
// was allowed; after one that was not, nothing is.
func (m *Matcher) Accept(token int32) bool {
	if token < 0 || int(token) >= len(m.v.tokens) {
		return false
	}
	r := run{m: m}
	for _, c := range []byte(m.v.tokens[token]) {
		next := r.step(m.spare[:0], m.now, c)
		m.now, m.spare, m.ended = next, m.now, r.ended
	}
	return len(m.now) > 0 || m.ended
}

// Restrict makes the logits of all tokens that may not follow minus infinity. It reports whether one may.
func (m *Matcher) Restrict(logits []float32) bool {
	allowed, none := m.allowed(), true
	impossible := float32(math.Inf(-1))
	for w, word := range allowed {
		if word == ^uint64(0) {
			none = false
			continue
		}
		part := logits[min(64*w, len(logits)):min(64*w+64, len(logits))]
		none = none && word == 0
		for i := range part {
			if word>>i&1 == 0 {
				part[i] = impossible
			}
		}
	}
	for i := 64 * len(allowed); i < len(logits); i++ {
		logits[i] = impossible
	}
	return !none
}

// Only is the token that must follow, if there is only one.
func (m *Matcher) Only() (int32, bool) {
	token, n := int32(0), 0
	for w, word := range m.allowed() {
		if n += bits.OnesCount64(word); word != 0 {
			token = int32(64*w + bits.TrailingZeros64(word))
		}
	}
	return token, n == 1
}

// allowed is the tokens that may follow; shared, not to be changed.
func (m *Matcher) allowed() set {
	base := m.base()
	l := m.local(base)
	key := keptKey{l, base, m.ended}
	if s, ok := m.kept[key]; ok {
		return s
	}
	s := slices.Clone(l.allowed)
	if base != nil {
		r := run{m: m}
		around := r.come(nil, base.to, base.up)
		if len(around) > 0 || r.ended {
			for _, node := range l.leaves {
				m.v.endAt(node, s)
				m.walk(nil, node, around, s)
			}
		}
	}
	if m.ended {
		for _, id := range m.v.ends {
			s.add(id)
		}
	}
	if len(m.kept) >= mostSets {
		clear(m.kept)
	}
	m.kept[key] = s
	return s
}

// base is the innermost frame that all threads are within.
func (m *Matcher) base() *frame {
	if len(m.now) == 0 {
		return nil
	}
	base := m.now[0].up
	for _, t := range m.now[1:] {
		other := t.up
		for base != other {
			if base == nil || other == nil {
				return nil
			}
			if base.depth >= other.depth {
				base = base.up
			} else {
				other = other.up
			}
		}
	}
	return base
}

// local finds what may follow within base, which it computes once for equal places.
func (m *Matcher) local(base *frame) *local {
	shared := true
	m.key = m.key[:0]
	place := func(at pc) {
		m.key = binary.LittleEndian.AppendUint32(m.key, at)
		shared = shared && at < m.g.shared
	}
	for _, t := range m.now {
		place(t.at)
		for f := t.up; f != base; f = f.up {
			place(f.to)
		}
		m.key = binary.LittleEndian.AppendUint32(m.key, math.MaxUint32)
	}
	outer := base == nil // leaving it is the answer's end
	if outer {
		m.key = append(m.key, 1)
	}
	c := &m.g.cache
	if shared {
		c = &m.v.cache
	}
	if l := c.get(m.key); l != nil {
		return l
	}
	l := &local{allowed: m.v.set()}
	if outer {
		m.walk(nil, 0, m.now, l.allowed)
	} else {
		l.leaves = m.walk(base, 0, m.now, l.allowed)
	}
	c.put(m.key, l)
	return l
}

// walk adds to s the tokens behind a node that can be read from some threads without leaving base, and returns the
// nodes at which it can be left. Leaving nil, the end of the answer, is as good as going on.
func (m *Matcher) walk(base *frame, node int32, from []thread, s set) (leaves []int32) {
	r := run{m: m, base: base}
	v, start := m.v, m.v.nodes[node].depth
	for i := node + 1; i < v.nodes[node].skip; {
		d := int(v.nodes[i].depth - start)
		for len(m.levels) <= d {
			m.levels = append(m.levels, nil)
		}
		before := from
		if d > 1 {
			before = m.levels[d-1]
		}
		m.levels[d] = r.step(m.levels[d][:0], before, v.nodes[i].label)
		alive := len(m.levels[d]) > 0
		if r.ended && base != nil {
			leaves = append(leaves, i)
		}
		if alive || r.ended && base == nil {
			v.endAt(i, s)
		}
		if alive {
			i++
		} else {
			i = v.nodes[i].skip
		}
	}
	return leaves
}
