package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"

	"github.com/pelton-run/pelton/contracts"
)

// Value is one JSON value and where it stands in the body, such as "messages[2].content". The zero
// Value is an absent one.
type Value struct {
	raw  []byte
	path string
}

// Path is where the value stands in the body.
func (v Value) Path() string { return v.path }

// Raw is the value's JSON as it was sent; the caller must not change it.
func (v Value) Raw() []byte { return v.raw }

// Null tells whether the value is null or absent.
func (v Value) Null() bool { return len(v.raw) == 0 || v.raw[0] == 'n' }

// IsText, IsList, IsObject and IsNumber tell the value's JSON type.
func (v Value) IsText() bool { return v.starts('"') }

// IsList tells whether the value is an array.
func (v Value) IsList() bool { return v.starts('[') }

// IsObject tells whether the value is an object.
func (v Value) IsObject() bool { return v.starts('{') }

// IsNumber tells whether the value is a number.
func (v Value) IsNumber() bool {
	return len(v.raw) > 0 && (v.raw[0] == '-' || v.raw[0] >= '0' && v.raw[0] <= '9')
}

func (v Value) starts(c byte) bool { return len(v.raw) > 0 && v.raw[0] == c }

// kind names the JSON type for messages.
func (v Value) kind() string {
	switch {
	case v.Null():
		return "null"
	case v.IsText():
		return "a string"
	case v.IsList():
		return "an array"
	case v.IsObject():
		return "an object"
	case v.IsNumber():
		return "a number"
	}
	return "a boolean"
}

func (v Value) wrong(want string) error {
	return contracts.Invalid(v.path, "%s must be %s, got %s", v.path, want, v.kind())
}

// Text is the value as a string.
func (v Value) Text() (string, error) {
	if !v.IsText() {
		return "", v.wrong("a string")
	}
	in := scanner{data: v.raw}
	return in.text()
}

// Bool is the value as a boolean.
func (v Value) Bool() (bool, error) {
	switch string(v.raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, v.wrong("a boolean")
}

// Float is the value as a finite number.
func (v Value) Float() (float64, error) {
	if !v.IsNumber() {
		return 0, v.wrong("a number")
	}
	f, err := strconv.ParseFloat(string(v.raw), 64)
	if err != nil {
		return 0, contracts.Invalid(v.path, "%s is out of the range of numbers", v.path)
	}
	return f, nil
}

// Int is the value as an integer; 10.0 and 1e1 are integers too.
func (v Value) Int() (int64, error) {
	if !v.IsNumber() {
		return 0, v.wrong("an integer")
	}
	if i, err := strconv.ParseInt(string(v.raw), 10, 64); err == nil {
		return i, nil
	} else if errors.Is(err, strconv.ErrRange) {
		return 0, contracts.Invalid(v.path, "%s is out of the range of 64-bit integers", v.path)
	}
	f, err := v.Float()
	if err != nil {
		return 0, err
	}
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, contracts.Invalid(v.path, "%s must be an integer, got %g", v.path, f)
	}
	return int64(f), nil
}

// List is the elements of an array of at most limit elements.
func (v Value) List(limit int) ([]Value, error) {
	if !v.IsList() {
		return nil, v.wrong("an array")
	}
	var out []Value
	in := scanner{data: v.raw, pos: 1}
	for {
		in.space()
		if in.data[in.pos] == ']' {
			return out, nil
		}
		if len(out) == limit {
			return nil, contracts.Invalid(v.path, "%s has more than %d elements", v.path, limit)
		}
		start := in.pos
		if err := in.value(0); err != nil {
			return nil, err
		}
		out = append(out, Value{raw: in.data[start:in.pos], path: v.path + "[" + strconv.Itoa(len(out)) + "]"})
		if in.space(); in.data[in.pos] == ',' {
			in.pos++
		}
	}
}

// First is the first element of an array, false when there is none.
func (v Value) First() (Value, bool) {
	s := scanner{data: v.raw, pos: 1}
	if !v.IsList() {
		return Value{}, false
	}
	s.space()
	start := s.pos
	if s.data[start] == ']' || s.value(0) != nil {
		return Value{}, false
	}
	return Value{raw: v.raw[start:s.pos], path: v.path + "[0]"}, true
}

// Tokens is an array of vocabulary token ids, at most limit of them.
func (v Value) Tokens(limit int) ([]int32, error) {
	if !v.IsList() {
		return nil, v.wrong("an array of token ids")
	}
	var out []int32
	inner := bytes.TrimSpace(v.raw[1 : len(v.raw)-1])
	if len(inner) == 0 {
		return out, nil
	}
	for part := range bytes.SplitSeq(inner, []byte{','}) {
		id, err := strconv.ParseInt(string(bytes.TrimSpace(part)), 10, 32)
		if err != nil || id < 0 {
			path := v.path + "[" + strconv.Itoa(len(out)) + "]"
			return nil, contracts.Invalid(path, "%s is not a token id: an integer from 0 to %d", path, math.MaxInt32)
		}
		if len(out) == limit {
			return nil, contracts.Invalid(v.path, "%s has more than %d tokens", v.path, limit)
		}
		out = append(out, int32(id))
	}
	return out, nil
}

// Object is the fields of an object. The fields' error is its own: ask [Fields.Err].
func (v Value) Object() (*Fields, error) {
	if !v.IsObject() {
		return nil, v.wrong("an object")
	}
	return v.fields()
}

func (v Value) fields() (*Fields, error) {
	if !v.IsObject() {
		return nil, contracts.Invalid(v.path, "the body must be a JSON object, got %s", v.kind())
	}
	f := &Fields{prefix: v.path, values: map[string]json.RawMessage{}}
	if f.prefix != "" {
		f.prefix += "."
	}
	in := scanner{data: v.raw, pos: 1}
	for {
		in.space()
		if in.data[in.pos] == '}' {
			return f, nil
		}
		name, err := in.text()
		if err != nil {
			return nil, err
		}
		in.space()
		in.pos++ // the colon
		in.space()
		start := in.pos
		if err := in.value(0); err != nil {
			return nil, err
		}
		f.values[name] = in.data[start:in.pos]
		if in.space(); in.data[in.pos] == ',' {
			in.pos++
		}
	}
}

// Fields are the members of an object. The typed getters return nil or the zero value for a member
// that is absent or null; the first wrong one is remembered for [Fields.Err], so that a reader can
// take all that it needs and ask once.
type Fields struct {
	prefix string
	values map[string]json.RawMessage
	err    error
}

// Err is the first error of the getters, a [*contracts.Error].
func (f *Fields) Err() error { return f.err }

// Fail remembers err unless an earlier one is.
func (f *Fields) Fail(err error) {
	if f.err == nil && err != nil {
		f.err = err
	}
}

// Failf remembers a CodeInvalidArgument for the member name.
func (f *Fields) Failf(name, format string, args ...any) {
	f.Fail(contracts.Invalid(f.prefix+name, format, args...))
}

// Unsupported remembers a CodeUnimplemented for the member name.
func (f *Fields) Unsupported(name, format string, args ...any) {
	e := contracts.Errorf(contracts.CodeUnimplemented, format, args...)
	e.Param = f.prefix + name
	f.Fail(e)
}

// Get is the member name, the zero Value (with its path) when it is absent.
func (f *Fields) Get(name string) Value { return Value{raw: f.values[name], path: f.prefix + name} }

// Names calls yield for each member; the order is not defined.
func (f *Fields) Names(yield func(string, Value) bool) {
	for name := range f.values {
		if !yield(name, f.Get(name)) {
			return
		}
	}
}

// Len is the number of members.
func (f *Fields) Len() int { return len(f.values) }

func get[T any](f *Fields, name string, read func(Value) (T, error)) *T {
	v := f.Get(name)
	if v.Null() {
		return nil
	}
	out, err := read(v)
	if err != nil {
		f.Fail(err)
		return nil
	}
	return &out
}

func value[T any](p *T) (zero T) {
	if p == nil {
		return zero
	}
	return *p
}

// Text is the member name as a string.
func (f *Fields) Text(name string) string { return value(get(f, name, Value.Text)) }

// Bool is the member name as a boolean.
func (f *Fields) Bool(name string) bool { return value(get(f, name, Value.Bool)) }

// Float is the member name as a number, nil when it is absent.
func (f *Fields) Float(name string) *float64 { return get(f, name, Value.Float) }

// Int64 is the member name as an integer, nil when it is absent.
func (f *Fields) Int64(name string) *int64 { return get(f, name, Value.Int) }

// Int is the member name as an integer of at most 32 bits, nil when it is absent.
func (f *Fields) Int(name string) *int {
	return get(f, name, func(v Value) (int, error) {
		i, err := v.Int()
		if err == nil && (i < math.MinInt32 || i > math.MaxInt32) {
			err = contracts.Invalid(v.path, "%s is %d, which is out of range", v.path, i)
		}
		return int(i), err
	})
}

// Object is the member name as an object, nil when it is absent.
func (f *Fields) Object(name string) *Fields { return value(get(f, name, Value.Object)) }

// List is the member name as an array of at most limit elements.
func (f *Fields) List(name string, limit int) []Value {
	return value(get(f, name, func(v Value) ([]Value, error) { return v.List(limit) }))
}

// Tokens is the member name as an array of at most limit token ids.
func (f *Fields) Tokens(name string, limit int) []int32 {
	return value(get(f, name, func(v Value) ([]int32, error) { return v.Tokens(limit) }))
}

// Strings is the member name as a string or an array of at most limit strings.
func (f *Fields) Strings(name string, limit int) []string {
	v := f.Get(name)
	if v.IsText() {
		return []string{f.Text(name)}
	}
	if !v.Null() && !v.IsList() {
		f.Fail(v.wrong("a string or an array of strings"))
		return nil
	}
	var out []string
	for _, e := range f.List(name, limit) {
		s, err := e.Text()
		f.Fail(err)
		out = append(out, s)
	}
	return out
}

// StringMap is the member name as an object of at most limit strings.
func (f *Fields) StringMap(name string, limit int) map[string]string {
	return members(f, name, limit, Value.Text)
}

// FloatMap is the member name as an object of at most limit numbers.
func (f *Fields) FloatMap(name string, limit int) map[string]float64 {
	return members(f, name, limit, Value.Float)
}

func members[T any](f *Fields, name string, limit int, read func(Value) (T, error)) map[string]T {
	o := f.Object(name)
	if o == nil {
		return nil
	}
	if o.Len() > limit {
		f.Failf(name, "%s%s has %d entries, at most %d are allowed", f.prefix, name, o.Len(), limit)
		return nil
	}
	out := make(map[string]T, o.Len())
	for k, v := range o.Names {
		one, err := read(v)
		f.Fail(err)
		out[k] = one
	}
	return out
}
