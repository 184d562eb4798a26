package safetensors_test

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pelton-run/pelton/runtime/safetensors"
)

// file makes a safetensors file of a header and the bytes behind it.
func file(header string, data []byte) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), data...)
}

func open(t testing.TB, content []byte) (*safetensors.File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err == nil {
		t.Cleanup(func() { _ = f.Close() })
	}
	return f, err
}

func TestFloats(t *testing.T) {
	t.Parallel()
	data := []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0} // 1, -2
	data = append(data, 0x80, 0x3f, 0, 0xc0)        // the same as BF16
	data = append(data, 0, 0x3c, 0, 0xc0, 1, 0, 0, 0x7c)
	f, err := open(t, file(`{"__metadata__":{"format":"pt"},
		"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]},
		"c":{"dtype":"F16","shape":[4],"data_offsets":[12,20]},"d":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}`, data))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]float32{"a": {1, -2}, "b": {1, -2}, "c": {1, -2, float32(math.Pow(2, -24)), float32(math.Inf(1))}} {
		if got, err := f.Floats(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	for _, name := range []string{"d", "missing"} {
		if _, err := f.Floats(name); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, content := range map[string][]byte{
		"empty":     {},
		"no header": file(``, nil),
		"long":      binary.LittleEndian.AppendUint64(nil, math.MaxUint64),
		"no JSON":   file(`{`, nil),
		"beyond":    file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, make([]byte, 7)),
		"negative":  file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}`, make([]byte, 8)),
		"reversed":  file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, make([]byte, 8)),
		"wrapped":   file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[9223372036854775800,-9223372036854775808]}}`, make([]byte, 8)),
		"shape":     file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, make([]byte, 8)),
		"overflow":  file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, nil),
		"rank":      file(`{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}`, make([]byte, 1)),
	} {
		if _, err := open(t, content); !errors.Is(err, safetensors.ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, make([]byte, 4)))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := open(t, content)
		if err != nil {
			return
		}
		for name := range file.Tensors() {
			_, _ = file.Floats(name)
		}
	})
}
