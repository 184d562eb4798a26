// Package gguf reads GGUF model files (versions 2 and 3): metadata, the table of tensors, and the
// tensors' values.
//
// It is the first step of a conversion: runtime/hub fetches the file, this package opens it, and
// runtime/convert makes a model folder of it. Every count, length and offset that a file announces is
// checked against the file's size and the limits below before memory is taken for it, and an error names
// the byte at which the file is wrong. The package never writes, and never loads a tensor that is not
// asked for. A [File] is safe for concurrent reads.
package gguf

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pelton-run/pelton/runtime/quant"
)

// Limits of what a file may announce. The largest published models stay well below them.
const (
	maxKeys       = 1 << 16
	maxTensors    = 1 << 17
	maxName       = 1 << 12 // bytes of a key or a tensor's name
	maxText       = 1 << 24 // bytes of a string
	maxElements   = 1 << 24 // of a metadata array
	maxDims       = 4
	maxDim        = 1<<31 - 1
	maxArrayDepth = 4
	maxAlignment  = 1 << 20
	maxRead       = 1 << 31 // bytes that one Raw call may return
)

// File is an open GGUF file. The fields are not to be changed.
type File struct {
	Version int
	Tensors []Tensor // in the file's order

	meta   map[string]value
	byName map[string]int
	r      io.ReaderAt
	closer io.Closer // nil when the caller owns the reader
}

// Tensor is one entry of the table of tensors.
type Tensor struct {
	Name   string
	Format quant.Format
	// Dims are the sizes, innermost first as in the file: a matrix is [columns, rows]. The innermost one
	// is a multiple of the format's block.
	Dims   []int
	Offset int64 // of the first byte, from the start of the file
	Size   int64 // bytes
}

// Elements is the count of values in t.
func (t Tensor) Elements() int64 {
	n := int64(1)
	for _, d := range t.Dims {
		n *= int64(d)
	}
	return n
}

// Rows is the count of rows in t; a row is Dims[0] values, and lies in one piece.
func (t Tensor) Rows() int { return int(t.Elements() / int64(t.Dims[0])) }

// RowBytes is the size of one row in the file.
func (t Tensor) RowBytes() int { return t.Dims[0] / t.Format.BlockValues() * t.Format.BlockBytes() }

// Open opens the file at path and reads its header. The caller closes the File.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a regular file", path), f.Close())
	}
	g, err := Parse(f, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	g.closer = f
	return g, nil
}

// Parse reads the header of a GGUF file of size bytes. Closing the File leaves r open.
func Parse(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r, meta: map[string]value{}, byName: map[string]int{}}
	d := newDecoder(r, size)
	if err := f.header(d); err != nil {
		return nil, fmt.Errorf("gguf: at byte %d: %w", d.at(), err)
	}
	return f, nil
}

// Close releases the file; reads fail from then on.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Tensor finds a tensor by its name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return f.Tensors[i], true
}

// Raw reads rows [from, to) of t as they are stored, RowBytes each, at most 2 GiB a call.
func (f *File) Raw(t Tensor, from, to int) ([]byte, error) {
	if from < 0 || from > to || to > t.Rows() {
		return nil, fmt.Errorf("tensor %s has %d rows, there are no rows %d to %d", t.Name, t.Rows(), from, to)
	}
	n := int64(to-from) * int64(t.RowBytes())
	if n > maxRead {
		return nil, fmt.Errorf("tensor %s: %d bytes at once are more than %d", t.Name, n, maxRead)
	}
	b := make([]byte, n)
	if _, err := f.r.ReadAt(b, t.Offset+int64(from)*int64(t.RowBytes())); err != nil && n > 0 {
		return nil, fmt.Errorf("tensor %s: rows %d to %d: %w", t.Name, from, to, err)
	}
	return b, nil
}

// Floats reads rows [from, to) of t as float32.
func (f *File) Floats(t Tensor, from, to int) ([]float32, error) {
	b, err := f.Raw(t, from, to)
	if err != nil {
		return nil, err
	}
	v := make([]float32, (to-from)*t.Dims[0])
	if err := t.Format.Dequantize(v, b); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
	}
	return v, nil
}
