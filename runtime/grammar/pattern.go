package grammar

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"unicode"
	"unicode/utf8"
)

// pattern is what stands between the quotes of a string that matches a regular expression, with the last of them.
// Like JSON Schema's, an expression matches anywhere, unless it has ^ at its start or $ at its end.
func (b *builder) pattern(text string, k pc) (pc, error) {
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return 0, fmt.Errorf("not a regular expression that is served (those of RE2 are): %w", err)
	}
	prog, err := syntax.Compile(whole(re).Simplify())
	if err != nil {
		return 0, err
	}
	k = b.byte('"', k)
	base := pc(len(b.code))
	for range prog.Inst {
		b.split() // places, filled in below
	}
	if b.large {
		return 0, nil
	}
	for n, in := range prog.Inst {
		var alts []pc
		switch in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			alts = []pc{base + in.Out, base + in.Arg}
		case syntax.InstCapture, syntax.InstNop:
			alts = []pc{base + in.Out}
		case syntax.InstMatch:
			alts = []pc{k}
		case syntax.InstEmptyWidth:
			return 0, fmt.Errorf("anchors and word boundaries are served at the start (^) and the end ($) only")
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			alts = []pc{b.runes(ranges(&in), base+in.Out)}
		}
		if b.large {
			return 0, nil
		}
		b.code[base+pc(n)].alts = alts
	}
	return base + pc(prog.Start), nil
}

// whole makes an expression that matches a whole text where re matches a part of it.
func whole(re *syntax.Regexp) *syntax.Regexp {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	list := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		list = slices.Clone(re.Sub)
	}
	any := &syntax.Regexp{Op: syntax.OpStar, Sub: []*syntax.Regexp{{Op: syntax.OpAnyChar}}}
	if len(list) > 0 && list[0].Op == syntax.OpBeginText {
		list = list[1:]
	} else {
		list = slices.Insert(list, 0, any)
	}
	if n := len(list); n > 0 && list[n-1].Op == syntax.OpEndText {
		list = list[:n-1]
	} else {
		list = append(list, any)
	}
	return &syntax.Regexp{Op: syntax.OpConcat, Sub: list}
}

// ranges are the characters that an instruction matches, in pairs of the first and the last.
func ranges(in *syntax.Inst) []rune {
	switch in.Op {
	case syntax.InstRuneAny:
		return []rune{0, unicode.MaxRune}
	case syntax.InstRuneAnyNotNL:
		return []rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune}
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
func (b *builder) runes(pairs []rune, k pc) pc {
	var escaped []string
	var alts []pc
	for i := 0; i+1 < len(pairs); i += 2 {
		lo, hi := max(pairs[i], 0), min(pairs[i+1], unicode.MaxRune)
		for r, text := range escapes {
			if lo <= r && r <= hi {
				escaped = append(escaped, text)
			}
		}
		for _, gap := range []struct{ lo, hi rune }{{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, 0xd7ff}, {0xe000, unicode.MaxRune}} {
			if from, to := max(lo, gap.lo), min(hi, gap.hi); from <= to {
				alts = append(alts, b.bytes(from, to, k)...)
			}
		}
	}
	if len(escaped) > 0 {
		alts = append(alts, b.literals(escaped, k))
	}
	return b.split(alts...)
}

// bytes is one character of a range in UTF-8: places of which one reads it.
func (b *builder) bytes(lo, hi rune, k pc) (places []pc) {
	for _, most := range []rune{0x7f, 0x7ff, 0xffff, unicode.MaxRune} { // of one, two, three, four bytes
		if lo <= min(hi, most) {
			places = append(places, b.sequence(utf8.AppendRune(nil, lo), utf8.AppendRune(nil, min(hi, most)), k))
			lo = most + 1
		}
	}
	return places
}

// sequence is the characters of equally many bytes from one to another.
func (b *builder) sequence(from, to []byte, k pc) pc {
	if len(from) == 0 {
		return k
	}
	n := len(from) - 1
	if from[0] == to[0] {
		return b.byte(from[0], b.sequence(from[1:], to[1:], k))
	}
	lo, hi := from[0], to[0]
	least, most := slices.Repeat([]byte{0x80}, n), slices.Repeat([]byte{0xbf}, n)
	var edges []edge
	if !slices.Equal(from[1:], least) {
		edges = append(edges, edge{lo, lo, b.sequence(from[1:], most, k)})
		lo++
	}
	if !slices.Equal(to[1:], most) {
		edges = append(edges, edge{hi, hi, b.sequence(least, to[1:], k)})
		hi--
	}
	if lo <= hi {
		edges = append(edges, edge{lo, hi, b.sequence(least, most, k)})
	}
	return b.read(edges...)
}
