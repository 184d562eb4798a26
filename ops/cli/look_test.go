package cli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestCheckFolder: a folder that is not there yet is as good as the one in which it will be made.
func TestCheckFolder(t *testing.T) {
	t.Parallel()
	if k := checkFolder(filepath.Join(t.TempDir(), "a", "b")); !strings.Contains(k.Found, " free") || k.OK != (k.Do == "") {
		t.Errorf("a folder to be made: %+v", k)
	}
	if k := checkFolder("/proc/pelton/data"); k.OK {
		t.Errorf("a folder where none can be made: %+v", k)
	}
}

// TestCheckLibrary: a library of this processor that does not load is not ok.
func TestCheckLibrary(t *testing.T) {
	t.Parallel()
	machine, known := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	if runtime.GOOS != "linux" || !known {
		t.Skip("the library of this test is for Linux")
	}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Ehsize: 64}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var header bytes.Buffer
	path := filepath.Join(t.TempDir(), "libonnxruntime.so")
	if err := errors.Join(binary.Write(&header, binary.LittleEndian, h), os.WriteFile(path, header.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	if k := checkLibrary(path); k.OK || k.Found != path || !strings.Contains(k.Do, "does not load") && !strings.Contains(k.Do, "cgo") {
		t.Errorf("a library that is but a header: %+v", k)
	}
	if k := checkLibrary(path + ".gone"); k.OK || !strings.Contains(k.Do, "correct PELTON_ORT_LIB") {
		t.Errorf("a library that is not there: %+v", k)
	}
}
