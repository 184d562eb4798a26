package adopt

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits of what a graph file may hold.
const (
	maxDepth  = 24      // messages inside each other: a branch of an If takes three
	maxText   = 1 << 16 // bytes of a name
	maxValues = 1 << 16 // inputs and outputs
	maxFiles  = 60      // files with weights: a manifest lists 64
)

// value is an input or output of a graph.
type value struct {
	name string
	kind int64    // TensorProto.DataType
	dims []string // sizes, or names of free ones
}

// graphFile is what is read of an .onnx file: what goes in and out, where weights lie, which operators
// run. Weights are skipped, wherever they are.
type graphFile struct {
	inputs, outputs []value
	initializers    map[string]bool // old files list them among the inputs as well
	external        map[string]bool // file names, relative to the graph's folder
	operators       map[string]int
	bits            int64 // of MatMulNBits, 0 for none
}

// readGraph reads the structure of the file at path, without loading its weights.
func readGraph(path string) (*graphFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	g := &graphFile{initializers: map[string]bool{}, external: map[string]bool{}, operators: map[string]int{}}
	r := &reader{r: bufio.NewReaderSize(f, 1<<16)}
	if err := r.message(info.Size(), 0, g.model); err != nil {
		return nil, fmt.Errorf("%s is no ONNX graph: at byte %d: %w", path, r.at, err)
	}
	if len(g.outputs) == 0 {
		return nil, fmt.Errorf("%s is no ONNX graph: it has no outputs", path)
	}
	return g, nil
}

// reader reads protobuf messages one field after the other.
type reader struct {
	r  *bufio.Reader
	at int64
}

// ReadByte implements io.ByteReader.
func (r *reader) ReadByte() (byte, error) {
	b, err := r.r.ReadByte()
	if err == nil {
		r.at++
	}
	return b, err
}

func (r *reader) varint() (uint64, error) {
	v := uint64(0)
	for shift := 0; shift < 64; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("a number of more than 10 bytes")
}

// field is one field of a message: a number, or size bytes that follow.
type field struct {
	number protowire.Number
	value  uint64
	size   int64
	bytes  bool
}

// message calls on for each field up to byte end. What on leaves unread of a field is skipped.
func (r *reader) message(end int64, depth int, on func(r *reader, f field, depth int) error) error {
	if depth > maxDepth {
		return fmt.Errorf("messages more than %d deep", maxDepth)
	}
	for r.at < end {
		tag, err := r.varint()
		if err != nil {
			return err
		}
		number, kind := protowire.DecodeTag(tag)
		f := field{number: number}
		next := r.at
		switch kind {
		case protowire.VarintType:
			if f.value, err = r.varint(); err != nil {
				return err
			}
			next = r.at
		case protowire.Fixed32Type:
			next += 4
		case protowire.Fixed64Type:
			next += 8
		case protowire.BytesType:
			n, err := r.varint()
			if err != nil {
				return err
			}
			f.bytes, f.size = true, int64(n)
			if next = r.at + f.size; f.size < 0 || next > end {
				return fmt.Errorf("field %d of %d bytes does not fit: the file is cut off or damaged", number, n)
			}
		default:
			return fmt.Errorf("a field of kind %d", kind)
		}
		if err := on(r, f, depth+1); err != nil {
			return err
		}
		if err := r.skip(next - r.at); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) skip(n int64) error {
	for n > 0 {
		part, err := r.r.Discard(int(min(n, 1<<30)))
		r.at += int64(part)
		n -= int64(part)
		if err != nil {
			return err
		}
	}
	return nil
}

// text reads a field as a name.
func (r *reader) text(f field) (string, error) {
	if !f.bytes || f.size > maxText {
		return "", fmt.Errorf("a name of %d bytes", f.size)
	}
	b := make([]byte, f.size)
	n, err := io.ReadFull(r.r, b)
	r.at += int64(n)
	return string(b), err
}

// sub reads a field as a message.
func (r *reader) sub(f field, depth int, on func(r *reader, f field, depth int) error) error {
	if !f.bytes {
		return fmt.Errorf("field %d is no message", f.number)
	}
	return r.message(r.at+f.size, depth, on)
}

// The numbers below are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.

func (g *graphFile) model(r *reader, f field, depth int) error {
	if f.number != 7 {
		return nil
	}
	return r.sub(f, depth, func(r *reader, f field, depth int) error { return g.graph(r, f, depth, true) })
}

// graph reads a GraphProto, top or inside a branch.
func (g *graphFile) graph(r *reader, f field, depth int, top bool) (err error) {
	switch f.number {
	case 1:
		return g.node(r, f, depth)
	case 5:
		return g.tensor(r, f, depth)
	case 11:
		if top {
			return g.value(r, f, depth, &g.inputs)
		}
	case 12:
		if top {
			return g.value(r, f, depth, &g.outputs)
		}
	}
	return nil
}

func (g *graphFile) node(r *reader, f field, depth int) error {
	var op string
	var bits int64
	err := r.sub(f, depth, func(r *reader, f field, depth int) (err error) {
		switch f.number {
		case 4:
			op, err = r.text(f)
		case 5:
			err = g.attribute(r, f, depth, &bits)
		}
		return err
	})
	if op == "MatMulNBits" {
		g.bits = max(g.bits, bits)
	}
	g.operators[op]++
	return err
}

func (g *graphFile) attribute(r *reader, f field, depth int, bits *int64) error {
	name := ""
	return r.sub(f, depth, func(r *reader, f field, depth int) (err error) {
		switch f.number {
		case 1:
			name, err = r.text(f)
		case 3:
			if name == "bits" {
				*bits = int64(f.value)
			}
		case 5:
			err = g.tensor(r, f, depth)
		case 6, 11:
			err = r.sub(f, depth, func(r *reader, f field, depth int) error { return g.graph(r, f, depth, false) })
		}
		return err
	})
}

// tensor notes a tensor's name and the file that its values are in, if they are in another.
func (g *graphFile) tensor(r *reader, f field, depth int) error {
	return r.sub(f, depth, func(r *reader, f field, depth int) error {
		switch f.number {
		case 8:
			name, err := r.text(f)
			g.initializers[name] = true
			return err
		case 13:
			return g.entry(r, f, depth)
		}
		return nil
	})
}

func (g *graphFile) entry(r *reader, f field, depth int) error {
	var key, text string
	err := r.sub(f, depth, func(r *reader, f field, _ int) (err error) {
		switch f.number {
		case 1:
			key, err = r.text(f)
		case 2:
			text, err = r.text(f)
		}
		return err
	})
	if err == nil && key == "location" {
		if g.external[text] = true; len(g.external) > maxFiles {
			return fmt.Errorf("weights in more than %d files", maxFiles)
		}
	}
	return err
}

func (g *graphFile) value(r *reader, f field, depth int, list *[]value) error {
	var v value
	dim := func(r *reader, f field, _ int) (err error) {
		text := ""
		switch f.number {
		case 1:
			text = fmt.Sprint(f.value)
		case 2:
			text, err = r.text(f)
		}
		v.dims[len(v.dims)-1] = text
		return err
	}
	shape := func(r *reader, f field, depth int) error {
		if f.number != 1 {
			return nil
		}
		v.dims = append(v.dims, "")
		return r.sub(f, depth, dim)
	}
	tensor := func(r *reader, f field, depth int) error {
		switch f.number {
		case 1:
			v.kind = int64(f.value)
		case 2:
			return r.sub(f, depth, shape)
		}
		return nil
	}
	err := r.sub(f, depth, func(r *reader, f field, depth int) (err error) {
		switch f.number {
		case 1:
			v.name, err = r.text(f)
		case 2:
			err = r.sub(f, depth, func(r *reader, f field, depth int) error {
				if f.number != 1 {
					return nil
				}
				return r.sub(f, depth, tensor)
			})
		}
		return err
	})
	if *list = append(*list, v); len(*list) > maxValues {
		return fmt.Errorf("more than %d inputs or outputs", maxValues)
	}
	return err
}
