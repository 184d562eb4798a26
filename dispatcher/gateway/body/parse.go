package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/pelton-run/pelton/contracts"
)

// MaxDepth bounds the nesting of objects and arrays in a body.
const MaxDepth = 32

// Parse checks that data is one JSON object in UTF-8, nested at most [MaxDepth] deep, with no key
// twice in the same object and no escape of half a surrogate pair, and returns its fields. The error
// is a [*contracts.Error] with CodeInvalidArgument. The result shares no memory with data.
func Parse(data []byte) (*Fields, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, contracts.Invalid("", "the body is empty: send a JSON object")
	}
	if !utf8.Valid(data) {
		return nil, contracts.Invalid("", "the body is not valid UTF-8")
	}
	if !json.Valid(data) {
		var whole json.RawMessage
		if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(data, &whole)); ok {
			return nil, contracts.Invalid("", "the body is not valid JSON at byte %d: %v", syntax.Offset, syntax)
		}
		return nil, contracts.Invalid("", "the body is not valid JSON")
	}
	whole := bytes.Clone(bytes.TrimSpace(data))
	s := scanner{data: whole}
	if err := s.value(0); err != nil {
		return nil, err
	}
	return Value{raw: whole, path: ""}.fields()
}

// scanner walks JSON that is known to be well formed.
type scanner struct {
	data []byte
	pos  int
}

func (s *scanner) space() {
	for s.pos < len(s.data) && (s.data[s.pos] == ' ' || s.data[s.pos] == '\n' || s.data[s.pos] == '\t' || s.data[s.pos] == '\r') {
		s.pos++
	}
}

// value steps over one value; depth is the number of objects and arrays around it.
func (s *scanner) value(depth int) error {
	s.space()
	switch s.data[s.pos] {
	case '{', '[':
		if depth == MaxDepth {
			return contracts.Invalid("", "the body is nested deeper than %d at byte %d", MaxDepth, s.pos)
		}
		return s.elements(depth + 1)
	case '"':
		_, err := s.skip()
		return err
	}
	for s.pos < len(s.data) && !bytes.ContainsRune([]byte(",]} \n\t\r"), rune(s.data[s.pos])) {
		s.pos++
	}
	return nil
}

func (s *scanner) elements(depth int) error {
	object := s.data[s.pos] == '{'
	var seen map[string]bool
	for s.pos++; ; s.pos++ {
		s.space()
		if s.data[s.pos] == '}' || s.data[s.pos] == ']' {
			break
		}
		if object {
			key, err := s.text()
			if err != nil {
				return err
			}
			if seen[key] {
				return contracts.Invalid(key, "the key %q appears twice in one object", key)
			}
			if seen == nil {
				seen = map[string]bool{}
			}
			seen[key] = true
			s.space()
			s.pos++ // the colon
		}
		if err := s.value(depth); err != nil {
			return err
		}
		s.space()
		if s.data[s.pos] != ',' {
			break
		}
	}
	s.pos++
	return nil
}

// text steps over a string and returns it.
func (s *scanner) text() (string, error) {
	start := s.pos
	escaped, err := s.skip()
	if err != nil {
		return "", err
	}
	if !escaped {
		return string(s.data[start+1 : s.pos-1]), nil
	}
	var text string
	if err := json.Unmarshal(s.data[start:s.pos], &text); err != nil {
		return "", contracts.Invalid("", "the string at byte %d is not valid JSON", start)
	}
	return text, nil
}

// skip steps over a string and tells whether it has escapes.
func (s *scanner) skip() (escaped bool, err error) {
	quote := s.pos
	for s.pos++; ; s.pos++ {
		if s.pos > quote { // at the start, and behind an escaped quote
			quote = s.pos + bytes.IndexByte(s.data[s.pos:], '"')
		}
		escape := bytes.IndexByte(s.data[s.pos:quote], '\\')
		if escape < 0 {
			s.pos = quote + 1
			return escaped, nil
		}
		escaped = true
		s.pos += escape + 1
		if s.data[s.pos] == 'u' {
			if err := s.surrogate(); err != nil {
				return true, err
			}
		}
	}
}

// surrogate checks the escape whose u stands at pos and leaves pos on its last digit, or on the last
// digit of the pair.
func (s *scanner) surrogate() error {
	first := s.hex(s.pos + 1)
	s.pos += 4
	if first < 0xd800 || first > 0xdfff {
		return nil
	}
	if first < 0xdc00 && s.pos+6 < len(s.data) && s.data[s.pos+1] == '\\' && s.data[s.pos+2] == 'u' {
		if second := s.hex(s.pos + 3); second >= 0xdc00 && second <= 0xdfff {
			s.pos += 6
			return nil
		}
	}
	return contracts.Invalid("", `the escape \u%04x at byte %d is half a surrogate pair, which is no character`, first, s.pos-5)
}

func (s *scanner) hex(at int) uint64 {
	n, _ := strconv.ParseUint(string(s.data[at:at+4]), 16, 16) // well formed
	return n
}
