package hub_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/model"
)

// exported is a folder as Optimum leaves it: testdata of runtime/onnx, unpacked.
func exported(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "My Model")
	if err := os.CopyFS(dir, zipped(t, name)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	folder := exported(t, "optimum-int8")
	dir, m, err := s.Ensure(t.Context(), s.store, folder, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "my-model" || m.Variant != "int8" || m.Source.URL != folder || m.Graph == nil {
		t.Errorf("manifest %+v", m)
	}
	if err := model.Verify(t.Context(), dir, m); err != nil {
		t.Error(err)
	}
	if _, again, err := s.Ensure(t.Context(), s.store, folder, "onnx/model_quantized.onnx", nil); err != nil || again.Created != m.Created {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	if _, found, err := s.store.Find("my-model", ""); err != nil || found.Variant != "int8" {
		t.Errorf("Find = %+v, %v", found, err)
	}
	graph := filepath.Join(folder, "onnx", "model_quantized.onnx")
	b, err := os.ReadFile(graph)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, 0x12, 0x01, 'x') // another producer_name
	if err := os.WriteFile(graph, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Ensure(t.Context(), s.store, folder, "", nil); err == nil || !strings.Contains(err.Error(), "made from other files") {
		t.Errorf("a changed folder: %v", err)
	}
	if err := model.Verify(t.Context(), dir, m); err != nil {
		t.Errorf("a change of the original reached the store: %v", err)
	}
}

// A model that was trained on has the same graph and other weights beside it.
func TestAdoptOtherWeights(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	folder := exported(t, "genai-fp32")
	if _, _, err := s.Ensure(t.Context(), s.store, folder, "", nil); err != nil {
		t.Fatal(err)
	}
	weights := filepath.Join(folder, "model.onnx.data")
	b, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(weights, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, m, err := s.Ensure(t.Context(), s.store, folder, "", nil); err == nil || !strings.Contains(err.Error(), "made from other files") {
		t.Errorf("other weights: the old model of %s, %v", m.Created, err)
	}
}

// What is in the store already is served from one that cannot be written.
func TestStoreOnlyRead(t *testing.T) {
	t.Parallel()
	h := newHugging(t, map[string][]byte{"Tiny.Q8_0.gguf": tinyGGUF(t)})
	gguf, folder := filepath.Join(t.TempDir(), "local.gguf"), exported(t, "optimum-int8")
	if err := os.WriteFile(gguf, tinyGGUF(t), 0o600); err != nil {
		t.Fatal(err)
	}
	exports := newHugging(t, filesOf(t, "optimum-int8", ""))
	for _, c := range []struct {
		hub  *hugging
		name string
	}{{h, ref}, {h, gguf}, {h, folder}, {exports, ref + ":onnx"}} {
		root := t.TempDir()
		store := model.Store{Root: filepath.Join(root, "models")}
		_, first, err := c.hub.hub(nil).Ensure(t.Context(), store, c.name, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		// Tests may run as a user who can write everywhere: where locks and downloads would be is something else.
		lock := filepath.Join(store.Root, "."+first.Name+".lock")
		if err := errors.Join(os.RemoveAll(filepath.Join(root, "downloads")), os.WriteFile(filepath.Join(root, "downloads"), nil, 0o600), os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
			t.Fatal(err)
		}
		if _, m, err := c.hub.hub(nil).Ensure(t.Context(), store, c.name, "", nil); err != nil || !m.Created.Equal(first.Created) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A hub's new commit with the same file needs no download.
func TestFetchSameFileOfNewCommit(t *testing.T) {
	t.Parallel()
	h := newHugging(t, map[string][]byte{"Tiny.Q8_0.gguf": tinyGGUF(t)})
	root := t.TempDir()
	store := model.Store{Root: filepath.Join(root, "models")}
	if _, _, err := h.hub(nil).Ensure(t.Context(), store, ref, "", nil); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(root, "downloads", "hf", "org--Tiny-GGUF")
	if err := os.Rename(filepath.Join(folder, commit), filepath.Join(folder, strings.Repeat("e", 40))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.hub(nil).Ensure(t.Context(), store, ref, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, fetched, _ := h.log(); len(fetched) != 1 {
		t.Errorf("fetched %q, want it once", fetched)
	}
}
