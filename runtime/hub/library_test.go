package hub_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/hub"
)

// ortWheel is for this machine.
var ortWheel = "onnxruntime-1.24.4-cp312-cp312-manylinux_2_28_" + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + ".whl"

// sharedLibrary is the shortest file that says it is a shared library for a processor.
func sharedLibrary(t *testing.T, goarch string) []byte {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the library of this test is for Linux")
	}
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[goarch]
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Ehsize: 64}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	if err := binary.Write(&out, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func otherArch() string {
	if runtime.GOARCH == "amd64" {
		return "arm64"
	}
	return "amd64"
}

// noModule is an environment in which there is no Go and nothing in its cache.
func noModule(t *testing.T) func(string) string {
	empty := t.TempDir()
	return func(key string) string { return map[string]string{"GOMODCACHE": empty}[key] }
}

func newLibrarySetup(t *testing.T) *setup {
	s := newSetup(t, func(c *hub.Config) { c.Environ = noModule(t) })
	s.files = map[string][]byte{ortWheel: wheel(t, map[string][]byte{"onnxruntime/capi/libonnxruntime.so.1.24.4": sharedLibrary(t, runtime.GOARCH)})}
	return s
}

func TestLibraryIsFetchedOnce(t *testing.T) {
	t.Parallel()
	s := newLibrarySetup(t)
	if path, err := s.FindLibrary(""); !errors.Is(err, hub.ErrNoLibrary) {
		t.Fatalf("FindLibrary = %s, %v; want ErrNoLibrary", path, err)
	}
	first, err := s.Library(t.Context(), "", nil)
	if err != nil || !strings.HasPrefix(first, s.cfg.Cache) {
		t.Fatalf("Library = %s, %v; want a file in %s", first, err, s.cfg.Cache)
	}
	s.Close()
	for range 2 {
		if path, err := s.Library(t.Context(), "", nil); err != nil || path != first {
			t.Errorf("Library without network = %s, %v; want %s", path, err, first)
		}
	}
	if path, err := s.FindLibrary(""); err != nil || path != first {
		t.Errorf("FindLibrary = %s, %v; want %s", path, err, first)
	}
	if got := entries(t, s.cfg.Cache); len(got) != 1 {
		t.Errorf("the cache holds %v, want only the library", got)
	}
}

func TestLibraryGiven(t *testing.T) {
	t.Parallel()
	s := newLibrarySetup(t)
	dir := t.TempDir()
	good, foreign, text := filepath.Join(dir, "good.so"), filepath.Join(dir, "foreign.so"), filepath.Join(dir, "text.so")
	write(t, good, sharedLibrary(t, runtime.GOARCH))
	write(t, foreign, sharedLibrary(t, otherArch()))
	write(t, text, []byte("INPUT(libonnxruntime.so.1)"))
	if path, err := s.Library(t.Context(), good, nil); err != nil || path != good {
		t.Errorf("Library(%s) = %s, %v", good, path, err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for path, say := range map[string]string{
		foreign: "is made for " + otherArch(), text: "no shared library", dir: "is no file", filepath.Join(dir, "missing.so"): "no such file", exe: "",
	} {
		got, err := s.Library(t.Context(), path, nil)
		if path == exe && err == nil {
			continue // position-independent programs look like libraries
		}
		if !errors.Is(err, hub.ErrNoLibrary) || !strings.Contains(err.Error(), say) || !strings.Contains(err.Error(), "PELTON_ORT_LIB") {
			t.Errorf("Library(%s) = %s, %v; want ErrNoLibrary that says %q and names PELTON_ORT_LIB", path, got, err, say)
		}
	}
	if pages, _ := s.requests(); pages != 0 {
		t.Errorf("the index was asked %d times although a path was given, want never", pages)
	}
}

func TestLibraryInModuleCache(t *testing.T) {
	t.Parallel()
	s := newLibrarySetup(t)
	triplet := map[string]string{"amd64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu"}[runtime.GOARCH]
	root := t.TempDir()
	dir := filepath.Join("github.com", "k2-fsa", "sherpa-onnx-go-linux@v1.12.40", "lib", triplet)
	for key, base := range map[string]string{"GOMODCACHE": "a", "GOPATH": filepath.Join("b", "pkg", "mod"), "HOME": filepath.Join("c", "go", "pkg", "mod")} {
		want := filepath.Join(root, base, dir, "libonnxruntime.so")
		if err := os.MkdirAll(filepath.Dir(want), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, want, sharedLibrary(t, runtime.GOARCH))
		value := filepath.Join(root, strings.Split(base, string(filepath.Separator))[0])
		s.cfg.Environ = func(k string) string { return map[string]string{key: value}[k] }
		if got, err := s.with(s.cfg).FindLibrary(""); err != nil || got != want {
			t.Errorf("FindLibrary with %s=%s: %s, %v; want %s", key, value, got, err, want)
		}
	}
}

func TestLibraryDamagedIsReplaced(t *testing.T) {
	t.Parallel()
	s := newLibrarySetup(t)
	path, err := s.Library(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, []byte("cut"))
	if _, err := s.FindLibrary(""); !errors.Is(err, hub.ErrNoLibrary) || !strings.Contains(err.Error(), "no shared library") {
		t.Errorf("FindLibrary = %v, want ErrNoLibrary that tells of the damage", err)
	}
	if got, err := s.Library(t.Context(), "", nil); err != nil || got != path {
		t.Errorf("Library = %s, %v; want %s repaired", got, err, path)
	}
}

func TestLibraryCannotBeHad(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*setup){
		"index is down": func(s *setup) {
			s.page = func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(503); return true }
		},
		"no such version": func(s *setup) { s.files = map[string][]byte{strings.Replace(ortWheel, "1.24.4", "1.23.0", 1): nil} },
		"no library in it": func(s *setup) {
			s.files[ortWheel] = wheel(t, map[string][]byte{"onnxruntime/capi/readme": []byte("x")})
		},
		"library of another machine": func(s *setup) {
			s.files[ortWheel] = wheel(t, map[string][]byte{"onnxruntime/capi/libonnxruntime.so.1.24.4": sharedLibrary(t, otherArch())})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newLibrarySetup(t)
			change(s)
			if path, err := s.Library(t.Context(), "", nil); !errors.Is(err, hub.ErrNoLibrary) || !strings.Contains(err.Error(), "PELTON_ORT_LIB") {
				t.Errorf("Library = %s, %v; want ErrNoLibrary that names PELTON_ORT_LIB", path, err)
			}
		})
	}
}

// TestLibraryFromGoModule lets the real go command bring the module, as in a fresh clone without a
// package index. Where the module cache has it already, this needs no network.
func TestLibraryFromGoModule(t *testing.T) {
	t.Parallel()
	s := newLibrarySetup(t)
	s.files = nil
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatalf("go env GOMODCACHE: %v", err)
	}
	// GOPATH points elsewhere, so that the cache is not found before the command is run.
	empty := t.TempDir()
	s.cfg.Environ = func(key string) string {
		return map[string]string{"PATH": os.Getenv("PATH"), "GOPATH": empty}[key]
	}
	path, err := s.with(s.cfg).Library(t.Context(), "", nil)
	if err != nil || !strings.HasPrefix(path, strings.TrimSpace(string(out))) {
		t.Fatalf("Library = %s, %v; want the one in the module cache %s", path, err, out)
	}
}
