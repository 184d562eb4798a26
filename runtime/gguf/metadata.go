package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Kinds of metadata values, numbered as in the format.
const (
	kindUint8   = 0
	kindInt8    = 1
	kindUint16  = 2
	kindInt16   = 3
	kindUint32  = 4
	kindInt32   = 5
	kindFloat32 = 6
	kindBool    = 7
	kindString  = 8
	kindArray   = 9
	kindUint64  = 10
	kindInt64   = 11
	kindFloat64 = 12
)

// widths are the sizes in bytes of the kinds that have a fixed one.
var widths = map[uint32]int{
	kindUint8: 1, kindInt8: 1, kindUint16: 2, kindInt16: 2, kindUint32: 4, kindInt32: 4, kindFloat32: 4,
	kindBool: 1, kindUint64: 8, kindInt64: 8, kindFloat64: 8,
}

// value is one metadata value. Numbers stay as the file's bytes, so that a long array takes no more
// memory than it takes in the file. Arrays of arrays are checked and not kept: nothing uses them.
type value struct {
	kind  uint32 // of the elements when array is set
	array bool
	raw   []byte   // fixed-width kinds
	texts []string // kindString
}

func (d *decoder) value(kind uint32, depth int) value {
	if kind == kindArray {
		return d.array(depth)
	}
	if kind == kindString {
		return value{kind: kind, texts: []string{d.text(maxText)}}
	}
	width, ok := widths[kind]
	if !ok {
		if d.err == nil {
			d.err = fmt.Errorf("metadata value of unknown kind %d", kind)
		}
		return value{}
	}
	v := value{kind: kind, raw: make([]byte, width)}
	d.read(v.raw)
	return v
}

func (d *decoder) array(depth int) value {
	if depth >= maxArrayDepth {
		d.fail("arrays are nested deeper than %d", maxArrayDepth)
		return value{}
	}
	v := value{kind: d.u32(), array: true}
	if width, ok := widths[v.kind]; ok {
		v.raw = make([]byte, width*d.count("array elements", maxElements, uint64(width)))
		d.read(v.raw)
		return v
	}
	switch v.kind {
	case kindString:
		n := d.count("strings", maxElements, 8)
		v.texts = make([]string, 0, n)
		for i := 0; i < n && d.err == nil; i++ {
			v.texts = append(v.texts, d.text(maxText))
		}
	case kindArray:
		n := d.count("arrays", maxElements, 12)
		for i := 0; i < n && d.err == nil; i++ {
			d.array(depth + 1)
		}
	default:
		if d.err == nil {
			d.err = fmt.Errorf("metadata array of unknown kind %d", v.kind)
		}
	}
	return v
}

// int is element i as an integer; unsigned values beyond the range of int64 are not integers here.
func (v value) int(i int) (int64, bool) {
	b := v.raw
	switch v.kind {
	case kindUint8:
		return int64(b[i]), true
	case kindInt8:
		return int64(int8(b[i])), true
	case kindUint16:
		return int64(binary.LittleEndian.Uint16(b[2*i:])), true
	case kindInt16:
		return int64(int16(binary.LittleEndian.Uint16(b[2*i:]))), true
	case kindUint32:
		return int64(binary.LittleEndian.Uint32(b[4*i:])), true
	case kindInt32:
		return int64(int32(binary.LittleEndian.Uint32(b[4*i:]))), true
	case kindUint64, kindInt64:
		u := binary.LittleEndian.Uint64(b[8*i:])
		return int64(u), v.kind == kindInt64 || u <= math.MaxInt64
	}
	return 0, false
}

// Has reports whether key is set, of whatever kind.
func (f *File) Has(key string) bool {
	_, ok := f.meta[key]
	return ok
}

// Text is the string under key; ok is false when there is none, or something that is no string.
func (f *File) Text(key string) (text string, ok bool) {
	v, ok := f.meta[key]
	if !ok || v.array || v.kind != kindString {
		return "", false
	}
	return v.texts[0], true
}

// Int is the integer under key, of whatever width; ok is false when there is none that fits an int.
func (f *File) Int(key string) (n int, ok bool) {
	v, ok := f.meta[key]
	if !ok || v.array {
		return 0, false
	}
	i, ok := v.int(0)
	return int(i), ok && int64(int(i)) == i
}

// Float is the floating-point number under key; ok is false when there is none.
func (f *File) Float(key string) (x float64, ok bool) {
	v, ok := f.meta[key]
	if !ok || v.array {
		return 0, false
	}
	switch v.kind {
	case kindFloat32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(v.raw))), true
	case kindFloat64:
		return math.Float64frombits(binary.LittleEndian.Uint64(v.raw)), true
	}
	return 0, false
}

// Numbers is the array of floating-point numbers under key; ok is false when there is none.
func (f *File) Numbers(key string) (numbers []float64, ok bool) {
	v, ok := f.meta[key]
	if !ok || !v.array || (v.kind != kindFloat32 && v.kind != kindFloat64) {
		return nil, false
	}
	if v.kind == kindFloat32 {
		for b := v.raw; len(b) >= 4; b = b[4:] {
			numbers = append(numbers, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
		}
		return numbers, true
	}
	for b := v.raw; len(b) >= 8; b = b[8:] {
		numbers = append(numbers, math.Float64frombits(binary.LittleEndian.Uint64(b)))
	}
	return numbers, true
}

// Bool is the truth value under key; ok is false when there is none.
func (f *File) Bool(key string) (b, ok bool) {
	v, ok := f.meta[key]
	if !ok || v.array || v.kind != kindBool {
		return false, false
	}
	return v.raw[0] != 0, true
}

// Texts is the array of strings under key, which is not to be changed; ok is false when there is none.
func (f *File) Texts(key string) (texts []string, ok bool) {
	v, ok := f.meta[key]
	if !ok || !v.array || v.kind != kindString {
		return nil, false
	}
	return v.texts, true
}

// Ints is the array of integers under key, of whatever width; ok is false when there is none.
func (f *File) Ints(key string) (ints []int64, ok bool) {
	v, ok := f.meta[key]
	if !ok || !v.array {
		return nil, false
	}
	width, ok := widths[v.kind]
	if !ok {
		return nil, false
	}
	out := make([]int64, len(v.raw)/width)
	for i := range out {
		if out[i], ok = v.int(i); !ok {
			return nil, false
		}
	}
	return out, true
}
