package template

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
)

// list is a list in a template, with Python's negative indices.
type list []any

// GetItem is called by the template library for x[key].
func (l list) GetItem(key any) (*exec.Value, bool) {
	i, ok := key.(int)
	if ok && i < 0 {
		i += len(l)
	}
	if !ok || i < 0 || i >= len(l) {
		return exec.AsValue(nil), false
	}
	return exec.ToValue(l[i]), true
}

func texts(parts []string) list {
	l := make(list, len(parts))
	for i, p := range parts {
		l[i] = p
	}
	return l
}

// globals are the functions a template can call.
var globals = map[string]any{
	"raise_exception": func(e *exec.Evaluator, p *exec.VarArgs) (any, error) {
		b := budgetOf(e.Environment.Context)
		if b.raised == "" {
			b.raised = "raise_exception"
			if s := p.First().String(); s != "" {
				b.raised = s
			}
		}
		return nil, errors.New(b.raised)
	},
	"strftime_now": func(_ *exec.Evaluator, p *exec.VarArgs) (string, error) {
		return strftime(time.Now().UTC(), p.First().String())
	},
	"namespace": func(_ *exec.Evaluator, p *exec.VarArgs) map[string]any {
		ns := make(map[string]any, len(p.KwArgs))
		for k, v := range p.KwArgs {
			ns[k] = v
		}
		return ns
	},
	"range":     rangeFunc,
	"tools":     nil,
	"documents": nil,
}

// maxRange bounds range().
const maxRange = 1 << 16

func rangeFunc(_ *exec.Evaluator, p *exec.VarArgs) (list, error) {
	n := [3]int{0, 0, 1}
	for i, a := range p.Args {
		if i > 2 || !a.IsInteger() {
			return nil, errors.New("range takes one to three integers")
		}
		n[i] = a.Integer()
	}
	start, stop, step := n[0], n[1], n[2]
	switch len(p.Args) {
	case 0:
		return nil, errors.New("range takes one to three integers")
	case 1:
		start, stop = 0, n[0]
	}
	if step == 0 {
		return nil, errors.New("range with step 0")
	}
	var out list
	for i := start; (step > 0 && i < stop) || (step < 0 && i > stop); i += step {
		if len(out) == maxRange {
			return nil, fmt.Errorf("range of more than %d", maxRange)
		}
		out = append(out, i)
	}
	return out, nil
}

// strftime formats t as C's strftime does; the conversions that name-and-number dates need.
func strftime(t time.Time, format string) (string, error) {
	if len(format) > 200 {
		return "", errors.New("strftime_now: format longer than 200 bytes")
	}
	layouts := map[byte]string{
		'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'B': "January", 'b': "Jan", 'A': "Monday", 'a': "Mon",
		'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700",
		'F': "2006-01-02", 'T': "15:04:05", 'e': "_2",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		if format[i] == '%' {
			b.WriteByte('%')
			continue
		}
		layout, ok := layouts[format[i]]
		if !ok {
			return "", fmt.Errorf("strftime_now: %%%c is not known", format[i])
		}
		b.WriteString(t.Format(layout))
	}
	return b.String(), nil
}

// allowedFilters are those of the library that take time and space linear in their input, and ours
// where Python's result or a bound needs it.
func allowedFilters() map[string]exec.FilterFunction {
	out := map[string]exec.FilterFunction{
		"trim":    filterTrim,
		"replace": filterReplace,
		"join":    filterJoin,
		"reverse": filterReverse,
		"tojson":  filterToJSON,
	}
	for _, name := range []string{
		"abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "last",
		"length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "round", "safe", "select",
		"selectattr", "sort", "string", "sum", "title", "upper",
	} {
		if f, ok := builtins.Filters.Get(name); ok {
			out[name] = f
		}
	}
	return out
}

// arg returns the i-th argument, by place or by name, or nil.
func arg(p *exec.VarArgs, i int, name string) *exec.Value {
	if i < len(p.Args) {
		return p.Args[i]
	}
	if v, ok := p.KwArgs[name]; ok {
		return v
	}
	return nil
}

func filterTrim(_ *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	return exec.AsValue(strip(in.String(), arg(p, 0, "chars"), true, true))
}

func filterReplace(e *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	b := budgetOf(e.Environment.Context)
	s, err := replace(in.String(), p, b, b.limit)
	if err != nil {
		return exec.AsValue(err)
	}
	return exec.AsValue(s)
}

func replace(s string, p *exec.VarArgs, b *budget, limit int) (string, error) {
	from, to, n := arg(p, 0, "old"), arg(p, 1, "new"), -1
	if from == nil || to == nil {
		return "", errors.New("replace takes the old and the new text")
	}
	if c := arg(p, 2, "count"); c != nil && c.IsInteger() {
		n = c.Integer()
	}
	old, with := from.String(), to.String()
	if count := strings.Count(s, old); len(s)+count*max(0, len(with)-len(old)) > limit {
		return "", fmt.Errorf("replace: a text of more than %d bytes", limit)
	}
	return b.made(strings.Replace(s, old, with, n), s, with), nil
}

func filterJoin(e *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	var sep string
	if d := arg(p, 0, "d"); d != nil {
		sep = d.String()
	}
	b, size := budgetOf(e.Environment.Context), 0
	attribute := arg(p, 1, "attribute")
	var items []string
	in.Iterate(func(_, _ int, item, _ *exec.Value) bool {
		if attribute != nil {
			item, _ = item.Get(attribute.String())
		}
		items = append(items, item.String())
		size += len(items[len(items)-1]) + len(sep)
		return size-len(sep) <= b.limit
	}, func() {})
	if size-len(sep) > b.limit {
		return exec.AsValue(fmt.Errorf("join: a text of more than %d bytes", b.limit))
	}
	return exec.AsValue(b.made(strings.Join(items, sep), append(items, sep)...))
}

// filterReverse turns the order around; the library's sorts as well.
func filterReverse(_ *exec.Evaluator, in *exec.Value, _ *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	if in.IsString() {
		letters := []rune(in.String())
		slices.Reverse(letters)
		return exec.AsValue(string(letters))
	}
	var items list
	in.Iterate(func(_, _ int, item, _ *exec.Value) bool {
		items = append(items, item.Interface())
		return true
	}, func() {})
	slices.Reverse(items)
	return exec.AsValue(items)
}

// pythonSpace is Python's str.isspace for one character.
func pythonSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// strip is Python's str.strip and its one-sided forms.
func strip(s string, chars *exec.Value, left, right bool) string {
	cut := pythonSpace
	if chars != nil && !chars.IsNil() {
		set := chars.String()
		cut = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, cut)
	}
	if right {
		s = strings.TrimRightFunc(s, cut)
	}
	return s
}

// methods are what can be called on values: reading ones only, as in jinja2's immutable sandbox.
func methods() exec.Methods {
	dict := map[string]exec.Method[map[string]any]{}
	for _, name := range []string{"keys", "values", "items", "get"} {
		if m, ok := builtins.Methods.Dict.Get(name); ok {
			dict[name] = m
		}
	}
	return exec.Methods{
		Bool:  exec.NewMethodSet(map[string]exec.Method[bool]{}),
		Int:   exec.NewMethodSet(map[string]exec.Method[int]{}),
		Float: exec.NewMethodSet(map[string]exec.Method[float64]{}),
		Str:   exec.NewMethodSet(map[string]exec.Method[string]{}), // each rendering has its own: textMethods
		Dict:  exec.NewMethodSet(dict),
		List:  exec.NewMethodSet(map[string]exec.Method[[]any]{}),
	}
}

// textMethods are those of texts, in one rendering.
func textMethods(b *budget) map[string]exec.Method[string] {
	plain := func(f func(string) string) exec.Method[string] {
		return func(s string, _ *exec.Value, _ *exec.VarArgs) (any, error) { return f(s), nil }
	}
	stripped := func(left, right bool) exec.Method[string] {
		return func(s string, _ *exec.Value, p *exec.VarArgs) (any, error) {
			return strip(s, arg(p, 0, "chars"), left, right), nil
		}
	}
	affix := func(name string, f func(s, affix string) any) exec.Method[string] {
		return func(s string, _ *exec.Value, p *exec.VarArgs) (any, error) {
			a := arg(p, 0, "prefix")
			if a == nil || !a.IsString() {
				return nil, fmt.Errorf("%s takes one text", name)
			}
			return f(s, a.String()), nil
		}
	}
	out := map[string]exec.Method[string]{
		"upper":        plain(strings.ToUpper),
		"lower":        plain(strings.ToLower),
		"strip":        stripped(true, true),
		"lstrip":       stripped(true, false),
		"rstrip":       stripped(false, true),
		"startswith":   affix("startswith", func(s, a string) any { return strings.HasPrefix(s, a) }),
		"endswith":     affix("endswith", func(s, a string) any { return strings.HasSuffix(s, a) }),
		"removeprefix": affix("removeprefix", func(s, a string) any { return strings.TrimPrefix(s, a) }),
		"removesuffix": affix("removesuffix", func(s, a string) any { return strings.TrimSuffix(s, a) }),
		"split":        split,
		"splitlines": func(s string, _ *exec.Value, _ *exec.VarArgs) (any, error) {
			return parts(strings.Split(strings.TrimSuffix(strings.ReplaceAll(s, "\r\n", "\n"), "\n"), "\n"))
		},
		"replace": func(s string, _ *exec.Value, p *exec.VarArgs) (any, error) {
			return replace(s, p, b, maxRenderOutput+8*len(s))
		},
		"format": func(s string, _ *exec.Value, p *exec.VarArgs) (any, error) { return format(s, p, b) },
	}
	for _, name := range []string{"capitalize", "title", "find", "rfind", "isdigit", "isalpha", "isalnum", "isspace", "isupper", "islower"} {
		if m, ok := builtins.Methods.Str.Get(name); ok {
			out[name] = m
		}
	}
	return out
}

// format is Python's str.format for fields without a form of their own: {}, {0}, {name}. What it makes is not shown
// to who hides names: s is the template's own, and so it is no more than texts behind each other.
func format(s string, p *exec.VarArgs, b *budget) (string, error) {
	var out strings.Builder
	rest, next := s, 0
	for {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			out.WriteString(rest)
			return out.String(), nil
		}
		out.WriteString(rest[:i])
		if strings.HasPrefix(rest[i+1:], rest[i:i+1]) { // {{ or }}
			out.WriteByte(rest[i])
			rest = rest[i+2:]
			continue
		}
		field, after, closed := strings.Cut(rest[i+1:], "}")
		at, err := strconv.Atoi(field)
		if field == "" {
			at, next, err = next, next+1, nil
		}
		value := p.KwArgs[field]
		if err == nil && at >= 0 && at < len(p.Args) {
			value = p.Args[at]
		}
		if rest[i] == '}' || !closed || value == nil {
			return "", fmt.Errorf("format: the field {%.40s} has no value, or a form that is not known", field)
		}
		out.WriteString(value.String())
		rest = after
		if err := b.size(out.Len()); err != nil {
			return "", err
		}
	}
}

// split is Python's str.split.
func split(s string, _ *exec.Value, p *exec.VarArgs) (any, error) {
	n := -1
	if m := arg(p, 1, "maxsplit"); m != nil && m.IsInteger() && m.Integer() >= 0 {
		n = m.Integer() + 1
	}
	sep := arg(p, 0, "sep")
	if sep == nil || sep.IsNil() {
		return parts(strings.FieldsFunc(s, pythonSpace))
	}
	if sep.String() == "" {
		return nil, errors.New("split by an empty text")
	}
	return parts(strings.SplitN(s, sep.String(), n))
}

func parts(p []string) (any, error) {
	if len(p) > maxRange {
		return nil, fmt.Errorf("split into more than %d parts", maxRange)
	}
	return texts(p), nil
}
