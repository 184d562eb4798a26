package contracts

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"

	"github.com/vmihailenco/msgpack/v5"
)

// Limits of one frame on the wire.
const (
	MaxFrame      = 8 << 20 // bytes; NATS itself is usually set lower
	MaxDepth      = 16      // nesting of maps and arrays
	MaxItems      = 1 << 14 // entries of a map, elements of an array; arrays of token ids may be longer
	MaxContainers = 1 << 16 // maps and arrays in all
)

// Encode writes v as msgpack with the keys of its struct tags, the shortest form of each integer and
// maps in the order of their keys: equal values are equal bytes. It is safe for concurrent use.
func Encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.UseCompactInts(true)
	enc.SetSortMapKeys(true)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return buf.Bytes(), nil
}

// Token ids are most of a long prompt's job: the library would go through reflection for each of them.
func init() {
	msgpack.Register([]int32(nil), encodeTokens, decodeTokens)
}

// encodeTokens writes an array in the shortest form of each integer, as the library does.
func encodeTokens(enc *msgpack.Encoder, v reflect.Value) error {
	if v.IsNil() {
		return enc.EncodeNil()
	}
	ids := v.Interface().([]int32)
	if err := enc.EncodeArrayLen(len(ids)); err != nil {
		return err
	}
	b := make([]byte, 0, 3*len(ids))
	for _, id := range ids {
		switch n := uint32(id); {
		case id < 0:
			if _, err := enc.Writer().Write(b); err != nil {
				return err
			}
			b = b[:0]
			if err := enc.EncodeInt(int64(id)); err != nil {
				return err
			}
		case id <= math.MaxInt8:
			b = append(b, byte(id))
		case id <= math.MaxUint8:
			b = append(b, 0xcc, byte(id))
		case id <= math.MaxUint16:
			b = append(b, 0xcd, byte(n>>8), byte(n))
		default:
			b = append(b, 0xce, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		}
	}
	_, err := enc.Writer().Write(b)
	return err
}

// decodeTokens reads an array of integers; the scanner has checked that the frame holds so many.
func decodeTokens(dec *msgpack.Decoder, v reflect.Value) error {
	n, err := dec.DecodeArrayLen()
	if err != nil || n < 0 {
		v.SetZero()
		return err
	}
	ids := make([]int32, n)
	in, _ := dec.Buffered().(*bytes.Reader) // Decode's own
	for i := range ids {
		if id, ok := shortToken(in); ok {
			ids[i] = id
		} else if ids[i], err = dec.DecodeInt32(); err != nil {
			return err
		}
	}
	v.Set(reflect.ValueOf(ids))
	return nil
}

// shortToken reads a token id in one of its three usual forms; any other is left where it is.
func shortToken(in *bytes.Reader) (id int32, ok bool) {
	if in == nil {
		return 0, false
	}
	c, err := in.ReadByte()
	switch {
	case err != nil:
		return 0, false
	case c <= 0x7f:
		return int32(c), true
	case c == 0xcc && in.Len() >= 1:
		low, _ := in.ReadByte()
		return int32(low), true
	case c == 0xcd && in.Len() >= 2:
		high, _ := in.ReadByte()
		low, _ := in.ReadByte()
		return int32(high)<<8 | int32(low), true
	}
	_ = in.UnreadByte() // it was just read
	return 0, false
}

// LogitBias adds a number from -100 to 100 to the logits of tokens; the keys are token ids as text.
type LogitBias map[string]float64

// EncodeMsgpack writes b in the order of its keys, so that equal jobs are equal bytes. The library
// calls it.
func (b LogitBias) EncodeMsgpack(enc *msgpack.Encoder) error {
	if b == nil {
		return enc.EncodeNil()
	}
	if err := enc.EncodeMapLen(len(b)); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if err := enc.EncodeString(k); err != nil {
			return err
		}
		if err := enc.EncodeFloat64(b[k]); err != nil {
			return err
		}
	}
	return nil
}

// DecodeMsgpack reads l. The library calls it; it is here because the library does not put a double into
// a float32, and other languages write no other numbers.
func (l *TokenLogprob) DecodeMsgpack(dec *msgpack.Decoder) error {
	var wide struct {
		Token   int32          `msgpack:"token"`
		Logprob float64        `msgpack:"logprob"`
		Bytes   []byte         `msgpack:"bytes"`
		Top     []TokenLogprob `msgpack:"top"`
	}
	if err := dec.Decode(&wide); err != nil {
		return err
	}
	*l = TokenLogprob{wide.Token, float32(wide.Logprob), wide.Bytes, wide.Top}
	return nil
}

// Decode reads one msgpack value from data into v, a pointer to one of this package's types. It
// refuses frames over the limits above, counts that the frame cannot hold, text that is not UTF-8,
// numbers that the protocol has no room for, trailing bytes and versions above [Version]. The error is
// an [*Error] and names the key at fault where there is one. Memory use is bounded by a small multiple
// of len(data). Of a version above, v gets what is known here as far as it can be read. It is safe for
// concurrent use.
func Decode(data []byte, v any) error {
	if len(data) > MaxFrame {
		return Errorf(CodePayloadTooLarge, "frame of %d bytes, at most %d are allowed", len(data), MaxFrame)
	}
	s := scanner{data: data}
	if err := s.frame(); err != nil {
		if CodeOf(err) == CodeUnimplemented {
			_ = msgpack.Unmarshal(s.integers(), v) // the rest of it may have another type by then
		}
		return err
	}
	data = s.integers()
	if err := msgpack.Unmarshal(data, v); err != nil {
		param := culprit(data, reflect.TypeOf(v).Elem())
		if param == "" {
			return Errorf(CodeInvalidArgument, "msgpack: %v", err)
		}
		return Invalid(param, "%s has the wrong type: %v", param, err)
	}
	return nil
}

// culprit is the path of the first key, in the order of the alphabet, whose value does not decode into
// its field of the struct type t.
func culprit(data []byte, t reflect.Type) string {
	var fields map[string]msgpack.RawMessage
	if t.Kind() != reflect.Struct || msgpack.Unmarshal(data, &fields) != nil {
		return ""
	}
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		one, err := msgpack.Marshal(map[string]msgpack.RawMessage{k: fields[k]})
		if err != nil || msgpack.Unmarshal(one, reflect.New(t).Interface()) == nil {
			continue
		}
		for i := range t.NumField() {
			if tag := t.Field(i).Tag.Get("msgpack"); tag == k || len(tag) > len(k) && tag[:len(k)+1] == k+"," {
				ft := t.Field(i).Type
				if ft.Kind() == reflect.Pointer {
					ft = ft.Elem()
				}
				if inner := culprit(fields[k], ft); inner != "" {
					return k + "." + inner
				}
			}
		}
		return k
	}
	return ""
}
