package template

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// filterToJSON writes what Python's json.dumps(x, ensure_ascii=False) writes, as transformers defines
// the filter; indent and sort_keys are known. Maps come in the order of their keys.
func filterToJSON(e *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	w := jsonWriter{limit: budgetOf(e.Environment.Context).limit, indent: -1}
	if v, ok := p.KwArgs["indent"]; ok && v.IsInteger() {
		w.indent = min(max(v.Integer(), 0), 16)
	}
	if v, ok := p.KwArgs["sort_keys"]; ok {
		w.sorted = v.IsTrue()
	}
	if err := w.value(in, 0); err != nil {
		return exec.AsValue(fmt.Errorf("tojson: %w", err))
	}
	return exec.AsValue(w.b.String())
}

type jsonWriter struct {
	b      strings.Builder
	limit  int
	indent int // spaces a level; -1: all on one line
	sorted bool
}

func (w *jsonWriter) value(v *exec.Value, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("more than %d levels", maxNesting)
	}
	if w.b.Len() > w.limit {
		return fmt.Errorf("more than %d bytes", w.limit)
	}
	switch {
	case v == nil || v.IsNil():
		w.b.WriteString("null")
	case v.IsString():
		w.text(v.String())
	case v.IsBool():
		w.b.WriteString(strconv.FormatBool(v.Bool()))
	case v.IsInteger():
		w.b.WriteString(strconv.Itoa(v.Integer()))
	case v.IsFloat():
		w.b.WriteString(float(v.Float()))
	case v.IsDict():
		return w.dict(v, depth)
	case v.IsList():
		return w.list(v, depth)
	default:
		return errors.New("a value that JSON has no form for")
	}
	return nil
}

// float writes the shortest digits that read back the same, as Python does.
func float(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 0):
		return strings.Replace(strconv.FormatFloat(f, 'g', -1, 64), "Inf", "Infinity", 1)
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		format = 'e'
	}
	s := strconv.FormatFloat(f, format, -1, 64)
	if format == 'f' && !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func (w *jsonWriter) dict(v *exec.Value, depth int) error {
	type pair struct {
		key   string
		value *exec.Value
	}
	var pairs []pair
	sorted := w.sorted
	if d, ok := v.Interface().(*exec.Dict); ok {
		for _, p := range d.Pairs {
			pairs = append(pairs, pair{p.Key.String(), p.Value})
		}
	} else {
		m := reflect.Indirect(v.Val)
		if m.Kind() != reflect.Map {
			return errors.New("a value that JSON has no form for")
		}
		for it := m.MapRange(); it.Next(); {
			pairs = append(pairs, pair{exec.ToValue(it.Key()).String(), exec.ToValue(it.Value())})
		}
		sorted = true // Go's maps have no order
	}
	if sorted {
		sort.SliceStable(pairs, func(i, j int) bool { return pairs[i].key < pairs[j].key })
	}
	return w.items('{', '}', len(pairs), depth, func(i int) error {
		w.text(pairs[i].key)
		w.b.WriteString(": ")
		return w.value(pairs[i].value, depth+1)
	})
}

func (w *jsonWriter) list(v *exec.Value, depth int) error {
	return w.items('[', ']', v.Len(), depth, func(i int) error { return w.value(exec.ToValue(v.Index(i).Interface()), depth+1) })
}

func (w *jsonWriter) items(open, end byte, n, depth int, item func(i int) error) error {
	w.b.WriteByte(open)
	for i := range n {
		if i > 0 {
			w.b.WriteByte(',')
			if w.indent < 0 {
				w.b.WriteByte(' ')
			}
		}
		w.line(depth + 1)
		if err := item(i); err != nil {
			return err
		}
	}
	if n > 0 {
		w.line(depth)
	}
	w.b.WriteByte(end)
	return nil
}

func (w *jsonWriter) line(depth int) {
	if w.indent >= 0 {
		w.b.WriteByte('\n')
		w.b.WriteString(strings.Repeat(" ", w.indent*depth))
	}
}

func (w *jsonWriter) text(s string) {
	w.b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			w.b.WriteByte('\\')
			w.b.WriteByte(c)
		case '\n':
			w.b.WriteString(`\n`)
		case '\r':
			w.b.WriteString(`\r`)
		case '\t':
			w.b.WriteString(`\t`)
		case '\b':
			w.b.WriteString(`\b`)
		case '\f':
			w.b.WriteString(`\f`)
		default:
			if c < 0x20 {
				fmt.Fprintf(&w.b, `\u%04x`, c)
			} else {
				w.b.WriteByte(c)
			}
		}
	}
	w.b.WriteByte('"')
}
