package gguf

import (
	"fmt"
	"math"

	"github.com/pelton-run/pelton/runtime/quant"
)

const (
	magic        = 0x46554747 // "GGUF"
	defaultAlign = 32
	alignmentKey = "general.alignment"
)

// header reads everything before the tensors' values.
func (f *File) header(d *decoder) error {
	if m := d.u32(); d.err == nil && m != magic {
		return fmt.Errorf("not a GGUF file: it starts with %08x, not %08x", m, magic)
	}
	version := d.u32()
	switch {
	case d.err != nil:
		return d.err
	case version == 2<<24 || version == 3<<24:
		return fmt.Errorf("big-endian files are not supported, convert it with the gguf tools")
	case version != 2 && version != 3:
		return fmt.Errorf("version %d is not supported, only 2 and 3 are", version)
	}
	f.Version = int(version)
	tensors := d.count("tensors", maxTensors, 32)
	keys := d.count("metadata keys", maxKeys, 13)
	for i := 0; i < keys && d.err == nil; i++ {
		f.key(d)
	}
	for i := 0; i < tensors && d.err == nil; i++ {
		f.tensor(d)
	}
	if d.err == nil {
		f.place(d)
	}
	return d.err
}

func (f *File) key(d *decoder) {
	d.mark()
	name := d.text(maxName)
	kind := d.u32()
	v := d.value(kind, 0)
	if d.err != nil {
		return
	}
	if _, twice := f.meta[name]; twice {
		d.fail("metadata key %q appears twice", name)
		return
	}
	f.meta[name] = v
}

// tensor reads one entry of the table; its offset still counts from the start of the values.
func (f *File) tensor(d *decoder) {
	d.mark()
	t := Tensor{Name: d.text(maxName)}
	dims := d.u32()
	if d.err == nil && (dims < 1 || dims > maxDims) {
		d.fail("tensor %q has %d dimensions, 1 to %d are supported", t.Name, dims, maxDims)
	}
	elements := uint64(1)
	for i := uint32(0); i < dims && d.err == nil; i++ {
		n := d.u64()
		if d.err == nil && (n == 0 || n > maxDim || elements > math.MaxInt64/8/n) {
			d.fail("tensor %q: dimension %d is %d, out of range", t.Name, i, n)
			return
		}
		elements *= n
		t.Dims = append(t.Dims, int(n))
	}
	t.Format = quant.Format(d.u32())
	offset := d.u64()
	if d.err != nil {
		return
	}
	if !t.Format.Known() {
		d.fail("tensor %q is stored as %s, which is not supported; F32, F16, BF16, Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL and IQ4_XS are", t.Name, t.Format)
		return
	}
	values, bytes := t.Format.BlockValues(), t.Format.BlockBytes()
	if t.Dims[0]%values != 0 {
		d.fail("tensor %q: its rows of %d values are no multiple of the block of %s (%d)", t.Name, t.Dims[0], t.Format, values)
		return
	}
	if _, twice := f.byName[t.Name]; twice {
		d.fail("tensor %q appears twice", t.Name)
		return
	}
	size := elements / uint64(values) * uint64(bytes) // elements <= MaxInt64/8, bytes <= 8*values
	if offset > uint64(d.size) || size > uint64(d.size)-offset {
		d.fail("tensor %q: %d bytes at offset %d do not lie in a file of %d bytes", t.Name, size, offset, d.size)
		return
	}
	t.Offset, t.Size = int64(offset), int64(size)
	f.byName[t.Name] = len(f.Tensors)
	f.Tensors = append(f.Tensors, t)
}

// place turns the tensors' offsets into offsets of the file and checks that they lie inside it.
func (f *File) place(d *decoder) {
	d.mark()
	align := int64(defaultAlign)
	if _, set := f.meta[alignmentKey]; set {
		a, ok := f.Int(alignmentKey)
		if !ok || a < 8 || a > maxAlignment || a&(a-1) != 0 {
			d.fail("%s is %d, not a power of two from 8 to %d", alignmentKey, a, maxAlignment)
			return
		}
		align = int64(a)
	}
	start := (d.pos + align - 1) / align * align
	for i := range f.Tensors {
		t := &f.Tensors[i]
		if t.Offset%align != 0 {
			d.fail("tensor %q: offset %d is no multiple of the alignment %d", t.Name, t.Offset, align)
			return
		}
		t.Offset += start // both are at most the file's size: no overflow
		if t.Size > d.size-t.Offset {
			d.fail("tensor %q ends at byte %d, but the file has %d: it is truncated, fetch it again", t.Name, t.Offset+t.Size, d.size)
			return
		}
	}
}
