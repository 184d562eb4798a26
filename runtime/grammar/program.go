package grammar

import "slices"

// pc is a place in a program.
type pc = uint32

type op uint8

const (
	read  op = iota // a byte: goes on where the edge says that it is in; without edges nothing can follow
	split           // goes on at all of alts
	call            // reads what rule alts[0] does, then goes on at alts[1]
	done            // the end of a rule, or of the answer
)

// edge is a range of bytes and where they lead.
type edge struct {
	lo, hi byte
	to     pc
}

type instruction struct {
	op    op
	edges []edge // disjoint
	alts  []pc
}

// Bounds of a program.
const (
	mostInstructions = 1 << 16
	mostFronts       = 1 << 18
	mostSteps        = 1 << 22 // of finding fronts
	mostRepeats      = 1 << 13
	mostShared       = 1 << 13 // bytes that several texts begin with
)

// part compiles something that k follows, and returns where it begins. So programs are written from their end.
type part func(k pc) pc

type builder struct {
	code  []instruction
	large bool // it grew beyond mostInstructions: what is built is of no use
}

func (b *builder) add(i instruction) pc {
	if len(b.code) >= mostInstructions {
		b.large = true
		return 0
	}
	b.code = append(b.code, i)
	return pc(len(b.code) - 1)
}

func (b *builder) done() pc              { return b.add(instruction{op: done}) }
func (b *builder) read(edges ...edge) pc { return b.add(instruction{op: read, edges: edges}) }
func (b *builder) split(alts ...pc) pc   { return b.add(instruction{op: split, alts: alts}) }
func (b *builder) call(rule, k pc) pc    { return b.add(instruction{op: call, alts: []pc{rule, k}}) }
func (b *builder) byte(c byte, k pc) pc  { return b.read(edge{c, c, k}) }

func (b *builder) text(s string, k pc) pc {
	for i := len(s) - 1; i >= 0; i-- {
		k = b.byte(s[i], k)
	}
	return k
}

// rule makes a rule of a part.
func (b *builder) rule(p part) pc { return p(b.done()) }

// calls is the part that calls a rule.
func (b *builder) calls(rule pc) part { return func(k pc) pc { return b.call(rule, k) } }

// repeat is p from least to most times; most below 0 is without end.
func (b *builder) repeat(p part, least, most int, k pc) pc {
	if most < 0 {
		k = b.loop(p, k)
	}
	end := k
	for range max(0, most-least) {
		k = b.split(p(k), end)
	}
	for range least {
		k = p(k)
	}
	return k
}

// loop is p any number of times.
func (b *builder) loop(p part, k pc) pc {
	at := b.split()
	first := p(at)
	if !b.large {
		b.code[at].alts = []pc{first, k}
	}
	return at
}

// literals is one of several texts.
func (b *builder) literals(texts []string, k pc) pc {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	return b.tree(slices.Compact(texts), 0, 0, k, nil)
}

// tree is one of sorted texts, from byte at on, of which left belong to a character or an escape. Where other is
// given, anything else than one of them is read: other gives what reads a byte that none of them goes on with, ended
// by a quote, and k stands for nothing. Within a character or an escape it is not asked: what differs only there
// cannot be said.
func (b *builder) tree(texts []string, at, left int, k pc, other func(without []byte) []edge) pc {
	if b.large = b.large || at > mostShared; b.large {
		return 0
	}
	if len(texts) == 1 && other == nil {
		return b.text(texts[0][at:], k)
	}
	ends := len(texts) > 0 && len(texts[0]) == at
	if ends {
		texts = texts[1:]
	}
	var edges []edge
	var first []byte
	for len(texts) > 0 {
		c, n := texts[0][at], 1
		for n < len(texts) && texts[n][at] == c {
			n++
		}
		edges = append(edges, edge{c, c, b.tree(texts[:n], at+1, unfinished(c, left), k, other)})
		first = append(first, c)
		texts = texts[n:]
	}
	switch {
	case other != nil && ends:
		return b.read(append(edges, other(append(first, '"'))...)...)
	case other != nil && left == 0:
		return b.read(append(edges, other(first)...)...)
	case len(edges) == 0:
		return k
	case ends:
		return b.split(k, b.read(edges...))
	}
	return b.read(edges...)
}

// unfinished is how many more bytes belong to the same character or escape of a string behind byte c, of which
// left bytes belonged to one.
func unfinished(c byte, left int) int {
	switch {
	case c == 'u' && left == 1: // of an escape: neither hexadecimal nor within a character
		return 4
	case left > 0:
		return left - 1
	case c >= 0xf0:
		return 3
	case c >= 0xe0:
		return 2
	case c >= 0xc0 || c == '\\':
		return 1
	}
	return 0
}

// program is what a matcher runs: the instructions without splits.
type program struct {
	code  []instruction
	front [][]pc // the places at which one is when one comes to a place: reads, calls and dones, each once
	start pc
}

// finish takes out what cannot lead to the end, and resolves splits. It returns nothing if the program is too large
// or nothing is left.
func finish(b *builder, start pc) *program {
	if b.large {
		return nil
	}
	live := living(b.code, everyByte)
	if !live[start] {
		return nil
	}
	p := &program{code: b.code, front: make([][]pc, len(b.code)), start: start}
	total, steps := 0, 0
	seen := make([]pc, len(b.code)) // 1 + the place whose front has it
	for at := range b.code {
		var list []pc
		var walk func(pc)
		walk = func(i pc) {
			if steps++; seen[i] == pc(at)+1 || !live[i] || steps > mostSteps {
				return
			}
			seen[i] = pc(at) + 1
			if b.code[i].op != split {
				list = append(list, i)
				return
			}
			for _, a := range b.code[i].alts {
				walk(a)
			}
		}
		walk(pc(at))
		p.front[at] = list
		if total += len(list); total > mostFronts || steps > mostSteps {
			b.large = true
			return nil
		}
	}
	for i := range p.code {
		p.code[i].edges = slices.DeleteFunc(slices.Clone(p.code[i].edges), func(e edge) bool { return !live[e.to] })
	}
	return p
}

// only is p without the places that do not live.
func (p *program) only(live []bool) program {
	q := program{code: slices.Clone(p.code), front: slices.Clone(p.front), start: p.start}
	for i := range q.code {
		q.code[i].edges = slices.DeleteFunc(slices.Clone(p.code[i].edges), func(e edge) bool { return !live[e.to] })
		q.front[i] = slices.DeleteFunc(slices.Clone(p.front[i]), func(at pc) bool { return !live[at] })
	}
	return q
}

var everyByte = slices.Repeat([]bool{true}, 256)

// living finds the places from which the end of their rule can be reached by these bytes.
func living(code []instruction, writes []bool) []bool {
	live := make([]bool, len(code))
	waiting := make([][]pc, len(code)) // places that may live when this one does
	var list []pc
	for at, i := range code {
		for _, e := range i.edges {
			if slices.Contains(writes[e.lo:int(e.hi)+1], true) {
				waiting[e.to] = append(waiting[e.to], pc(at))
			}
		}
		for _, a := range i.alts {
			waiting[a] = append(waiting[a], pc(at))
		}
		if i.op == done {
			list = append(list, pc(at))
		}
	}
	for len(list) > 0 {
		at := list[len(list)-1]
		list = list[:len(list)-1]
		if i := code[at]; live[at] || i.op == call && !(live[i.alts[0]] && live[i.alts[1]]) {
			continue
		}
		live[at] = true
		list = append(list, waiting[at]...)
	}
	return live
}

// circular tells whether a rule calls itself before it reads anything.
func (p *program) circular(rules []pc) bool {
	const open, closed = 1, 2
	state := map[pc]int{}
	var visit func(pc) bool
	visit = func(rule pc) bool {
		switch state[rule] {
		case open:
			return true
		case closed:
			return false
		}
		state[rule] = open
		for _, at := range p.front[rule] {
			if p.code[at].op == call && visit(p.code[at].alts[0]) {
				return true
			}
		}
		state[rule] = closed
		return false
	}
	return slices.ContainsFunc(rules, visit)
}
