package grammar

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// pattern is what stands between the quotes of a string that matches a regular expression, with the last of them.
// Like JSON Schema's, an expression matches anywhere, unless ^ and $ say otherwise. The string has from least to most
// characters, most below 0 is without end.
func pattern(b *builder, text string, least, most int, k pc) (pc, error) {
	text, err := dialect(text)
	if err != nil {
		return 0, err
	}
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return 0, fmt.Errorf("not a regular expression that is served (those of RE2 are): %w", err)
	}
	if weight(re) > mostInstructions {
		b.large = true
		return 0, nil
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return 0, err
	}
	e := expression{builder: b, prog: prog, least: least, most: most, k: b.byte('"', k), at: map[position]pc{}, sets: map[string]pc{}}
	starts := []pc{e.place(position{inst: before})}
	for _, in := range prog.Inst {
		if in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg) == syntax.EmptyBeginText {
			starts = append(starts, e.place(position{inst: uint32(prog.Start), start: true}))
			break
		}
	}
	return b.split(starts...), e.err
}

// What counts as space in one reader of patterns or another, and what in none.
const (
	spaces   = `\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}`
	noSpaces = `\x00-\x08\x0e-\x1b\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}`
)

// dialect makes a pattern of JavaScript's one of RE2: characters by their number, and \S nowhere a space.
func dialect(text string) (string, error) {
	var out strings.Builder
	class, negated := false, false
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		switch hex := hexadecimal.FindString(rest); {
		case hex != "":
			fmt.Fprintf(&out, `\x{%s}`, hex[2:])
			i += len(hex) - 1
			continue
		case strings.HasPrefix(rest, `\S`) && !class:
			out.WriteString("[" + noSpaces + "]")
		case strings.HasPrefix(rest, `\S`) && !negated:
			out.WriteString(noSpaces)
		case strings.HasPrefix(rest, `\s`) && negated:
			out.WriteString(spaces)
		case rest[0] == '\\' && len(rest) > 1:
			out.WriteString(rest[:2])
		default:
			switch {
			case class && rest[0] == ']':
				class, negated = false, false
			case class && rest[0] == '[': // or [:digit:] would be one of RE2's
				out.WriteByte('\\')
			case rest[0] == '[':
				class, negated = true, strings.HasPrefix(rest, "[^")
				if strings.HasPrefix(strings.TrimPrefix(rest[1:], "^"), "]") {
					return "", errors.New("a class that begins with ] ends there or not, as the reader goes: write [\\]")
				}
			}
			out.WriteByte(rest[0])
			continue
		}
		i++
	}
	return out.String(), nil
}

// hexadecimal is how JavaScript writes a character by its number.
var hexadecimal = regexp.MustCompile(`^\\u[0-9a-fA-F]{4}`)

// weight is about how many instructions an expression has, or many more than are taken.
func weight(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += weight(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, 1<<24)
}

// expression is a regular expression that is being compiled.
type expression struct {
	*builder
	prog        *syntax.Prog
	least, most int
	k           pc // behind the last quote
	at          map[position]pc
	sets        map[string]pc
	err         error
}

// position is a place in an expression. What ^ matches is at the start of the text, what $ matched is at its end.
type position struct {
	inst       uint32
	start, end bool
	count      int // of characters, as far as it matters
}

// Positions that stand before what matches, and behind it.
const (
	before = math.MaxUint32 - iota
	behind
)

var anything = []rune{0, unicode.MaxRune}

// place compiles what is at a position, each once.
func (e *expression) place(p position) pc {
	if at, ok := e.at[p]; ok || e.large || e.err != nil {
		return at
	}
	at := e.split()
	e.at[p] = at
	to := func(inst uint32) pc { return e.place(position{inst, p.start, p.end, p.count}) }
	var alts []pc
	switch p.inst {
	case before:
		alts = []pc{to(uint32(e.prog.Start)), e.one(anything, p, before)}
	case behind:
		if p.count >= e.least {
			alts = []pc{e.k}
		}
		if !p.end {
			alts = append(alts, e.one(anything, p, behind))
		}
	default:
		switch in := &e.prog.Inst[p.inst]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			alts = []pc{to(in.Out), to(in.Arg)}
		case syntax.InstCapture, syntax.InstNop:
			alts = []pc{to(in.Out)}
		case syntax.InstMatch:
			alts = []pc{to(behind)}
		case syntax.InstEmptyWidth:
			switch syntax.EmptyOp(in.Arg) {
			case syntax.EmptyBeginText:
				if p.start {
					alts = []pc{to(in.Out)}
				}
			case syntax.EmptyEndText:
				p.end = true
				alts = []pc{to(in.Out)}
			default:
				e.err = errors.New("word boundaries and the ends of lines are not served")
			}
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			if !p.end {
				alts = []pc{e.one(ranges(in), p, in.Out)}
			}
		}
	}
	if !e.large {
		e.code[at].alts = alts
	}
	return at
}

// one is a character of some ranges, of which large ones are compiled once, and then an instruction.
func (e *expression) one(pairs []rune, p position, then uint32) pc {
	if p.count == e.most {
		return e.read()
	}
	limit := e.most
	if limit < 0 {
		limit = e.least
	}
	k := e.place(position{inst: then, count: min(p.count+1, limit)})
	if len(pairs) <= 16 {
		return e.runes(pairs, k)
	}
	return e.call(e.once(string(pairs), func(k pc) pc { return e.runes(pairs, k) }), k)
}

// once makes a rule of a part, the first time that it is named.
func (e *expression) once(name string, p part) pc {
	rule, ok := e.sets[name]
	if !ok {
		rule = e.rule(p)
		e.sets[name] = rule
	}
	return rule
}

// ranges are the characters that an instruction matches, in pairs of the first and the last.
func ranges(in *syntax.Inst) []rune {
	switch in.Op {
	case syntax.InstRuneAny:
		return []rune{0, unicode.MaxRune}
	case syntax.InstRuneAnyNotNL:
		return []rune{0, '\n' - 1, '\n' + 1, '\r' - 1, '\r' + 1, 0x2027, 0x202a, unicode.MaxRune} // JavaScript's ends of lines
	}
	if len(in.Rune) > 1 {
		return in.Rune
	}
	r := in.Rune[0]
	list := []rune{r, r}
	if syntax.Flags(in.Arg)&syntax.FoldCase != 0 {
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			list = append(list, f, f)
		}
	}
	return list
}

// escapes are how characters are written that cannot stand in a string as they are.
var escapes = func() map[rune]string {
	m := map[rune]string{'"': `\"`, '\\': `\\`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`}
	for r := rune(0); r < 0x20; r++ {
		if m[r] == "" {
			m[r] = fmt.Sprintf(`\u%04x`, r)
		}
	}
	return m
}()

// runes is one character of some ranges, as it stands in a string.
func (e *expression) runes(pairs []rune, k pc) pc {
	var escaped []string
	var edges []edge
	for i := 0; i+1 < len(pairs); i += 2 {
		lo, hi := max(pairs[i], 0), min(pairs[i+1], unicode.MaxRune)
		for r, text := range escapes {
			if lo <= r && r <= hi {
				escaped = append(escaped, text[1:])
			}
		}
		for _, gap := range []struct{ lo, hi rune }{{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, 0xd7ff}, {0xe000, unicode.MaxRune}} {
			if from, to := max(lo, gap.lo), min(hi, gap.hi); from <= to {
				edges = append(edges, e.bytes(from, to, k)...)
			}
		}
	}
	edges = e.merge(edges)
	if len(escaped) > 0 {
		slices.Sort(escaped)
		rule := e.once("\\"+strings.Join(escaped, "\\"), func(k pc) pc { return e.literals(escaped, k) })
		edges = append(edges, edge{'\\', '\\', e.call(rule, k)})
	}
	return e.read(edges...)
}

// merge makes edges that begin with the same byte one, so that a byte leads to one place.
func (e *expression) merge(edges []edge) []edge {
	if e.large {
		return nil
	}
	slices.SortStableFunc(edges, func(x, y edge) int { return int(x.lo) - int(y.lo) })
	var list []edge
	for len(edges) > 0 {
		first, n := edges[0], 1
		for n < len(edges) && edges[n].lo == first.lo {
			n++
		}
		if n > 1 {
			var next []edge
			for _, x := range edges[:n] {
				next = append(next, e.code[x.to].edges...)
			}
			first.to = e.read(e.merge(next)...)
		}
		list, edges = append(list, first), edges[n:]
	}
	return list
}

// bytes is one character of a range in UTF-8.
func (e *expression) bytes(lo, hi rune, k pc) (edges []edge) {
	for _, most := range []rune{0x7f, 0x7ff, 0xffff, unicode.MaxRune} { // of one, two, three, four bytes
		if lo <= min(hi, most) {
			edges = append(edges, e.sequence(utf8.AppendRune(nil, lo), utf8.AppendRune(nil, min(hi, most)), k)...)
			lo = most + 1
		}
	}
	return edges
}

// sequence is the characters of equally many bytes from one to another.
func (e *expression) sequence(from, to []byte, k pc) []edge {
	n := len(from) - 1
	rest := func(from, to []byte) pc {
		if n == 0 {
			return k
		}
		return e.read(e.sequence(from, to, k)...)
	}
	if from[0] == to[0] {
		return []edge{{from[0], from[0], rest(from[1:], to[1:])}}
	}
	lo, hi := from[0], to[0]
	least, most := slices.Repeat([]byte{0x80}, n), slices.Repeat([]byte{0xbf}, n)
	var edges []edge
	if !slices.Equal(from[1:], least) {
		edges = append(edges, edge{lo, lo, rest(from[1:], most)})
		lo++
	}
	if !slices.Equal(to[1:], most) {
		edges = append(edges, edge{hi, hi, rest(least, to[1:])})
		hi--
	}
	if lo <= hi {
		edges = append(edges, edge{lo, hi, rest(least, most)})
	}
	return edges
}
