package grammar

import (
	"encoding/binary"
	"math"
	"slices"
)

// Matcher follows one answer. It belongs to one sequence and is not safe for concurrent use.
type Matcher struct {
	g      *Grammar
	v      *Vocabulary
	now    []thread // where the answer may be; several, where alternatives begin alike
	ended  bool     // the answer may end here
	spare  []thread // for those of the next byte
	levels []int32
	frames map[frame]*frame // each once, so that equal places have equal frames
	named  uint32           // frames that were made
	used   int              // frames that were in use when the others were thrown away
	came   places           // of one byte: where a walk was
	reads  places           // and what it found
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
	name  uint32 // 0 in keys
}

type keptKey struct {
	local *local
	base  *frame
	ended bool
}

// Bounds of a matcher. What they cut off could have been generated, what is left is still right: from every place
// the end can be reached, and a token of one byte costs no work that counts.
const (
	mostSets    = 16      // that it keeps: one of 50,000 tokens has 6 KB
	mostThreads = 1 << 9  // between two tokens
	mostFrames  = 1 << 14 // that it keeps, or twice as many as were in use
	mostWork    = 1 << 15 // of looking for the tokens that may follow, in threads that were moved
	mostForced  = 1 << 6  // bytes that must follow, of which tokens are expected
)

// places is a set of places. Most have few; it is searched as it is then.
type places struct {
	list  []thread
	first []owner // by place in the program, of a set that has more
	turn  uint32  // of the set: what others left there does not count
	more  map[thread]bool
}

// owner is what a place was found with first.
type owner struct {
	up   *frame
	turn uint32
}

const fewPlaces = 16

func (p *places) clear() {
	p.list = p.list[:0]
	clear(p.more)
}

// add reports whether a place is new. The program has so many.
func (p *places) add(t thread, program int) bool {
	switch n := len(p.list); {
	case n < fewPlaces:
		if slices.Contains(p.list, t) {
			return false
		}
	case n == fewPlaces:
		if slices.Contains(p.list, t) {
			return false
		}
		if p.turn++; p.first == nil || p.turn == 0 {
			p.first, p.turn, p.more = make([]owner, program), 1, map[thread]bool{}
		}
		for _, t := range p.list {
			p.mark(t)
		}
		p.mark(t)
	case !p.mark(t):
		return false
	}
	p.list = append(p.list, t)
	return true
}

func (p *places) mark(t thread) bool {
	switch o := &p.first[t.at]; {
	case o.turn != p.turn:
		*o = owner{t.up, p.turn}
	case o.up == t.up || p.more[t]:
		return false
	default:
		p.more[t] = true
	}
	return true
}

// Matcher returns a matcher at the start of an answer in a vocabulary.
func (g *Grammar) Matcher(v *Vocabulary) *Matcher {
	m := &Matcher{g: g, v: v, frames: map[frame]*frame{}, kept: map[keptKey]set{}}
	r := run{m: m}
	m.move(r.start(g.start, nil), r.ended)
	return m
}

// move makes these threads the answer's.
func (m *Matcher) move(now []thread, ended bool) {
	m.now, m.ended = now[:min(len(now), mostThreads)], ended
	if len(m.frames) < max(mostFrames, 2*m.used) {
		return
	}
	clear(m.kept)
	clear(m.frames)
	for _, t := range m.now { // those that are in use
		for f := t.up; f != nil && m.frames[frame{to: f.to, up: f.up}] == nil; f = f.up {
			m.frames[frame{to: f.to, up: f.up}] = f
		}
	}
	m.used = len(m.frames)
}

// run is a walk through the grammar. It stops where base is left, nil: where the answer is.
type run struct {
	m     *Matcher
	base  *frame
	ended bool // base was left, or the answer's end reached
}

// start is the threads of what comes to a place.
func (r *run) start(at pc, up *frame) []thread {
	r.clear()
	return r.come(nil, at, up)
}

func (r *run) clear() {
	r.ended = false
	r.m.came.clear()
	r.m.reads.clear()
}

// come adds the threads of what comes to a place.
func (r *run) come(to []thread, at pc, up *frame) []thread {
	g := r.m.g
	front := g.front[at]
	if (len(front) != 1 || g.code[front[0]].op != read) && !r.m.came.add(thread{at, up}, len(g.code)) {
		return to
	}
	for _, i := range front {
		switch in := &g.code[i]; in.op {
		case read:
			if t := (thread{i, up}); r.m.reads.add(t, len(g.code)) {
				to = append(to, t)
			}
		case call:
			back := up // where nothing is left to do behind it, it returns to where this one does
			if next := g.front[in.alts[1]]; len(next) != 1 || g.code[next[0]].op != done {
				back = r.m.frame(in.alts[1], up)
			}
			to = r.come(to, in.alts[0], back)
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
	p, ok := m.frames[f]
	if !ok {
		key := f
		if m.named++; up != nil {
			f.depth = up.depth + 1
		}
		f.name, p = m.named, &f
		m.frames[key] = p
	}
	return p
}

// step adds to the threads behind byte c.
func (r *run) step(to, from []thread, c byte) []thread {
	r.clear()
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
	m.move(m.now, m.ended)
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

// Expect is at most n tokens that may be guessed to follow: the bytes that must, in tokens as long as can be. Others
// can say the same bytes.
func (m *Matcher) Expect(n int) (ids []int32) {
	text := m.forced()
	for len(ids) < n {
		id, size := m.v.longest(text)
		if size == 0 {
			break
		}
		ids, text = append(ids, id), text[size:]
	}
	return ids
}

// forced is the bytes with which the answer goes on in any case, as far as they are found soon.
func (m *Matcher) forced() (text []byte) {
	r := run{m: m}
	for now, ended := m.now, m.ended; !ended && len(now) <= fewPlaces && len(text) < mostForced; ended = r.ended {
		c, ok := m.single(now)
		if !ok {
			break
		}
		text = append(text, c)
		now = r.step(nil, now, c)
	}
	return text
}

// single is the byte that threads read, if they read no other.
func (m *Matcher) single(threads []thread) (c byte, ok bool) {
	for i, t := range threads {
		edges := m.g.code[t.at].edges
		if len(edges) != 1 || edges[0].lo != edges[0].hi || i > 0 && edges[0].lo != c {
			return 0, false
		}
		c = edges[0].lo
	}
	return c, len(threads) > 0
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
		a := m.automaton(nil)
		around := a.run.start(base.to, base.up)
		first := a.state(around, a.run.ended)
		for _, node := range l.leaves {
			m.v.endAt(node, s)
			a.walk(node, first, s)
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
	if !shared {
		m.key = binary.LittleEndian.AppendUint64(m.key, m.g.name)
	}
	if l := m.v.cache.get(m.key); l != nil {
		return l
	}
	l := &local{allowed: m.v.set()}
	a := m.automaton(base)
	l.leaves = a.walk(0, a.state(m.now, false), l.allowed)
	m.v.cache.put(m.key, l)
	return l
}

// automaton is a walk through the vocabulary: sets of threads, and where bytes lead from them, each found once.
type automaton struct {
	run    run
	states []*state
	index  map[string]int32
	work   int
}

type state struct {
	threads []thread
	ended   bool       // base was left on the way here, or the answer can end
	next    [256]int32 // 1 + the state behind a byte; 0: not looked for yet
}

func (m *Matcher) automaton(base *frame) *automaton {
	return &automaton{run: run{m: m, base: base}, index: map[string]int32{}}
}

func (a *automaton) state(threads []thread, ended bool) int32 {
	key := a.run.m.key[len(a.run.m.key):]
	for _, t := range threads {
		key = binary.LittleEndian.AppendUint32(key, t.at)
		name := uint32(0)
		if t.up != nil {
			name = t.up.name
		}
		key = binary.LittleEndian.AppendUint32(key, name)
	}
	if ended {
		key = append(key, 1)
	}
	at, ok := a.index[string(key)]
	if !ok {
		at = int32(len(a.states))
		a.states = append(a.states, &state{threads: slices.Clone(threads), ended: ended})
		a.index[string(key)] = at
	}
	return at
}

// behind is the state behind a byte, false where finding it is too much work. Looking for a single byte is not.
func (a *automaton) behind(from int32, c byte, single bool) (int32, bool) {
	s := a.states[from]
	if s.next[c] == 0 {
		if !single {
			if a.work += 1 + len(s.threads); a.work > mostWork {
				return 0, false
			}
		}
		to := a.run.step(a.run.m.spare[:0], s.threads, c)
		a.run.m.spare = to[:0]
		n := a.state(to, a.run.ended)
		if !single {
			a.work += len(to)
		}
		s.next[c] = n + 1
	}
	return s.next[c] - 1, true
}

// walk adds to s the tokens behind a node that can be read from a state without leaving base, and returns the
// nodes at which it can be left. Leaving nil, the end of the answer, is as good as going on.
func (a *automaton) walk(node, from int32, s set) (leaves []int32) {
	m := a.run.m
	v, start := m.v, m.v.nodes[node].depth
	for i := node + 1; i < v.nodes[node].skip; {
		d := int(v.nodes[i].depth - start)
		for len(m.levels) <= d {
			m.levels = append(m.levels, 0)
		}
		before := from
		if d > 1 {
			before = m.levels[d-1]
		}
		to, ok := a.behind(before, v.nodes[i].label, v.nodes[i].depth == 1)
		if !ok {
			i = v.nodes[i].skip
			continue
		}
		m.levels[d] = to
		st := a.states[to]
		alive := len(st.threads) > 0
		if st.ended && a.run.base != nil {
			leaves = append(leaves, i)
		}
		if alive || st.ended && a.run.base == nil {
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
