package grammar

import (
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

var (
	// ErrUnsupported is returned, wrapped, for a keyword that is not served; the text names it and its place.
	ErrUnsupported = errors.New("not served")
	// ErrSchema is returned, wrapped, for what is no schema, or one that nothing satisfies.
	ErrSchema = errors.New("not usable")
	// ErrVocabulary is returned, wrapped, for what the tokens of a model cannot write to its end.
	ErrVocabulary = errors.New("not writable by the model")
)

// Grammar is a compiled schema. It is immutable and safe for concurrent use.
type Grammar struct {
	program
	shared pc     // the places below are the same in all grammars
	name   uint64 // no other grammar of this process has it
}

var grammars atomic.Uint64

// Size is how many instructions a grammar has, each about 100 bytes.
func (g *Grammar) Size() int { return len(g.code) }

// Object is the grammar of any JSON object.
func Object() *Grammar {
	c := &compiler{}
	c.common = c.builder.common()
	g, err := c.grammar(c.call(c.common.object, c.done()))
	if err != nil {
		panic(err) // cannot be
	}
	return g
}

// Schema compiles a JSON Schema.
func Schema(text string) (*Grammar, error) {
	root, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	c := &compiler{root: root, rules: map[*node]pc{}, narrowed: map[narrowed]*node{}, strings: map[string]pc{}}
	c.common = c.builder.common()
	start := c.schema(root, "#", c.done())
	if c.err != nil {
		return nil, c.err
	}
	return c.grammar(start)
}

func (c *compiler) grammar(start pc) (*Grammar, error) {
	p := finish(&c.builder, start)
	switch {
	case c.large:
		return nil, fmt.Errorf("%w: it is too large when it is compiled: less items, lengths, repetitions, optional properties or alternatives", ErrSchema)
	case p == nil:
		return nil, fmt.Errorf("%w: nothing satisfies it", ErrSchema)
	}
	var rules []pc
	for _, at := range c.rules {
		rules = append(rules, at)
	}
	if p.circular(rules) {
		return nil, fmt.Errorf("%w: a $ref refers to itself with nothing between", ErrSchema)
	}
	return &Grammar{program: *p, shared: c.common.size, name: grammars.Add(1)}, nil
}

type compiler struct {
	builder
	common *common
	root   *node
	rules  map[*node]pc // of what a $ref refers to
	err    error        // the first

	narrowed map[narrowed]*node
	strings  map[string]pc // rules of those that have a pattern
}

// narrowed is a schema of which only values of some types count.
type narrowed struct {
	of    *node
	types string
}

func (c *compiler) fail(kind error, path, format string, args ...any) pc {
	if c.err == nil {
		c.err = fmt.Errorf("%w at %.200s: %s", kind, path, fmt.Sprintf(format, args...))
	}
	return 0
}

// notServed are keywords that say what a value must be, and would be wrong to pass over.
var notServed = []string{
	"not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies", "patternProperties", "propertyNames",
	"minProperties", "maxProperties", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties",
	"multipleOf", "$dynamicRef", "$recursiveRef", "additionalItems",
}

// exclusive are keywords of which none stands beside another, or beside those in asserts.
var exclusive = []string{"$ref", "const", "enum", "anyOf", "oneOf", "allOf"}

// asserts are the other keywords that say what a value must be.
var asserts = []string{
	"properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "pattern",
	"minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
}

// schema compiles what n describes; path is its place, as a JSON pointer.
func (c *compiler) schema(n *node, path string, k pc) pc {
	if c.err != nil || c.large {
		return 0
	}
	if n.kind == isBool && n.text == "true" {
		return c.call(c.common.value, k)
	}
	if n.kind != isObject {
		return c.fail(ErrSchema, path, "a schema is an object, this is %s", n.kind)
	}
	for _, name := range notServed {
		if n.get(name) != nil {
			return c.fail(ErrUnsupported, path, "the keyword %s", name)
		}
	}
	if u := n.get("uniqueItems"); u != nil && u.text != "false" {
		return c.fail(ErrUnsupported, path, "the keyword uniqueItems")
	}
	for i, name := range exclusive {
		v := n.get(name)
		if v == nil {
			continue
		}
		for _, other := range slices.Concat(exclusive[i+1:], asserts) {
			if o := n.get(other); o != nil && !(name == "const" && other == "enum" && slices.ContainsFunc(o.list, func(w *node) bool { return w.json() == v.json() })) {
				return c.fail(ErrUnsupported, path, "%s beside %s", other, name)
			}
		}
		return c.alternatives(n, v, name, place(path, name), k)
	}
	return c.types(n, path, k)
}

// alternatives compiles one of the keywords in exclusive.
func (c *compiler) alternatives(n, v *node, name, path string, k pc) pc {
	switch name {
	case "$ref":
		return c.refer(v, n, path, k)
	case "const":
		return c.values([]*node{v}, n, path, k)
	}
	if v.kind != isList || len(v.list) == 0 {
		return c.fail(ErrSchema, path, "it is an array that is not empty, this is %s", v.kind)
	}
	if name == "enum" {
		return c.values(v.list, n, path, k)
	}
	if name == "allOf" && len(v.list) > 1 {
		return c.fail(ErrUnsupported, path, "several schemas at once")
	}
	var alts []pc
	for i, s := range v.list {
		at := place(path, strconv.Itoa(i))
		if s = c.narrow(s, n, at); s != nil {
			alts = append(alts, c.schema(s, at, k))
		}
	}
	return c.split(alts...)
}

// narrow is a schema of the values that are of one of the types that by names too, nil if there are none.
func (c *compiler) narrow(n, by *node, path string) *node {
	types, ok := c.typesOf(by, path)
	own, known := c.typesOf(n, path)
	if !ok || !known || types == nil || n.kind != isObject && n.text != "true" {
		return n
	}
	var list []*node
	for _, t := range types {
		switch {
		case own == nil || slices.Contains(own, t) || t == "integer" && slices.Contains(own, "number"):
		case t == "number" && slices.Contains(own, "integer"):
			t = "integer"
		default:
			continue
		}
		list = append(list, &node{kind: isText, text: t})
	}
	if len(list) == 0 {
		return nil
	}
	key := narrowed{n, fmt.Sprint(types)}
	if c.narrowed[key] == nil { // each once: what refers to itself ends so
		members := slices.DeleteFunc(slices.Clone(n.object), func(m member) bool { return m.name == "type" })
		c.narrowed[key] = object(append(members, member{"type", &node{kind: isList, list: list}}))
	}
	return c.narrowed[key]
}

// place is a place within another. Only the beginning is told.
func place(path string, names ...string) string {
	for _, name := range names {
		if len(path) <= 200 {
			path += "/" + name[:min(len(name), 200)]
		}
	}
	return path
}

// values is one of some values, those of the type that stands beside them.
func (c *compiler) values(list []*node, n *node, path string, k pc) pc {
	types, ok := c.typesOf(n, path)
	if !ok {
		return 0
	}
	var texts []string
	var alts []pc
	for _, v := range list {
		switch {
		case len(types) > 0 && !slices.ContainsFunc(types, func(t string) bool { return v.is(t) }):
		case v.kind == isObject || v.kind == isList:
			alts = append(alts, c.value(v)(k))
		default:
			texts = append(texts, v.json())
		}
	}
	if len(texts) == 0 && len(alts) == 0 {
		return c.fail(ErrSchema, path, "no value is of the type that stands beside it")
	}
	if len(texts) > 0 {
		alts = append(alts, c.literals(texts, k))
	}
	return c.split(alts...)
}

// value is a value, with space where there may be some.
func (c *compiler) value(v *node) part {
	switch v.kind {
	case isObject:
		var members []property
		for _, m := range v.object {
			members = append(members, property{c.member(func(k pc) pc { return c.text(quoted(m.name), k) }, c.value(m.value)), true})
		}
		return func(k pc) pc { return c.members(c.common, members, nil, k) }
	case isList:
		var list []part
		for _, e := range v.list {
			list = append(list, c.value(e))
		}
		return func(k pc) pc { return c.elements(c.common, list, nil, len(list), len(list), k) }
	}
	return func(k pc) pc { return c.text(v.json(), k) }
}

// is tells whether a value is of a type.
func (n *node) is(name string) bool {
	switch name {
	case "object":
		return n.kind == isObject
	case "array":
		return n.kind == isList
	case "string":
		return n.kind == isText
	case "boolean":
		return n.kind == isBool
	case "null":
		return n.kind == isNull
	case "integer":
		x, ok := n.number()
		return ok && x.IsInt()
	}
	return n.kind == isNumber
}

// refer calls the rule of what a reference refers to.
func (c *compiler) refer(v, n *node, path string, k pc) pc {
	if v.kind != isText || v.text != "#" && !strings.HasPrefix(v.text, "#/") {
		return c.fail(ErrUnsupported, path, "references are served within the schema, as #/$defs/NAME")
	}
	to := c.root
	pointer, err := url.PathUnescape(v.text)
	if err != nil {
		return c.fail(ErrSchema, path, "there is no %.100q", v.text)
	}
	for _, name := range strings.Split(pointer, "/")[1:] {
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		if i, err := strconv.Atoi(name); to.kind == isList && err == nil && i >= 0 && i < len(to.list) {
			to = to.list[i]
		} else if to = to.get(name); to == nil {
			return c.fail(ErrSchema, path, "there is no %.100q", v.text)
		}
	}
	if to = c.narrow(to, n, path); to == nil {
		return c.fail(ErrSchema, path, "no value is of the type that stands beside it")
	}
	rule, ok := c.rules[to]
	if !ok {
		rule = c.split()
		c.rules[to] = rule // before it is compiled: it may refer to itself
		first := c.schema(to, v.text, c.done())
		if c.err != nil || c.large {
			return 0
		}
		c.code[rule].alts = []pc{first}
	}
	return c.call(rule, k)
}

// groups are the keywords from which the type is clear where it is not given.
var groups = []struct {
	name     string
	keywords []string
}{
	{"object", []string{"properties", "required", "additionalProperties"}},
	{"array", []string{"items", "prefixItems", "minItems", "maxItems"}},
	{"string", []string{"pattern", "minLength", "maxLength"}},
	{"number", []string{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
}

// typesOf is the types that a schema names, none if it names none.
func (c *compiler) typesOf(n *node, path string) (types []string, ok bool) {
	t := n.get("type")
	if t == nil {
		return nil, true
	}
	list := t.list
	if t.kind == isText {
		list = []*node{t}
	}
	for _, v := range list[:min(len(list), len(kinds)+1)] {
		if v.kind != isText || !slices.Contains([]string{"object", "array", "string", "number", "integer", "boolean", "null"}, v.text) {
			c.fail(ErrSchema, path+"/type", "types are object, array, string, number, integer, boolean and null")
			return nil, false
		}
		if !slices.Contains(types, v.text) {
			types = append(types, v.text)
		}
	}
	if len(types) == 0 || len(list) > len(kinds)+1 { // and integer
		c.fail(ErrSchema, path+"/type", "it names no type, or one twice")
		return nil, false
	}
	return types, true
}

// types compiles a value of one of the types that a schema names.
func (c *compiler) types(n *node, path string, k pc) pc {
	types, ok := c.typesOf(n, path)
	if !ok {
		return 0
	}
	if types == nil {
		for _, g := range groups {
			if slices.ContainsFunc(g.keywords, func(name string) bool { return n.get(name) != nil }) {
				types = append(types, g.name)
			}
		}
	}
	if len(types) == 0 {
		return c.call(c.common.value, k)
	}
	var alts []pc
	for _, t := range types {
		var at pc
		switch t {
		case "object":
			at = c.object(n, path, k)
		case "array":
			at = c.array(n, path, k)
		case "string":
			at = c.string(n, path, k)
		case "number", "integer":
			at = c.numbers(n, path, t == "integer", k)
		case "boolean":
			at = c.literals([]string{"true", "false"}, k)
		case "null":
			at = c.text("null", k)
		}
		alts = append(alts, at)
	}
	return c.split(alts...)
}

// count is a number of things that a keyword gives.
func (c *compiler) count(n *node, name, path string, otherwise int) int {
	v := n.get(name)
	if v == nil {
		return otherwise
	}
	x, ok := v.number()
	if !ok || !x.IsInt() || x.Sign() < 0 {
		c.fail(ErrSchema, path+"/"+name, "it is a whole number that is not negative")
		return 0
	}
	if x.Num().Cmp(big.NewInt(mostRepeats)) > 0 {
		c.fail(ErrUnsupported, path+"/"+name, "more than %d", mostRepeats)
		return 0
	}
	return int(x.Num().Int64())
}

// counts is the least and the most of something, -1 where there is no end.
func (c *compiler) counts(n *node, least, most, path string) (int, int) {
	lo, hi := c.count(n, least, path, 0), c.count(n, most, path, -1)
	if hi >= 0 && lo > hi {
		c.fail(ErrSchema, path, "%s is above %s", least, most)
	}
	return lo, hi
}

func (c *compiler) object(n *node, path string, k pc) pc {
	declared, required := n.get("properties"), n.get("required")
	if declared != nil && declared.kind != isObject || required != nil && required.kind != isList {
		return c.fail(ErrSchema, path, "properties are an object, required is an array")
	}
	more := n.get("additionalProperties")
	if more == nil && declared == nil && required == nil {
		return c.call(c.common.object, k)
	}
	needs := map[string]bool{}
	var members []member
	if declared != nil {
		members = slices.Clone(declared.object)
	}
	named := map[string]bool{}
	for _, m := range members {
		named[m.name] = true
	}
	if required != nil {
		for _, r := range required.list {
			if r.kind != isText {
				return c.fail(ErrSchema, path+"/required", "it is an array of names")
			}
			needs[r.text] = true
			if !named[r.text] && more != nil && more.text == "false" {
				return c.fail(ErrSchema, path+"/required", "%.100q is no property, and additionalProperties is false", r.text)
			}
			if !named[r.text] {
				named[r.text] = true
				members = append(members, member{r.text, more}) // nil: any value
			}
		}
	}
	var properties []property
	names := make([]string, 0, len(members))
	for _, m := range members {
		at := place(path, "properties", m.name)
		name := quoted(m.name)
		names = append(names, name[1:len(name)-1])
		value := c.calls(c.common.value)
		if m.value != nil {
			value = func(k pc) pc { return c.schema(m.value, at, k) }
		}
		properties = append(properties, property{c.member(func(k pc) pc { return c.text(name, k) }, value), needs[m.name]})
	}
	if more == nil || more.kind == isBool && more.text == "false" {
		return c.members(c.common, properties, nil, k)
	}
	name := c.calls(c.common.text)
	if len(names) > 0 {
		name = func(k pc) pc { return c.otherwise(names, k) }
	}
	extra := c.member(name, func(k pc) pc { return c.schema(more, place(path, "additionalProperties"), k) })
	return c.members(c.common, properties, c.calls(c.rule(extra)), k)
}

func (c *compiler) array(n *node, path string, k pc) pc {
	least, most := c.counts(n, "minItems", "maxItems", path)
	var prefix []part
	if p := n.get("prefixItems"); p != nil {
		if p.kind != isList {
			return c.fail(ErrSchema, path+"/prefixItems", "it is an array of schemas")
		}
		for i, s := range p.list {
			prefix = append(prefix, func(k pc) pc { return c.schema(s, place(path, "prefixItems", strconv.Itoa(i)), k) })
		}
	}
	item := c.calls(c.common.value)
	switch items := n.get("items"); {
	case items == nil && prefix != nil && least <= len(prefix), items != nil && items.kind == isBool && items.text == "false":
		item = nil
	case items != nil && items.kind == isList:
		return c.fail(ErrUnsupported, path+"/items", "an array: it is called prefixItems now")
	case items != nil:
		item = func(k pc) pc { return c.schema(items, place(path, "items"), k) }
		item = c.calls(c.rule(item))
	}
	return c.elements(c.common, prefix, item, least, most, k)
}

func (c *compiler) string(n *node, path string, k pc) pc {
	least, most := c.counts(n, "minLength", "maxLength", path)
	text := ""
	if f := n.get("format"); f != nil && f.kind == isText {
		text = formats[f.text]
	}
	if p := n.get("pattern"); p != nil {
		if p.kind != isText {
			return c.fail(ErrSchema, path+"/pattern", "it is a string")
		}
		text = p.text // the narrower one, as a rule
	}
	if text != "" {
		key := fmt.Sprint(least, most, text)
		rule, ok := c.strings[key]
		if !ok {
			rule = c.rule(func(k pc) pc {
				at, err := pattern(&c.builder, text, least, most, k)
				if err != nil {
					return c.fail(ErrUnsupported, path, "the pattern: %v", err)
				}
				return c.byte('"', at)
			})
			c.strings[key] = rule
		}
		return c.call(rule, k)
	}
	if least == 0 && most < 0 {
		return c.call(c.common.text, k)
	}
	k = c.byte('"', k)
	one := c.calls(c.rule(func(k pc) pc { return c.read(c.character(k)...) }))
	return c.byte('"', c.repeat(one, least, most, k))
}

func (c *compiler) numbers(n *node, path string, whole bool, k pc) pc {
	lo, hi := c.bound(n, "minimum", "exclusiveMinimum", path, whole, 1), c.bound(n, "maximum", "exclusiveMaximum", path, whole, -1)
	switch {
	case lo.at != nil && hi.at != nil && lo.at.Cmp(hi.at) > 0:
		return c.fail(ErrSchema, path, "the minimum is above the maximum")
	case lo.at != nil || hi.at != nil:
		return numbers{&c.builder}.between(lo, hi, whole, k)
	case whole:
		return c.call(c.common.whole, k)
	}
	return c.call(c.common.quantity, k)
}

// bound reads an end of a range. For whole numbers it may be a fraction, from which the next one inside counts.
func (c *compiler) bound(n *node, closed, open, path string, whole bool, inside int) bound {
	var end bound
	for _, name := range []string{closed, open} {
		v := n.get(name)
		if v == nil {
			continue
		}
		x, ok := v.number()
		if !ok {
			c.fail(ErrSchema, path+"/"+name, "it is a number of at most 30 digits")
			return bound{}
		}
		at := new(big.Int).Div(x.Num(), x.Denom()) // at or below it
		if !whole && len(new(big.Int).Abs(at).String()) >= exactDigits {
			c.fail(ErrUnsupported, place(path, name), "a bound of numbers of %d digits or more", exactDigits)
			return bound{}
		}
		isOpen := name == open
		if !x.IsInt() {
			if !whole {
				c.fail(ErrUnsupported, path+"/"+name, "a bound of numbers that is not whole")
				return bound{}
			}
			if isOpen = false; inside > 0 {
				at.Add(at, one)
			}
		}
		if end.at == nil || at.Cmp(end.at) == inside || at.Cmp(end.at) == 0 && isOpen {
			end = bound{at, isOpen}
		}
	}
	return end
}
