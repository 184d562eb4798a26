package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// decoder reads little-endian values one after the other and never past the file's end. The first error
// sticks: later reads return zeros.
type decoder struct {
	r     *bufio.Reader
	pos   int64
	size  int64
	entry int64 // where the entry that is being read starts, see mark
	whole bool  // whether the error concerns the whole entry rather than the value at pos
	err   error
	buf   [8]byte
}

func newDecoder(r io.ReaderAt, size int64) *decoder {
	return &decoder{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), size: size}
}

// mark notes the start of an entry, which is where fail places its error.
func (d *decoder) mark() { d.entry = d.pos }

// fail records that the entry being read is wrong as a whole.
func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err, d.whole = fmt.Errorf(format, args...), true
	}
}

// at is the byte that the error is about.
func (d *decoder) at() int64 {
	if d.whole {
		return d.entry
	}
	return d.pos
}

func (d *decoder) left() uint64 { return uint64(d.size - d.pos) }

// read fills b.
func (d *decoder) read(b []byte) {
	if d.err != nil {
		return
	}
	if uint64(len(b)) > d.left() {
		d.err = fmt.Errorf("the file ends here: %d bytes are wanted, %d are left", len(b), d.left())
		return
	}
	n, err := io.ReadFull(d.r, b)
	d.pos += int64(n)
	d.err = err
}

func (d *decoder) uint(width int) uint64 {
	clear(d.buf[:])
	d.read(d.buf[:width])
	if d.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(d.buf[:])
}

func (d *decoder) u32() uint32 { return uint32(d.uint(4)) }
func (d *decoder) u64() uint64 { return d.uint(8) }

// count reads a count of things of at least each bytes, and checks that the rest of the file can hold
// them.
func (d *decoder) count(what string, limit, each uint64) int {
	at := d.pos
	n := d.u64()
	if d.err != nil {
		return 0
	}
	if n > limit || n > d.left()/each {
		d.pos = at
		d.err = fmt.Errorf("%d %s are announced; the limit is %d and the rest of the file has %d bytes", n, what, limit, d.left())
		return 0
	}
	return int(n)
}

func (d *decoder) text(limit uint64) string {
	b := make([]byte, d.count("bytes of text", limit, 1))
	d.read(b)
	if d.err != nil {
		return ""
	}
	return string(b)
}
