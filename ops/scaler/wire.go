package scaler

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of KEDA's externalscaler.ExternalScaler, written and read by hand: six small ones are less
// than the code that a generator would make of them. TestProtocol compares them with the definition.

// message is one of them.
type message interface {
	append(b []byte) []byte
	// field takes the value of one field; it leaves others alone.
	field(n protowire.Number, value []byte) error
}

// Ref is the scaled object that KEDA asks for.
type Ref struct {
	Name, Namespace string
	Metadata        map[string]string
}

type (
	active  struct{ result bool }
	spec    struct{ name string } // of one metric, a worker each
	ask     struct{ ref Ref }
	measure struct {
		name  string
		value float64
	}
)

func (m *Ref) append(b []byte) []byte {
	b = text(text(b, 1, m.Name), 2, m.Namespace)
	for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
		b = bytes(b, 3, text(text(nil, 1, k), 2, m.Metadata[k]))
	}
	return b
}

func (m *Ref) field(n protowire.Number, value []byte) error {
	switch n {
	case 1:
		m.Name = string(value)
	case 2:
		m.Namespace = string(value)
	case 3:
		var e entry
		if err := read(value, &e); err != nil {
			return err
		}
		if m.Metadata == nil {
			m.Metadata = map[string]string{}
		}
		m.Metadata[e.key] = e.value
	}
	return nil
}

// entry is one of a map.
type entry struct{ key, value string }

func (m *entry) append(b []byte) []byte { return text(text(b, 1, m.key), 2, m.value) }

func (m *entry) field(n protowire.Number, value []byte) error {
	switch n {
	case 1:
		m.key = string(value)
	case 2:
		m.value = string(value)
	}
	return nil
}

func (m *active) append(b []byte) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), protowire.EncodeBool(m.result))
}
func (*active) field(protowire.Number, []byte) error { return nil }

func (m *spec) append(b []byte) []byte {
	one := text(nil, 1, m.name)
	one = protowire.AppendVarint(protowire.AppendTag(one, 2, protowire.VarintType), 1)
	return bytes(b, 1, number(one, 3, 1))
}
func (*spec) field(protowire.Number, []byte) error { return nil }

func (m *ask) append(b []byte) []byte { return bytes(b, 1, m.ref.append(nil)) }

func (m *ask) field(n protowire.Number, value []byte) error {
	if n != 1 {
		return nil // there is one metric for each scaled object, whatever its name
	}
	return read(value, &m.ref)
}

func (m *measure) append(b []byte) []byte {
	one := text(nil, 1, m.name)
	one = protowire.AppendVarint(protowire.AppendTag(one, 2, protowire.VarintType), uint64(math.Ceil(m.value)))
	return bytes(b, 1, number(one, 3, m.value))
}
func (*measure) field(protowire.Number, []byte) error { return nil }

func text(b []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func bytes(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func number(b []byte, n protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), math.Float64bits(v))
}

// read takes a message apart; fields of other kinds than ours are skipped.
func read(b []byte, m message) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if kind != protowire.BytesType {
			if size = protowire.ConsumeFieldValue(n, kind, b); size < 0 {
				return protowire.ParseError(size)
			}
			b = b[size:]
			continue
		}
		value, size := protowire.ConsumeBytes(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := m.field(n, value); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// codec is grpc's encoding.CodecV1 for these messages.
type codec struct{}

// Name is what the content type says.
func (codec) Name() string { return "proto" }

// Marshal writes one of our messages.
func (codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(message)
	if !ok {
		return nil, fmt.Errorf("scaler: %T is no message of the protocol", v)
	}
	return m.append(nil), nil
}

// Unmarshal reads one of our messages.
func (codec) Unmarshal(b []byte, v any) error {
	m, ok := v.(message)
	if !ok {
		return fmt.Errorf("scaler: %T is no message of the protocol", v)
	}
	return read(b, m)
}
