package convert

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/quant"
)

// tensorAlign is the alignment of each tensor in the weights file: a page, because ONNX Runtime maps them.
const tensorAlign = 4096

// weights writes the external data of a graph from start to end, and remembers its initializers. The
// first error sticks and is returned by finish.
type weights struct {
	file         *os.File
	buf          *bufio.Writer
	sum          hash.Hash
	real         dataType // of what is no whole number: typeFloat or typeHalf
	pos          int64
	end          int64 // where the region being written ends
	initializers []message
	err          error
}

func createWeights(dir string) (*weights, error) {
	f, err := os.Create(filepath.Join(dir, model.WeightsFile))
	if err != nil {
		return nil, err
	}
	w := &weights{file: f, sum: sha256.New(), real: typeFloat}
	w.buf = bufio.NewWriterSize(io.MultiWriter(f, w.sum), 1<<20)
	return w, nil
}

// region is a place in the weights file.
type region struct{ offset, length int64 }

// reserve starts an aligned region of n bytes, which are written next, all of them.
func (w *weights) reserve(n int64) region {
	w.close()
	w.write(make([]byte, (tensorAlign-w.pos%tensorAlign)%tensorAlign))
	w.end = w.pos + n
	return region{w.pos, n}
}

// begin starts an initializer of the given type and shape; its bytes are written next, all of them.
func (w *weights) begin(name string, t dataType, dims ...int) region {
	n := int64(t.width())
	for _, d := range dims {
		n *= int64(d)
	}
	at := w.reserve(n)
	w.alias(name, t, at, dims...)
	return at
}

// close checks that the region reserved last is complete.
func (w *weights) close() {
	if w.err == nil && w.pos != w.end {
		w.err = fmt.Errorf("weights: %d bytes written where %d were announced", w.pos, w.end)
	}
}

// alias declares an initializer over a region; several may share one.
func (w *weights) alias(name string, t dataType, at region, dims ...int) {
	var m message
	for _, d := range dims {
		m.int(1, int64(d))
	}
	m.int(2, int64(t))
	m.text(8, name)
	for _, kv := range [][2]string{
		{"location", model.WeightsFile},
		{"offset", strconv.FormatInt(at.offset, 10)},
		{"length", strconv.FormatInt(at.length, 10)},
	} {
		var entry message
		entry.text(1, kv[0])
		entry.text(2, kv[1])
		m.sub(13, entry)
	}
	m.int(14, externalLocation)
	w.initializers = append(w.initializers, m)
}

func (w *weights) write(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.buf.Write(b)
	w.pos += int64(n)
	w.err = err
}

// writeFloats writes numbers of type w.real.
func (w *weights) writeFloats(v []float32) {
	var b [1 << 12]byte
	for len(v) > 0 {
		n := min(len(v), len(b)/w.real.width())
		w.write(w.real.encode(b[:0], v[:n]))
		v = v[n:]
	}
}

// encode appends numbers as they are stored, in single or half precision.
func (t dataType) encode(to []byte, v []float32) []byte {
	at := len(to)
	to = slices.Grow(to, len(v)*t.width())[:at+len(v)*t.width()]
	for i, x := range v {
		if t == typeHalf {
			binary.LittleEndian.PutUint16(to[at+2*i:], quant.ToHalf(x))
		} else {
			binary.LittleEndian.PutUint32(to[at+4*i:], math.Float32bits(x))
		}
	}
	return to
}

// floats writes a whole initializer of type w.real.
func (w *weights) floats(name string, v []float32, dims ...int) region {
	at := w.begin(name, w.real, dims...)
	w.writeFloats(v)
	return at
}

// finish brings the file to disk and describes it.
func (w *weights) finish() (model.File, error) {
	w.close()
	err := w.err
	if err == nil {
		err = errors.Join(w.buf.Flush(), w.file.Sync())
	}
	if err = errors.Join(err, w.file.Close()); err != nil {
		return model.File{}, err
	}
	return model.File{Name: model.WeightsFile, Size: w.pos, SHA256: hex.EncodeToString(w.sum.Sum(nil))}, nil
}

func (w *weights) abort() error { return w.file.Close() }

// writeFile writes one whole file of the folder, brings it to disk and describes it.
func writeFile(dir, name string, b []byte) (model.File, error) {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return model.File{}, err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return model.File{}, err
	}
	sum := sha256.Sum256(b)
	return model.File{Name: name, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}, nil
}
