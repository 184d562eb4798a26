package template

import (
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/nikolalohinski/gonja/v2/builtins"
	controlStructures "github.com/nikolalohinski/gonja/v2/builtins/control_structures"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// sandbox is what templates can reach: statements, filters, tests, methods and functions, each either
// harmless or bounded by the rendering's budget. It is read-only once built.
var sandbox = &exec.Environment{
	Context:           exec.NewContext(globals),
	Filters:           exec.NewFilterSet(allowedFilters()),
	Tests:             builtins.Tests,
	ControlStructures: exec.NewControlStructureSet(statements()),
	Methods:           methods(),
}

// statements are the allowed {% … %}: no inheritance, imports or includes, and those that repeat,
// call or store are wrapped.
func statements() map[string]parser.ControlStructureParser {
	out := map[string]parser.ControlStructureParser{
		"for":        parseFor,
		"macro":      parseMacro,
		"set":        parseSet,
		"filter":     parseFilter,
		"generation": parseGeneration,
	}
	for _, name := range []string{"if", "raw", "break", "continue"} {
		if p, ok := controlStructures.All.Get(name); ok {
			out[name] = p
		}
	}
	return out
}

func builtin(name string, p, args *parser.Parser) (nodes.ControlStructure, error) {
	parse, ok := controlStructures.All.Get(name)
	if !ok {
		return nil, fmt.Errorf("statement %q is missing in the template library", name)
	}
	return parse(p, args)
}

// tick is a statement without text at the start of a loop's body: it counts the pass.
type tick struct{ at *tokens.Token }

func (t *tick) Position() *tokens.Token { return t.at }
func (t *tick) String() string          { return "tick" }

func (t *tick) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	return budgetOf(r.Environment.Context).step()
}

// kept is a text that is written into memory, of a macro, a set or a filter, and not into the output.
type kept struct {
	io.Writer
	*budget
	n int
}

func (k *kept) Write(p []byte) (int, error) { return k.WriteString(string(p)) }

// WriteString counts the text before it is there.
func (k *kept) WriteString(s string) (int, error) {
	k.n += len(s)
	k.kept += len(s)
	if err := k.size(k.n); err != nil {
		return 0, err
	}
	if k.kept > maxKept*k.limit {
		return 0, k.fail("macros, sets and filters write more than %d bytes", maxKept*k.limit)
	}
	return io.WriteString(k.Writer, s)
}

// keep renders body into memory.
func keep(r *exec.Renderer, body *nodes.Wrapper) (string, error) {
	var out strings.Builder
	sub := r.Inherit()
	sub.Output = &kept{Writer: &out, budget: budgetOf(r.Environment.Context)}
	err := sub.ExecuteWrapper(body)
	return out.String(), err
}

// bound is a statement without text at the start of a macro's body, which the library writes into memory.
type bound struct{ tick }

func (t *bound) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	r.Output = &kept{Writer: r.Output, budget: budgetOf(r.Environment.Context)}
	return nil
}

// filter is {% filter … %}, whose text the library would write into memory without a limit.
type filter struct {
	body  *nodes.Wrapper
	chain []*nodes.FilterCall
}

func parseFilter(p, args *parser.Parser) (nodes.ControlStructure, error) {
	body, _, err := p.WrapUntil("endfilter")
	if err != nil {
		return nil, err
	}
	f := &filter{body: body}
	for more := true; more; more = args.Match(tokens.Pipe) != nil {
		call, err := args.ParseFilter()
		if err != nil {
			return nil, err
		}
		f.chain = append(f.chain, call)
	}
	if !args.End() {
		return nil, args.Error("a filter block that is not understood", nil)
	}
	return f, nil
}

func (f *filter) Position() *tokens.Token { return f.body.Location }
func (f *filter) String() string          { return "filter" }

func (f *filter) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	text, err := keep(r, f.body)
	if err != nil {
		return err
	}
	value := exec.AsValue(text)
	for _, call := range f.chain {
		if value = r.Evaluator().ExecuteFilter(call, value); value.IsError() {
			return value
		}
	}
	_, err = io.WriteString(r.Output, value.String())
	return err
}

// block is the body of {% set NAME %}.
type block struct {
	name string
	body *nodes.Wrapper
}

func (b *block) Position() *tokens.Token { return b.body.Location }
func (b *block) String() string          { return "set" }

func (b *block) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	text, err := keep(r, b.body)
	if err == nil {
		r.Environment.Context.Set(b.name, text)
	}
	return err
}

// first puts a statement without text in front of a body.
func first(body *nodes.Wrapper, cs nodes.ControlStructure) {
	at := body.Location
	body.Nodes = append([]nodes.Node{&nodes.ControlStructureBlock{Location: at, ControlStructure: cs}}, body.Nodes...)
}

func parseFor(p, args *parser.Parser) (nodes.ControlStructure, error) {
	cs, err := builtin("for", p, args)
	if err != nil {
		return nil, err
	}
	loop, ok := cs.(*controlStructures.ForControlStructure)
	if !ok || loop.Recursive {
		return nil, fmt.Errorf("line %d: recursive loops are not allowed in templates", cs.Position().Line)
	}
	first(loop.BodyWrapper, &tick{at: loop.BodyWrapper.Location})
	return loop, nil
}

// macro is the library's, with calls counted and their depth bounded.
type macro struct{ *nodes.Macro }

func parseMacro(p, args *parser.Parser) (nodes.ControlStructure, error) {
	cs, err := builtin("macro", p, args)
	if err != nil {
		return nil, err
	}
	m, ok := cs.(*controlStructures.MacroControlStructure)
	if !ok {
		return nil, fmt.Errorf("line %d: a macro of an unknown kind", cs.Position().Line)
	}
	first(m.Wrapper, &bound{tick{at: m.Wrapper.Location}})
	return &macro{m.Macro}, nil
}

func (m *macro) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	call, err := exec.MacroNodeToFunc(m.Macro, r)
	if err != nil {
		return err
	}
	b := budgetOf(r.Environment.Context)
	r.Environment.Context.Set(m.Name, exec.Macro(func(params *exec.VarArgs) *exec.Value {
		if err := b.step(); err != nil {
			return exec.AsValue(err)
		}
		if b.depth >= maxMacroDepth {
			return exec.AsValue(b.fail("macro %.100q: calls more than %d deep", m.Name, maxMacroDepth))
		}
		b.depth++
		defer func() { b.depth-- }()
		return call(params)
	}))
	return nil
}

// set is the library's, with a bound on the size and the depth of what is stored.
type set struct {
	exec.ControlStructure
	name string
}

func parseSet(p, args *parser.Parser) (nodes.ControlStructure, error) {
	var name string
	if t := args.Current(tokens.Name); t != nil {
		name = t.Val
	}
	if next := args.Peek(); next == nil || next.Type == tokens.EOF {
		body, _, err := p.WrapUntil("endset")
		return &set{ControlStructure: &block{name: name, body: body}, name: name}, err
	}
	at := p.Current()
	cs, err := builtin("set", p, args)
	if err != nil {
		return nil, err
	}
	if p.Current() != at {
		return nil, fmt.Errorf("line %d: only a variable is set to a block in templates", cs.Position().Line)
	}
	inner, ok := cs.(exec.ControlStructure)
	if !ok {
		return nil, fmt.Errorf("line %d: a set of an unknown kind", cs.Position().Line)
	}
	return &set{ControlStructure: inner, name: name}, nil
}

func (s *set) Execute(r *exec.Renderer, block *nodes.ControlStructureBlock) error {
	b := budgetOf(r.Environment.Context)
	if err := b.step(); err != nil {
		return err
	}
	if err := s.ControlStructure.Execute(r, block); err != nil {
		return err
	}
	v, _ := r.Environment.Context.Get(s.name)
	w := weight{}
	w.add(reflect.ValueOf(v), 0)
	if w.over {
		return b.fail("variable %.100q: more than %d values or more than %d deep", s.name, maxValues, maxDepth)
	}
	return b.size(w.bytes)
}

// Bounds on a variable.
const (
	maxValues = 1 << 17
	maxDepth  = 16
)

// weight measures a variable, so that it can neither grow without bound nor contain itself.
type weight struct {
	bytes, values int
	over          bool
}

func (w *weight) add(v reflect.Value, depth int) {
	if w.values++; w.values > maxValues || depth > 8*maxDepth { // a value inside a value is up to 8 steps of reflection
		w.over = true
	}
	if w.over || !v.IsValid() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		w.bytes += v.Len()
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return
		}
		if val, ok := v.Interface().(*exec.Value); ok {
			w.add(val.Val, depth+1)
			return
		}
		w.add(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && !w.over; i++ {
			w.add(v.Index(i), depth+1)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next() && !w.over; {
			w.add(it.Key(), depth+1)
			w.add(it.Value(), depth+1)
		}
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(v.Type()) {
			if f.IsExported() && !w.over {
				w.add(v.FieldByIndex(f.Index), depth+1)
			}
		}
	}
}

// generation marks the assistant's words for training; it renders what it contains.
type generation struct{ body *nodes.Wrapper }

func parseGeneration(p, _ *parser.Parser) (nodes.ControlStructure, error) {
	body, _, err := p.WrapUntil("endgeneration")
	if err != nil {
		return nil, err
	}
	return &generation{body: body}, nil
}

func (g *generation) Position() *tokens.Token { return g.body.Location }
func (g *generation) String() string          { return "generation" }

func (g *generation) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	return r.ExecuteWrapper(g.body)
}
