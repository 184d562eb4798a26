package hub_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/model"
)

// graphFolder is a folder with the files named, whose contents are their names.
func graphFolder(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// described is the manifest of a model with an input and an output.
func described(name string) model.Manifest {
	port := []model.Port{{Name: "x", Type: "FP32", Shape: []int64{-1}}}
	return model.Manifest{Name: name, MaxBatch: 4, Inputs: port, Outputs: port}
}

func TestAdd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files []string
		path  string // in the folder
		want  string // files in the store, beside the manifest
	}{
		"a file":                   {[]string{"net.onnx", "other.onnx", "notes.txt"}, "net.onnx", "model.onnx"},
		"a file, its data":         {[]string{"net.onnx", "net.onnx.data", "net.onnx_data", "net.data", "x.data"}, "net.onnx", "model.onnx net.data net.onnx.data net.onnx_data"},
		"a folder, all beside it":  {[]string{"net.onnx", "weights.bin"}, "", "model.onnx weights.bin"},
		"a graph named model.onnx": {[]string{"model.onnx"}, "model.onnx", "model.onnx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			dir, m, err := s.Add(t.Context(), s.store, filepath.Join(graphFolder(t, c.files...), c.path), described("net"), nil)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			entries, err := os.ReadDir(dir)
			for _, e := range entries {
				if e.Name() != model.ManifestFile {
					names = append(names, e.Name())
				}
			}
			if got := strings.Join(names, " "); err != nil || got != c.want {
				t.Errorf("the store holds %s, %v; want %s", got, err, c.want)
			}
			if err := model.Verify(t.Context(), dir, m); err != nil || m.Kind != model.KindTensor || m.MaxBatch != 4 || m.Source.SHA256 == "" {
				t.Errorf("manifest %+v, %v", m, err)
			}
			if content, err := os.ReadFile(filepath.Join(dir, model.GraphFile)); err != nil || !strings.HasSuffix(m.Source.URL, string(content)) {
				t.Errorf("the graph is that of %s, %v; the manifest says %s", content, err, m.Source.URL)
			}
		})
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	if _, _, err := s.Add(t.Context(), s.store, graphFolder(t, "a.onnx"), described("taken"), nil); err != nil {
		t.Fatal(err)
	}
	// Another model, damaged, does not keep the check from seeing the one that is there.
	if err := errors.Join(os.MkdirAll(filepath.Join(s.store.Root, "broken", "onnx"), 0o700), os.WriteFile(filepath.Join(s.store.Root, "broken", "onnx", model.ManifestFile), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, model, says string
	}{
		"a name that is taken": {graphFolder(t, "a.onnx"), "taken", "pelton model rm taken:onnx"},
		"a name that is a way": {graphFolder(t, "a.onnx"), "../x", "name"},
		"no graph":             {graphFolder(t, "a.txt"), "net", "0 .onnx files"},
		"two graphs":           {graphFolder(t, "a.onnx", "b.onnx"), "net", "2 .onnx files"},
		"a manifest beside it": {graphFolder(t, "a.onnx", model.ManifestFile), "net", "rename it"},
		"two that would be it": {graphFolder(t, "a.onnx.data", "a.onnx") + "/none.onnx", "net", "no such file"},
	} {
		_, _, err := s.Add(t.Context(), s.store, c.path, described(c.model), nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
	if all, err := s.store.List(); !errors.Is(err, model.ErrDamaged) || len(all) != 1 {
		t.Errorf("after the refusals the store has %d models, %v", len(all), err)
	}
	left, err := filepath.Glob(filepath.Join(s.store.Root, "*", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("scratch folders are left: %v, %v", left, err)
	}
}
