package gguf_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/gguf/gguftest"
	"github.com/pelton-run/pelton/runtime/quant"
)

func parse(t *testing.T, b []byte) *gguf.File {
	t.Helper()
	f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatalf("a sound file of %d bytes: %v", len(b), err)
	}
	return f
}

// sample is a file with every kind of metadata and two tensors.
func sample() *gguftest.Builder {
	rng := rand.New(rand.NewPCG(1, 2))
	var b gguftest.Builder
	for key, v := range map[string]any{
		"u8": uint8(200), "i8": int8(-7), "u16": uint16(60000), "i16": int16(-300), "u32": uint32(4000000000), "i32": int32(-5),
		"u64": uint64(1 << 63), "i64": int64(-1 << 40), "f32": float32(1.5), "f64": 2.25, "yes": true, "no": false,
		"text": "häß", "texts": []string{"a", "", "ccc"}, "ints": []int32{1, -2}, "floats": []float32{1.5, -0.25}, "nested": [][]int32{{1}, {2, 3}},
	} {
		b.Set(key, v)
	}
	b.Add("matrix", quant.Q41, gguftest.Weights(rng, quant.Q41, 64*3), 64, 3)
	b.Add("vector", quant.F32, gguftest.Weights(rng, quant.F32, 5), 5)
	return &b
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	f := parse(t, sample().Bytes())
	for key, want := range map[string]int{"u8": 200, "i8": -7, "u16": 60000, "i16": -300, "u32": 4000000000, "i32": -5, "i64": -1 << 40} {
		if got, ok := f.Int(key); !ok || got != want {
			t.Errorf("Int(%s) = %d, %v, want %d", key, got, ok, want)
		}
	}
	for _, key := range []string{"u64", "f32", "text", "yes", "ints", "nested", "absent"} {
		if got, ok := f.Int(key); ok {
			t.Errorf("Int(%s) = %d, want none", key, got)
		}
	}
	f32, _ := f.Float("f32")
	f64, _ := f.Float("f64")
	text, _ := f.Text("text")
	yes, okYes := f.Bool("yes")
	no, okNo := f.Bool("no")
	texts, _ := f.Texts("texts")
	ints, _ := f.Ints("ints")
	got := []any{f32, f64, text, yes, okYes, no, okNo, texts, ints}
	want := []any{1.5, 2.25, "häß", true, true, false, true, []string{"a", "", "ccc"}, []int64{1, -2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if numbers, ok := f.Numbers("floats"); !ok || len(numbers) != 2 || numbers[1] != -0.25 {
		t.Errorf("Numbers(floats) = %v, %v, want [1.5 -0.25]", numbers, ok)
	}
	if _, ok := f.Numbers("ints"); ok {
		t.Error("Numbers(ints) gave integers")
	}
	if !f.Has("nested") || f.Has("absent") || len(f.Keys()) != 17 {
		t.Errorf("Has(nested) %v, Has(absent) %v, %d keys; want true, false, 17", f.Has("nested"), f.Has("absent"), len(f.Keys()))
	}
	if _, ok := f.Texts("ints"); ok {
		t.Error("Texts(ints) gave numbers")
	}
	if _, ok := f.Ints("texts"); ok {
		t.Error("Ints(texts) gave strings")
	}
}

func TestTensors(t *testing.T) {
	t.Parallel()
	for _, align := range []int{0, 8, 64, 4096} {
		for _, version := range []uint32{2, 3} {
			b := sample()
			b.Alignment, b.Version = align, version
			f := parse(t, b.Bytes())
			m, ok := f.Tensor("matrix")
			if !ok || m.Rows() != 3 || m.RowBytes() != 40 || m.Elements() != 192 || m.Format != quant.Q41 {
				t.Fatalf("alignment %d: matrix is %+v, %v", align, m, ok)
			}
			whole, err := f.Floats(m, 0, 3)
			if err != nil {
				t.Fatal(err)
			}
			last, err := f.Floats(m, 2, 3)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(whole[128:], last); diff != "" {
				t.Errorf("alignment %d: row 2 (-of all, +alone):\n%s", align, diff)
			}
			for _, rows := range [][2]int{{-1, 1}, {0, 4}, {2, 1}} {
				if _, err := f.Raw(m, rows[0], rows[1]); err == nil {
					t.Errorf("rows %v of 3 were read", rows)
				}
			}
			if b, err := f.Raw(m, 3, 3); err != nil || len(b) != 0 {
				t.Errorf("no rows: %d bytes, %v", len(b), err)
			}
		}
	}
	if _, ok := parse(t, sample().Bytes()).Tensor("absent"); ok {
		t.Error("an absent tensor was found")
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.gguf")
	if err := os.WriteFile(path, sample().Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := f.Tensor("matrix")
	if _, err := f.Floats(m, 0, 3); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Raw(m, 0, 1); err == nil {
		t.Error("a closed file was read")
	}
	if _, err := gguf.Open(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: error %v", err)
	}
	if _, err := gguf.Open(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent file was opened")
	}
}

// Whatever is cut off, the header cannot be read, and the error says where.
func TestTruncated(t *testing.T) {
	t.Parallel()
	b := sample().Bytes()
	for n := range len(b) - 27 { // the last tensor's 20 bytes are followed by padding, which may be missing
		f, err := gguf.Parse(bytes.NewReader(b[:n]), int64(n))
		if err == nil {
			t.Fatalf("%d of %d bytes were accepted: %+v", n, len(b), f.Tensors)
		}
		if !strings.Contains(err.Error(), "gguf: at byte ") {
			t.Fatalf("%d bytes: error %q names no byte", n, err)
		}
	}
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	// A file with one key "k" and one tensor "t" lies so: counts at 8 and 16, the key's length at 24, its
	// kind at 33, its value from 37; a uint32 value ends at 41, where the tensor's entry begins: name
	// length 41, name 49, dimensions 50, size 54, format 62, offset 66.
	small := func(change func([]byte) []byte) []byte {
		var b gguftest.Builder
		b.Set("k", uint32(7))
		b.Add("t", quant.Q41, make([]byte, 20), 32)
		return change(b.Bytes())
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint32(b[at:], v); return b }
	}
	put64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint64(b[at:], v); return b }
	}
	built := func(change func(*gguftest.Builder)) []byte {
		b := sample()
		change(b)
		return b.Bytes()
	}
	for _, c := range []struct {
		what string
		file []byte
		want string
	}{
		{"empty", nil, "at byte 0: the file ends here"},
		{"other magic", small(put32(0, 0x46464f47)), "not a GGUF file"},
		{"version 1", small(put32(4, 1)), "version 1 is not supported"},
		{"big-endian", small(put32(4, 3<<24)), "big-endian"},
		{"tensor count", small(put64(8, 1<<40)), "at byte 8: 1099511627776 tensors are announced"},
		{"key count", small(put64(16, 50)), "at byte 16: 50 metadata keys are announced"},
		{"key length", small(put64(24, 1<<63)), "at byte 24: 9223372036854775808 bytes of text"},
		{"value kind", small(put32(33, 13)), "unknown kind 13"},
		{"array length", small(func(b []byte) []byte {
			le.PutUint32(b[33:], 9)
			le.PutUint32(b[37:], 4)
			le.PutUint64(b[41:], 1<<62)
			return b
		}), "at byte 41: 4611686018427387904 array elements"},
		{"array kind", small(func(b []byte) []byte { le.PutUint32(b[33:], 9); le.PutUint32(b[37:], 77); return b }), "unknown kind 77"},
		{"no dimensions", small(put32(50, 0)), `at byte 41: tensor "t" has 0 dimensions`},
		{"5 dimensions", small(put32(50, 5)), "has 5 dimensions"},
		{"dimension 0", small(put64(54, 0)), "dimension 0 is 0"},
		{"huge dimension", small(put64(54, 1<<63)), "out of range"},
		{"part of a block", small(put64(54, 33)), "no multiple of the block"},
		{"unknown format", small(put32(62, 16)), `tensor "t" is stored as type 16`},
		{"offset not aligned", small(put64(66, 1)), "no multiple of the alignment"},
		{"offset beyond the file", small(put64(66, 1<<63)), "do not lie in a file"},
		{"values cut off", small(func(b []byte) []byte { return b[:len(b)-13] }), "it is truncated"},
		{"alignment 3", built(func(b *gguftest.Builder) { b.Set("general.alignment", uint32(3)) }), "not a power of two"},
		{"alignment text", built(func(b *gguftest.Builder) { b.Set("general.alignment", "32") }), "not a power of two"},
	} {
		f, err := gguf.Parse(bytes.NewReader(c.file), int64(len(c.file)))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "at byte ") {
			t.Errorf("%s: got %v, error %v; want an error with %q", c.what, f, err, c.want)
		}
	}
}

func TestTwice(t *testing.T) {
	t.Parallel()
	b := sample()
	twice := bytes.Replace(b.Bytes(), append(binary.LittleEndian.AppendUint64(nil, 3), "u32"...), append(binary.LittleEndian.AppendUint64(nil, 3), "i32"...), 1)
	if _, err := gguf.Parse(bytes.NewReader(twice), int64(len(twice))); err == nil || !strings.Contains(err.Error(), `key "i32" appears twice`) {
		t.Errorf("a key twice: error %v", err)
	}
	twice = bytes.Replace(b.Bytes(), []byte("vector"), []byte("matrix"), 1)
	if _, err := gguf.Parse(bytes.NewReader(twice), int64(len(twice))); err == nil || !strings.Contains(err.Error(), `tensor "matrix" appears twice`) {
		t.Errorf("a tensor twice: error %v", err)
	}
}

func TestNestedTooDeep(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	b := le.AppendUint64(le.AppendUint64(le.AppendUint32([]byte("GGUF"), 3), 0), 1)
	b = le.AppendUint32(append(le.AppendUint64(b, 1), 'k'), 9)
	for range 10000 {
		b = le.AppendUint64(le.AppendUint32(b, 9), 1)
	}
	if _, err := gguf.Parse(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "nested deeper") {
		t.Errorf("10000 arrays inside each other: error %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(sample().Bytes())
	b := sample()
	b.Alignment, b.Version = 64, 2
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "gguf: at byte ") {
				t.Fatalf("error %q names no byte", err)
			}
			return
		}
		for _, key := range g.Keys() {
			g.Text(key)
			g.Int(key)
			g.Float(key)
			g.Bool(key)
			g.Texts(key)
			g.Ints(key)
		}
		for _, s := range g.Tensors {
			if s.Offset < 0 || s.Size < 1 || s.Offset+s.Size > int64(len(b)) || int64(s.Rows())*int64(s.RowBytes()) != s.Size {
				t.Fatalf("tensor %+v does not lie in a file of %d bytes", s, len(b))
			}
			if _, err := g.Floats(s, 0, s.Rows()); err != nil {
				t.Fatalf("tensor %+v: %v", s, err)
			}
		}
	})
}
