// Package gguftest makes small GGUF files for the tests of runtime/gguf and of what reads models through
// it: sound ones, and ones that are wrong in a chosen place.
//
// It stands beside the walk and is imported by tests only. It never reads a file. A [Builder] belongs to
// one goroutine.
package gguftest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/pelton-run/pelton/runtime/quant"
)

// Builder collects a file's parts. The zero value makes an empty file of version 3.
type Builder struct {
	Version   uint32 // default 3
	Alignment int    // of the values; default 32, and not written unless set
	keys      []entry
	tensors   []tensor
}

type entry struct {
	key   string
	value any
}

type tensor struct {
	name   string
	format quant.Format
	dims   []int
	data   []byte
}

// Set adds or replaces a metadata value: an integer or float of any width, a bool, a string, or a slice
// of strings, int32 or float32. A [][]int32 becomes an array of arrays.
func (b *Builder) Set(key string, value any) {
	for i := range b.keys {
		if b.keys[i].key == key {
			b.keys[i].value = value
			return
		}
	}
	b.keys = append(b.keys, entry{key, value})
}

// Unset removes a metadata value.
func (b *Builder) Unset(key string) {
	b.keys = slices.DeleteFunc(b.keys, func(e entry) bool { return e.key == key })
}

// Add adds or replaces a tensor; dims are innermost first, data is its values as they are stored.
func (b *Builder) Add(name string, format quant.Format, data []byte, dims ...int) {
	t := tensor{name, format, dims, data}
	for i := range b.tensors {
		if b.tensors[i].name == name {
			b.tensors[i] = t
			return
		}
	}
	b.tensors = append(b.tensors, t)
}

// Remove removes a tensor.
func (b *Builder) Remove(name string) {
	b.tensors = slices.DeleteFunc(b.tensors, func(t tensor) bool { return t.name == name })
}

// Bytes is the file.
func (b *Builder) Bytes() []byte {
	le := binary.LittleEndian
	version, align := cmp.Or(b.Version, 3), b.Alignment
	keys := b.keys
	if align == 0 {
		align = 32
	} else {
		keys = append(keys[:len(keys):len(keys)], entry{"general.alignment", uint32(align)})
	}
	out := le.AppendUint32([]byte("GGUF"), version)
	out = le.AppendUint64(out, uint64(len(b.tensors)))
	out = le.AppendUint64(out, uint64(len(keys)))
	for _, e := range keys {
		kind, raw := encode(e.value)
		out = append(le.AppendUint32(appendText(out, e.key), kind), raw...)
	}
	offset := 0
	for _, t := range b.tensors {
		out = le.AppendUint32(appendText(out, t.name), uint32(len(t.dims)))
		for _, d := range t.dims {
			out = le.AppendUint64(out, uint64(d))
		}
		out = le.AppendUint64(le.AppendUint32(out, uint32(t.format)), uint64(offset))
		offset += roundUp(len(t.data), align)
	}
	out = append(out, make([]byte, roundUp(len(out), align)-len(out))...)
	for _, t := range b.tensors {
		out = append(out, t.data...)
		out = append(out, make([]byte, roundUp(len(t.data), align)-len(t.data))...)
	}
	return out
}

func roundUp(n, align int) int { return (n + align - 1) / align * align }

func appendText(out []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(out, uint64(len(s))), s...)
}

// encode is the kind of a value, as the format numbers it, and its bytes.
func encode(v any) (kind uint32, raw []byte) {
	le := binary.LittleEndian
	switch v := v.(type) {
	case uint8:
		return 0, []byte{v}
	case int8:
		return 1, []byte{byte(v)}
	case uint16:
		return 2, le.AppendUint16(nil, v)
	case int16:
		return 3, le.AppendUint16(nil, uint16(v))
	case uint32:
		return 4, le.AppendUint32(nil, v)
	case int32:
		return 5, le.AppendUint32(nil, uint32(v))
	case float32:
		return 6, le.AppendUint32(nil, math.Float32bits(v))
	case bool:
		if v {
			return 7, []byte{1}
		}
		return 7, []byte{0}
	case string:
		return 8, appendText(nil, v)
	case uint64:
		return 10, le.AppendUint64(nil, v)
	case int64:
		return 11, le.AppendUint64(nil, uint64(v))
	case float64:
		return 12, le.AppendUint64(nil, math.Float64bits(v))
	case []string:
		return array(v, 8)
	case []int32:
		return array(v, 5)
	case []float32:
		return array(v, 6)
	case [][]int32:
		return array(v, 9)
	}
	panic(fmt.Sprintf("gguftest: values of type %T cannot be written", v))
}

func array[T any](values []T, elements uint32) (kind uint32, raw []byte) {
	raw = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, elements), uint64(len(values)))
	for _, v := range values {
		_, b := encode(v)
		raw = append(raw, b...)
	}
	return 9, raw
}

// scales are the places in a block that hold half-precision numbers.
var scales = map[quant.Format][]int{
	quant.F16: {0}, quant.Q40: {0}, quant.Q41: {0, 2}, quant.Q50: {0}, quant.Q51: {0, 2}, quant.Q80: {0},
	quant.Q4K: {0, 2}, quant.Q5K: {0, 2}, quant.Q6K: {208},
}

// Weights are n random values of a format as they are stored, finite and of moderate size: within about
// 1 of zero, and not all positive.
func Weights(rng *rand.Rand, format quant.Format, n int) []byte {
	size := format.BlockBytes()
	out := make([]byte, n/format.BlockValues()*size)
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	for at := 0; at < len(out); at += size {
		block := out[at : at+size]
		switch format {
		case quant.F32:
			binary.LittleEndian.PutUint32(block, math.Float32bits(float32(rng.NormFloat64())/8))
		case quant.BF16:
			binary.LittleEndian.PutUint16(block, uint16(math.Float32bits(float32(rng.NormFloat64())/8)>>16))
		}
		for i, place := range scales[format] {
			exponent := 7 // 2^-8 to 2^-7
			switch format {
			case quant.F16:
				exponent = 10 + rng.IntN(3)
			case quant.Q80, quant.Q6K:
				exponent = 3 // 2^-12 to 2^-11
			case quant.Q4K, quant.Q5K:
				exponent = 1 // 2^-14 to 2^-13
			}
			bits := uint16(exponent<<10 | rng.IntN(1024))
			if i == 1 && (format == quant.Q41 || format == quant.Q51) {
				bits = bits&^0x7c00 | uint16(exponent+3)<<10 | 0x8000 // a minimum is about -8 scales
			}
			if format == quant.F16 && rng.IntN(2) == 0 {
				bits |= 0x8000
			}
			binary.LittleEndian.PutUint16(block[place:], bits)
		}
	}
	return out
}
