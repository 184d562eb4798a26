package model_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/runtime/model"
)

var contents = map[string]string{
	model.GraphFile: "graph", model.WeightsFile: "weights weights", model.TokenizerFile: "{}", model.ChatTemplateFile: "hi",
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func valid(name, variant string) model.Manifest {
	m := model.Manifest{
		Format: model.Format, Name: name, Variant: variant, Architecture: "llama", Parameters: 1000,
		Shape:   model.Shape{Layers: 2, Hidden: 64, Heads: 4, KVHeads: 2, HeadDim: 16, FFN: 128, Vocab: 300, ContextLength: 512},
		EOS:     []int32{2, 0},
		Source:  model.Source{URL: "https://example.org/x.gguf", SHA256: sum("x"), License: "Apache-2.0"},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	for _, f := range []string{model.GraphFile, model.WeightsFile, model.TokenizerFile, model.ChatTemplateFile} {
		m.Files = append(m.Files, model.File{Name: f, Size: int64(len(contents[f])), SHA256: sum(contents[f])})
	}
	return m
}

// folder writes a whole model folder and returns its path.
func folder(t *testing.T, dir string, m model.Manifest) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range contents {
		write(t, filepath.Join(dir, name), text)
	}
	if err := model.Write(dir, m); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWriteLoadVerify(t *testing.T) {
	t.Parallel()
	m := valid("tiny", "q8")
	m.Format = 0 // Write sets it
	dir := folder(t, t.TempDir(), m)
	got, err := model.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(valid("tiny", "q8"), got); diff != "" {
		t.Errorf("Load after Write (-want +got):\n%s", diff)
	}
	if err := model.Verify(t.Context(), dir, got); err != nil {
		t.Errorf("Verify: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) > 0 {
		t.Errorf("Write left %v behind", left)
	}
}

// TestFormats: which folders of older versions are read.
func TestFormats(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format int
		change func(*model.Manifest)
		read   bool
	}{
		{model.Format, func(*model.Manifest) {}, true},
		{model.Format + 1, func(*model.Manifest) {}, false},
		{3, func(*model.Manifest) {}, true},
		{3, func(m *model.Manifest) { m.Shape.KVWidth, m.Shape.PageTokens = 2, 256 }, true},
		{2, func(*model.Manifest) {}, true},
		{2, func(m *model.Manifest) { m.Shape.KVWidth, m.Shape.PageTokens = 2, 256 }, false},
		{1, func(*model.Manifest) {}, false},
	} {
		m := valid("tiny", "q8")
		m.Format = c.format
		c.change(&m)
		if err := m.Validate(); (err == nil) != c.read {
			t.Errorf("format %d, pages of %d tokens: %v, want it read: %v", c.format, m.Shape.PageTokens, err, c.read)
		}
	}
}

func TestLoadDamaged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		err    error
		say    string
	}{
		"no folder":      {func(t *testing.T, dir string) { _ = os.RemoveAll(dir) }, model.ErrNotFound, model.ManifestFile},
		"no manifest":    {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, model.ManifestFile)) }, model.ErrNotFound, model.ManifestFile},
		"empty manifest": {func(t *testing.T, dir string) { write(t, filepath.Join(dir, model.ManifestFile), "") }, model.ErrDamaged, "manifest.json"},
		"cut manifest":   {func(t *testing.T, dir string) { write(t, filepath.Join(dir, model.ManifestFile), `{"format":1,"na`) }, model.ErrDamaged, "manifest.json"},
		"two documents":  {func(t *testing.T, dir string) { write(t, filepath.Join(dir, model.ManifestFile), `{}{}`) }, model.ErrDamaged, "manifest.json"},
		"wrong types": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, model.ManifestFile), `{"format":1,"name":7}`)
		}, model.ErrDamaged, "name"},
		"newer format": {func(t *testing.T, dir string) { write(t, filepath.Join(dir, model.ManifestFile), `{"format":99}`) }, model.ErrDamaged, "format 99"},
		"huge manifest": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, model.ManifestFile), strings.Repeat(" ", 2<<20))
		}, model.ErrDamaged, "larger"},
		"missing weights": {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, model.WeightsFile)) }, model.ErrDamaged, "weights.bin"},
		"short weights":   {func(t *testing.T, dir string) { write(t, filepath.Join(dir, model.WeightsFile), "weights") }, model.ErrDamaged, "7 bytes, not 15"},
		"weights is a folder": {func(t *testing.T, dir string) {
			_ = os.Remove(filepath.Join(dir, model.WeightsFile))
			_ = os.Mkdir(filepath.Join(dir, model.WeightsFile), 0o755)
		}, model.ErrDamaged, "is no file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, t.TempDir(), valid("tiny", "q8"))
			c.damage(t, dir)
			_, err := model.Load(dir)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("Load = %v, want %v that says %q", err, c.err, c.say)
			}
		})
	}
}

func TestVerifyFindsOneFlippedByte(t *testing.T) {
	t.Parallel()
	m := valid("tiny", "q8")
	dir := folder(t, t.TempDir(), m)
	write(t, filepath.Join(dir, model.WeightsFile), "weights Weights")
	if err := model.Verify(t.Context(), dir, m); !errors.Is(err, model.ErrDamaged) || !strings.Contains(err.Error(), model.WeightsFile) {
		t.Errorf("Verify = %v, want ErrDamaged that names %s", err, model.WeightsFile)
	}
	_ = os.Remove(filepath.Join(dir, model.WeightsFile))
	if err := model.Verify(t.Context(), dir, m); !errors.Is(err, model.ErrDamaged) {
		t.Errorf("Verify without the file = %v, want ErrDamaged", err)
	}
}

func TestVerifyCanceled(t *testing.T) {
	t.Parallel()
	m := valid("tiny", "q8")
	dir := folder(t, t.TempDir(), m)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the user left")
	cancel(cause)
	if err := model.Verify(ctx, dir, m); !errors.Is(err, cause) || errors.Is(err, model.ErrDamaged) {
		t.Errorf("Verify = %v, want only %v", err, cause)
	}
}

func TestValidateTellsEverything(t *testing.T) {
	t.Parallel()
	for say, change := range map[string]func(m *model.Manifest){
		"model name":                   func(m *model.Manifest) { m.Name = "../x" },
		"variant name":                 func(m *model.Manifest) { m.Variant = "" },
		"architecture name":            func(m *model.Manifest) { m.Architecture = "a b" },
		"parameters 0":                 func(m *model.Manifest) { m.Parameters = 0 },
		"layers 0":                     func(m *model.Manifest) { m.Shape.Layers = 0 },
		"vocab -1":                     func(m *model.Manifest) { m.Shape.Vocab = -1 },
		"context_length 1099511627776": func(m *model.Manifest) { m.Shape.ContextLength = 1 << 40 },
		"no multiple of":               func(m *model.Manifest) { m.Shape.KVHeads = 3 },
		"eos token 300":                func(m *model.Manifest) { m.EOS = []int32{300} },
		"eos token -1":                 func(m *model.Manifest) { m.EOS = []int32{-1} },
		"eos: 65":                      func(m *model.Manifest) { m.EOS = make([]int32, 65) },
		"source sha256":                func(m *model.Manifest) { m.Source.SHA256 = "abc" },
		"not a name of a file":         func(m *model.Manifest) { m.Files[0].Name = "../../etc/passwd" },
		"listed twice":                 func(m *model.Manifest) { m.Files[0] = m.Files[1] },
		"model.onnx is not listed":     func(m *model.Manifest) { m.Files = m.Files[1:] },
		"size -1":                      func(m *model.Manifest) { m.Files[0].Size = -1 },
		"is no checksum":               func(m *model.Manifest) { m.Files[0].SHA256 = strings.ToUpper(m.Files[0].SHA256) },
		"65 of them":                   func(m *model.Manifest) { m.Files = make([]model.File, 65) },
	} {
		m := valid("tiny", "q8")
		change(&m)
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("Validate = %v, want it to say %q", err, say)
		}
		if err := model.Write(t.TempDir(), m); err == nil {
			t.Errorf("Write of a manifest with %q wrong: no error", say)
		}
	}
	bad := valid("a/b", "q8")
	bad.Parameters = -3
	if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), "a/b") || !strings.Contains(err.Error(), "-3") {
		t.Errorf("Validate = %v, want both faults", err)
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	a := model.Fingerprint(valid("tiny", "q8"))
	renamed := valid("other", "q4")
	renamed.Files[2].SHA256 = sum("another tokenizer")
	if got := model.Fingerprint(renamed); got != a || len(a) != 16 {
		t.Errorf("fingerprint %q of equal weights, want %q of 16 digits", got, a)
	}
	for i := range 2 {
		m := valid("tiny", "q8")
		m.Files[i].SHA256 = sum("changed")
		if got := model.Fingerprint(m); got == a {
			t.Errorf("fingerprint %q stayed when %s changed", got, m.Files[i].Name)
		}
	}
}

func FuzzManifest(f *testing.F) {
	raw, _ := json.Marshal(valid("tiny", "q8"))
	f.Add(raw)
	f.Add([]byte(`{"format":1,"files":[{"name":"..","size":-1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, model.ManifestFile), string(raw))
		m, err := model.Load(dir)
		if err == nil && m.Validate() != nil {
			t.Errorf("Load(%q) let an invalid manifest pass", raw)
		}
	})
}
