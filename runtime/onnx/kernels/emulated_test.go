package kernels_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPTX: what is built in was compiled from the source that lies beside it.
func TestPTX(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("gpu.cu")
	if err != nil {
		t.Fatal(err)
	}
	ptx, err := os.ReadFile("gpu.ptx")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(ptx), "\n")
	if want := fmt.Sprintf("// gpu.cu %x", sha256.Sum256(source)); first != want {
		t.Errorf("gpu.ptx begins with %q, want %q: run make ptx", first, want)
	}
}

// TestDecodeEmulated runs the kernels for GPUs on the host; testdata/emulate.cpp compares them with their definitions.
func TestDecodeEmulated(t *testing.T) {
	t.Parallel()
	compiler := os.Getenv("CXX")
	if compiler == "" {
		compiler = "c++"
	}
	program := filepath.Join(t.TempDir(), "emulate")
	if out, err := exec.CommandContext(t.Context(), compiler, "-std=c++20", "-O1", "-w", "-I.", "testdata/emulate.cpp", "-o", program, "-pthread").CombinedOutput(); err != nil {
		t.Skipf("no compiler for C++20 here: %v: %.300s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program).CombinedOutput()
	t.Logf("%s", out)
	if err != nil || strings.Count(string(out), "splits:") != 5 || strings.Count(string(out), "gate of") != 2 || strings.Count(string(out), "compared") != 2 || strings.Contains(string(out), "FAIL") {
		t.Errorf("the kernels differ from the definition: %v", err)
	}
}

// TestAMXEmulated runs the kernels for AMX with its instructions written out in C; the programs of testdata compare their
// bits with the definition. On a processor that has AMX, TestBlockProduct and TestAttention run them too.
func TestAMXEmulated(t *testing.T) {
	t.Parallel()
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	for _, c := range []struct {
		sources []string
		says    string
		times   int
	}{
		{[]string{"testdata/emulate_amx.c"}, "216 products compared", 1},
		{[]string{"testdata/emulate_attention.c", "attention_bfloats.c"}, "numbers: same", 5},
	} {
		program := filepath.Join(t.TempDir(), "emulate")
		args := append(append([]string{"-std=c11", "-O1", "-w", "-I."}, c.sources...), "-o", program, "-lm")
		if out, err := exec.CommandContext(t.Context(), compiler, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %.1000s", err, out)
		}
		out, err := exec.CommandContext(t.Context(), program).CombinedOutput()
		t.Logf("%s", out)
		if err != nil || strings.Count(string(out), c.says) != c.times || strings.Contains(string(out), "FAIL") {
			t.Errorf("%s: the kernels differ from the definition: %v", c.sources[0], err)
		}
	}
}
