package hub_test

import (
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
