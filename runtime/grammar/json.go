package grammar

import (
	"math"
	"math/big"
	"slices"
)

// The parts of JSON. The rules of any value are built first in every program, so that they stand at the same
// places in all of them.

// most spaces behind a new line, digits of a number before and behind its point, and of its exponent.
const (
	mostIndent   = 20
	mostDigits   = 16
	mostExponent = 2
	exactDigits  = 15 // of a number with a fraction that a double keeps apart from any other: from a bound too
)

// common are the rules that every program begins with.
type common struct {
	fresh                                pc // a new line and spaces
	value, object, array, text, quantity pc
	whole                                pc
	size                                 pc // of them all
}

func (b *builder) common() *common {
	c := &common{}
	c.fresh = b.rule(func(k pc) pc { return b.byte('\n', b.repeat(b.span(' ', ' '), 0, mostIndent, k)) })
	c.text = b.rule(func(k pc) pc { return b.byte('"', b.inside(k)) })
	c.quantity = b.rule(numbers{b}.number)
	c.whole = b.rule(func(k pc) pc { // what 64 bits hold
		return numbers{b}.between(bound{at: big.NewInt(math.MinInt64)}, bound{at: big.NewInt(math.MaxInt64)}, true, k)
	})
	c.value = b.split() // filled in below: values nest
	c.object = b.rule(func(k pc) pc { return b.members(c, nil, b.member(b.calls(c.text), b.calls(c.value)), k) })
	c.array = b.rule(func(k pc) pc { return b.elements(c, nil, b.calls(c.value), 0, -1, k) })
	end := b.done()
	b.code[c.value].alts = []pc{b.call(c.object, end), b.call(c.array, end), b.call(c.text, end), b.call(c.quantity, end), b.literals([]string{"true", "false", "null"}, end)}
	c.size = pc(len(b.code))
	return c
}

func (b *builder) span(lo, hi byte) part    { return func(k pc) pc { return b.read(edge{lo, hi, k}) } }
func (b *builder) digit(k pc) pc            { return b.read(edge{'0', '9', k}) }
func (b *builder) space(c *common, k pc) pc { return b.split(k, b.byte(' ', k), b.call(c.fresh, k)) }

// member is a name with its value.
func (b *builder) member(name, value part) part {
	return func(k pc) pc {
		at := value(k)
		return name(b.byte(':', b.split(at, b.byte(' ', at))))
	}
}

// property is a member that a schema names.
type property struct {
	member   part
	required bool
}

// members is an object of properties in their order, and behind them any number of extra members, if there are any.
func (b *builder) members(c *common, properties []property, extra part, k pc) pc {
	first := b.byte('}', k)
	next := b.space(c, first) // what may follow a member
	if extra != nil {
		next = b.loop(func(k pc) pc { return b.byte(',', b.space(c, extra(k))) }, next)
		first = b.split(first, extra(next))
	}
	for _, p := range slices.Backward(properties) {
		member := p.member(next)
		after := b.byte(',', b.space(c, member))
		if p.required {
			first, next = member, after
		} else {
			first, next = b.split(member, first), b.split(after, next)
		}
	}
	return b.byte('{', b.space(c, first))
}

// elements is an array of the parts in prefix, and behind them any number of items, if there are any; together
// from least to most, which below 0 is without end.
func (b *builder) elements(c *common, prefix []part, item part, least, most int, k pc) pc {
	none := b.byte(']', k)
	closing := b.space(c, none)
	follow := func(p part) part { return func(k pc) pc { return b.byte(',', b.space(c, p(k))) } }
	list := slices.Clone(prefix)
	for len(list) < max(least, 1) && item != nil { // one at least: it has no comma
		list = append(list, item)
	}
	if most >= 0 && len(list) > most {
		list = list[:most]
	}
	next := closing
	switch {
	case item == nil:
	case most < 0:
		next = b.loop(follow(item), closing)
	default:
		for range most - len(list) {
			next = b.split(follow(item)(next), closing)
		}
	}
	if len(list) < least { // there is nothing for the others
		return b.read()
	}
	for i, p := range slices.Backward(list) {
		switch {
		case i == 0:
			next = p(next)
		case i < least:
			next = follow(p)(next)
		default:
			next = b.split(follow(p)(next), closing)
		}
	}
	switch {
	case len(list) == 0:
		next = none
	case least == 0:
		next = b.split(next, none)
	}
	return b.byte('[', b.space(c, next))
}

// inside is what stands between the quotes of a string, with the last of them.
func (b *builder) inside(k pc) pc {
	at := b.read()
	edges := append(b.character(at), edge{'"', '"', k})
	if !b.large {
		b.code[at].edges = edges
	}
	return at
}

// otherwise is a name that is none of those, with the last quote. Escapes could spell one of them.
func (b *builder) otherwise(names []string, k pc) pc {
	any := append(b.character(b.inside(k)), edge{'"', '"', k})
	any = slices.DeleteFunc(any, func(e edge) bool { return e.lo == '\\' })
	slices.Sort(names)
	return b.byte('"', b.tree(slices.Compact(names), 0, 0, k, func(without []byte) []edge {
		var edges []edge
		for _, e := range any {
			for lo := int(e.lo); lo <= int(e.hi); lo++ {
				if c := byte(lo); !slices.Contains(without, c) {
					edges = append(edges, edge{c, c, e.to})
				}
			}
		}
		return edges
	}))
}

// character is one character of a string, or an escape of one.
func (b *builder) character(k pc) []edge {
	more := b.span(0x80, 0xbf)
	one := more(k)
	two := more(one)
	return []edge{
		{0x20, '!', k}, {'#', '[', k}, {']', 0x7f, k}, {'\\', '\\', b.escape(k)},
		{0xc2, 0xdf, one}, {0xe0, 0xe0, b.span(0xa0, 0xbf)(one)}, {0xe1, 0xec, two}, {0xed, 0xed, b.span(0x80, 0x9f)(one)}, {0xee, 0xef, two},
		{0xf0, 0xf0, b.span(0x90, 0xbf)(two)}, {0xf1, 0xf3, more(two)}, {0xf4, 0xf4, b.span(0x80, 0x8f)(two)},
	}
}

// escape is what follows a backslash. Of a surrogate pair there is no half alone.
func (b *builder) escape(k pc) pc {
	hex := func(k pc) pc { return b.read(edge{'0', '9', k}, edge{'A', 'F', k}, edge{'a', 'f', k}) }
	two := hex(hex(k))
	low := b.read(edge{'C', 'F', two}, edge{'c', 'f', two})
	pair := hex(hex(b.text("\\u", b.read(edge{'D', 'D', low}, edge{'d', 'd', low}))))
	three := hex(two)
	d := b.read(edge{'0', '7', two}, edge{'8', '9', pair}, edge{'A', 'B', pair}, edge{'a', 'b', pair})
	unicode := b.read(edge{'0', '9', three}, edge{'A', 'C', three}, edge{'D', 'D', d}, edge{'E', 'F', three}, edge{'a', 'c', three}, edge{'d', 'd', d}, edge{'e', 'f', three})
	var edges []edge
	for _, c := range []byte(`"\\/bfnrt`) {
		edges = append(edges, edge{c, c, k})
	}
	return b.read(append(edges, edge{'u', 'u', unicode})...)
}
