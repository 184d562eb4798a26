package hub

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// CheckRedirect lets the tests put the product's rule into a client that trusts a test certificate.
func CheckRedirect(req *http.Request, via []*http.Request) error { return checkRedirect(req, via) }

func TestPickWheel(t *testing.T) {
	t.Parallel()
	names := `onnxruntime-1.24.3-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl
onnxruntime-1.24.4-cp311-cp311-macosx_14_0_arm64.whl
onnxruntime-1.24.4-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl
onnxruntime-1.24.4-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl
onnxruntime-1.24.4-cp311-cp311-win_amd64.whl
onnxruntime-1.24.4-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl
onnxruntime-1.24.4-cp313-cp313t-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl
onnxruntime-1.24.4-cp314-cp314-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl
onnxruntime-1.24.4-cp311-cp311-macosx_13_0_universal2.whl
onnxruntime-1.24.40-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl`
	var files []file
	for name := range strings.Lines(names) {
		name = strings.TrimSpace(name)
		files = append(files, file{Name: name, Yanked: strings.Contains(name, "cp314")})
	}
	for platform, want := range map[string]string{
		"linux/amd64":   "onnxruntime-1.24.4-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
		"linux/arm64":   "onnxruntime-1.24.4-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
		"darwin/arm64":  "onnxruntime-1.24.4-cp311-cp311-macosx_14_0_arm64.whl",
		"darwin/amd64":  "onnxruntime-1.24.4-cp311-cp311-macosx_13_0_universal2.whl",
		"linux/riscv64": "", "plan9/amd64": "",
	} {
		goos, goarch, _ := strings.Cut(platform, "/")
		got, err := pickWheel(files, goos, goarch)
		if got.Name != want || (err == nil) != (want != "") {
			t.Errorf("pickWheel(%s) = %q, %v; want %q", platform, got.Name, err, want)
		}
	}
}

func TestNameOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/x/SmolLM2-135M-Instruct.Q4_1.gguf": "smollm2-135m-instruct", "a-f16.gguf": "a", "b.IQ4_XS.GGUF": "b", "c-Q6_K_L.gguf": "c",
		"qwen2.5-0.5b.gguf": "qwen2.5-0.5b", "f32.gguf": "f32", "é.gguf": "", "a b&c.gguf": "a-b-c",
	} {
		if got := nameOf(path); got != want {
			t.Errorf("nameOf(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestCheckLibraryOfOtherMachines(t *testing.T) {
	t.Parallel()
	for _, goos := range []string{"linux", "darwin"} {
		if err := checkLibrary("binary.go", goos, "amd64"); err == nil || !strings.Contains(err.Error(), "no shared library") {
			t.Errorf("checkLibrary of a text on %s = %v, want an error", goos, err)
		}
	}
	if err := checkLibrary(".", "linux", "amd64"); err == nil {
		t.Error("checkLibrary of a folder: no error")
	}
}

func FuzzIndexPage(f *testing.F) {
	f.Add(`{"files":[{"filename":"a.whl","url":"../a.whl","hashes":{"sha256":"`+strings.Repeat("0", 64)+`"},"yanked":"x"}]}`, true)
	f.Add(`<a href="../a.whl#sha256=`+strings.Repeat("a", 64)+`">a.whl</a>`, false)
	f.Add(`{"files":[{"filename":"..","url":"http://[::1","size":-1}]}`, true)
	page, _ := url.Parse("https://me:secret@example.org/simple/x/")
	f.Fuzz(func(t *testing.T, text string, asJSON bool) {
		all := parseHTML(text)
		if asJSON {
			all, _ = parseJSON([]byte(text))
		}
		for _, got := range usable(all, page) {
			u, err := url.Parse(got.URL)
			if err != nil || (u.Scheme != "https" && u.Scheme != "http") || len(got.SHA256) != 64 || strings.ContainsAny(got.Name, `/\`) || got.Size < 0 {
				t.Errorf("%q: usable file %+v", text, got)
			}
			if u.Host != page.Host && u.User != nil && u.User.Username() == "me" && !strings.Contains(text, "me") {
				t.Errorf("%q: credentials leak to %s", text, u.Host)
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 5-9/10", "bytes */10", "bytes 0-0/1", "", "bytes 9-5/10", "bytes -1--1/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if start, size, ok := contentRange(s); ok && (start < 0 || start >= size) {
			t.Errorf("contentRange(%q) = %d of %d", s, start, size)
		}
	})
}
