// Package safetensors reads weights files of that name (https://github.com/huggingface/safetensors): a
// JSON header that says where each tensor lies, then the tensors.
//
// Previous step: runtime/hub has fetched the file. Next step: runtime/convert writes the tensors into a
// model folder. The package believes nothing of the header: every offset is checked against the file. It
// never writes. A [File] is safe for concurrent use until it is closed.
package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// ErrFormat: the file is no safetensors file, or a damaged one.
var ErrFormat = errors.New("not a safetensors file")

// Bounds on a header.
const (
	maxHeader  = 64 << 20 // bytes
	maxTensors = 1 << 16
	maxRank    = 8
)

// Tensor is where one tensor lies.
type Tensor struct {
	Type  string // "F32", "F16", "BF16", …
	Shape []int

	offset, length int64 // bytes from the start of the file
}

// Elements is the count of the tensor's numbers.
func (t Tensor) Elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// File is an open file.
type File struct {
	file    *os.File
	tensors map[string]Tensor
}

// Open reads a file's header. The error wraps [ErrFormat] when the file is damaged.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	tensors, err := header(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &File{f, tensors}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Tensors are the file's tensors by name; the caller must not change the map.
func (f *File) Tensors() map[string]Tensor { return f.tensors }

func header(f *os.File) (map[string]Tensor, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var size [8]byte
	if _, err := io.ReadFull(f, size[:]); err != nil {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrFormat, info.Size())
	}
	n := binary.LittleEndian.Uint64(size[:])
	if n > maxHeader || int64(n) > info.Size()-8 {
		return nil, fmt.Errorf("%w: a header of %d bytes in a file of %d", ErrFormat, n, info.Size())
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(f, raw); err != nil {
		return nil, err
	}
	return parse(raw, info.Size())
}

// parse reads the header of a file of size bytes.
func parse(raw []byte, size int64) (map[string]Tensor, error) {
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(entries) > maxTensors {
		return nil, fmt.Errorf("%w: %d tensors, at most %d are read", ErrFormat, len(entries), maxTensors)
	}
	start := int64(8 + len(raw))
	out := map[string]Tensor{}
	for name, entry := range entries {
		if name == "__metadata__" {
			continue
		}
		var e struct {
			Type    string   `json:"dtype"`
			Shape   []int    `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(entry, &e); err != nil {
			return nil, fmt.Errorf("%w: tensor %.100q: %w", ErrFormat, name, err)
		}
		t := Tensor{Type: e.Type, Shape: e.Shape, offset: start + e.Offsets[0], length: e.Offsets[1] - e.Offsets[0]}
		if e.Offsets[0] < 0 || e.Offsets[1] < e.Offsets[0] || e.Offsets[1] > size-start {
			return nil, fmt.Errorf("%w: tensor %.100q lies at %v in a file of %d bytes", ErrFormat, name, e.Offsets, size)
		}
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("%w: tensor %.100q %w", ErrFormat, name, err)
		}
		out[name] = t
	}
	return out, nil
}

// check compares the shape with the length.
func (t Tensor) check() error {
	if len(t.Shape) > maxRank {
		return fmt.Errorf("has %d dimensions, at most %d are read", len(t.Shape), maxRank)
	}
	n := int64(1)
	for _, d := range t.Shape {
		if d < 0 || d > 0 && n > math.MaxInt32*256/int64(d) {
			return fmt.Errorf("has the shape %v", t.Shape)
		}
		n *= int64(d)
	}
	if w := width(t.Type); w > 0 && n*w != t.length {
		return fmt.Errorf("of %s and shape %v takes %d bytes, not %d", t.Type, t.Shape, n*w, t.length)
	}
	return nil
}

// width is the bytes of an element, 0 for a type that is not known here.
func width(t string) int64 {
	switch t {
	case "F64", "I64", "U64":
		return 8
	case "F32", "I32", "U32":
		return 4
	case "F16", "BF16", "I16", "U16":
		return 2
	case "I8", "U8", "BOOL":
		return 1
	}
	return 0
}

// Floats reads a tensor of F32, F16 or BF16 as float32.
func (f *File) Floats(name string) ([]float32, error) {
	t, ok := f.tensors[name]
	if !ok {
		return nil, fmt.Errorf("%w: there is no tensor %.100q", ErrFormat, name)
	}
	if t.Type != "F32" && t.Type != "F16" && t.Type != "BF16" {
		return nil, fmt.Errorf("tensor %.100q is of type %.20q: only F32, F16 and BF16 are read", name, t.Type)
	}
	raw := make([]byte, t.length)
	if _, err := f.file.ReadAt(raw, t.offset); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", name, err)
	}
	out := make([]float32, t.Elements())
	for i := range out {
		switch t.Type {
		case "F32":
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		case "BF16":
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
		default:
			out[i] = half(binary.LittleEndian.Uint16(raw[2*i:]))
		}
	}
	return out, nil
}

// half is an IEEE half-precision number.
func half(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exponent {
	case 0:
		v := float32(fraction) / (1 << 24)
		return math.Float32frombits(sign | math.Float32bits(v))
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}
