package grammar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// MaxSchema is the most bytes of a schema, maxDepth how deep it may be nested.
const (
	MaxSchema = 256 << 10
	maxDepth  = 64
)

// node is a value of a schema. Other than maps, it keeps the order of an object's members.
type node struct {
	kind   kind
	object []member
	list   []*node
	text   string           // of a string; of a number, a boolean or null as it is written
	index  map[string]*node // of an object
}

type kind uint8

const (
	isObject kind = iota
	isList
	isText
	isNumber
	isBool
	isNull
)

var kinds = [...]string{"an object", "an array", "a string", "a number", "a boolean", "null"}

func (k kind) String() string { return kinds[k] }

type member struct {
	name  string
	value *node
}

// parse reads JSON.
func parse(text string) (*node, error) {
	if len(text) > MaxSchema {
		return nil, fmt.Errorf("it has %d bytes, at most %d are taken", len(text), MaxSchema)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	n, err := value(d, 0)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the first value")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	return n, nil
}

func value(d *json.Decoder, depth int) (*node, error) {
	t, err := token(d)
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d", maxDepth)
	}
	switch t := t.(type) {
	case json.Delim:
		return container(d, t, depth)
	case string:
		return &node{kind: isText, text: t}, nil
	case json.Number:
		return &node{kind: isNumber, text: t.String()}, nil
	case bool:
		return &node{kind: isBool, text: strconv.FormatBool(t)}, nil
	}
	return &node{kind: isNull, text: "null"}, nil
}

// token is the next one of a value that has not ended.
func token(d *json.Decoder) (json.Token, error) {
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

func container(d *json.Decoder, open json.Delim, depth int) (*node, error) {
	n := &node{kind: isList}
	if open == '{' {
		n.kind, n.index = isObject, map[string]*node{}
	}
	for d.More() {
		name := ""
		if n.kind == isObject {
			t, err := token(d)
			if err != nil {
				return nil, err
			}
			name = t.(string) // the decoder takes nothing else here
			if n.index[name] != nil {
				return nil, fmt.Errorf("the name %.40q stands twice in one object", name)
			}
		}
		v, err := value(d, depth+1)
		if err != nil {
			return nil, err
		}
		if n.kind == isObject {
			n.object, n.index[name] = append(n.object, member{name, v}), v
		} else {
			n.list = append(n.list, v)
		}
	}
	_, err := token(d)
	return n, err
}

// number is the value of a number, false for anything else and for what has too many digits to count with.
func (n *node) number() (*big.Rat, bool) {
	f, err := strconv.ParseFloat(n.text, 64)
	_, exponent, _ := strings.Cut(strings.ToLower(n.text), "e")
	if n.kind != isNumber || err != nil || math.Abs(f) > 1e30 || len(n.text) > 40 || len(exponent) > 3 {
		return nil, false
	}
	return new(big.Rat).SetString(n.text)
}

// get is a member of an object, nil if there is none.
func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	return n.index[name]
}

// object makes one of members.
func object(members []member) *node {
	n := &node{object: members, index: map[string]*node{}}
	for _, m := range members {
		n.index[m.name] = m.value
	}
	return n
}

// json writes a value as answers have it: without spaces, and with as few escapes as there can be.
func (n *node) json() string {
	var out strings.Builder
	n.write(&out)
	return out.String()
}

func (n *node) write(out *strings.Builder) {
	switch n.kind {
	case isObject:
		out.WriteByte('{')
		for i, m := range n.object {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString(quoted(m.name) + ":")
			m.value.write(out)
		}
		out.WriteByte('}')
	case isList:
		out.WriteByte('[')
		for i, v := range n.list {
			if i > 0 {
				out.WriteByte(',')
			}
			v.write(out)
		}
		out.WriteByte(']')
	case isText:
		out.WriteString(quoted(n.text))
	default:
		out.WriteString(n.text)
	}
}

// quoted is a string as answers have it.
func quoted(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		if text := escapes[r]; text != "" {
			out.WriteString(text)
		} else {
			out.WriteRune(r)
		}
	}
	return out.String() + `"`
}
