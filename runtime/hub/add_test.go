package hub_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
)

// graphFolder is a folder with the files named, whose contents are their names: of graphs, that of their output.
func graphFolder(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		content := n
		if strings.HasSuffix(n, ".onnx") {
			content = graphOf(n, "")
		}
		if err := os.WriteFile(filepath.Join(dir, n), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// graphOf is an ONNX file with an output of that name and, unless "", weights in another file.
func graphOf(output, weights string) string {
	sub := func(number byte, content string) string {
		return string([]byte{number<<3 | 2, byte(len(content))}) + content
	}
	graph := sub(12, sub(1, output))
	if weights != "" {
		graph += sub(5, sub(8, "w")+sub(13, sub(1, "location")+sub(2, weights)))
	}
	return sub(7, graph)
}

// Weights are found by the names that the graph gives, and through links, as caches keep them.
func TestAddWeightsOfGraph(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		weights, link, path, says string
	}{
		"a file, odd weights":        {weights: "net weights.bin", path: "net.onnx", says: "no plain file name"},
		"a file":                     {weights: "other.weights", path: "net.onnx"},
		"a file, a link":             {weights: "other.weights", link: "other.weights", path: "net.onnx"},
		"a folder, a link":           {weights: "other.weights", link: "other.weights"},
		"a folder, all links":        {weights: "other.weights", link: "net.onnx other.weights"},
		"weights that are not there": {weights: "", path: "net.onnx", says: "gone.bin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir, elsewhere := newSetup(t), t.TempDir(), t.TempDir()
			named := c.weights
			if named == "" {
				named = "gone.bin"
			}
			files := map[string]string{"net.onnx": graphOf("y", named)}
			if c.weights != "" {
				files[c.weights] = "numbers"
			}
			for n, content := range files {
				at := filepath.Join(dir, n)
				if strings.Contains(c.link, n) {
					at = filepath.Join(elsewhere, n)
					if err := os.Symlink(at, filepath.Join(dir, n)); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			added, _, err := s.Add(t.Context(), s.store, filepath.Join(dir, c.path), described("net"), nil)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want an error that says %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(added, c.weights)); err != nil || string(b) != "numbers" {
				t.Errorf("weights %q, %v", b, err)
			}
		})
	}
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
		"a folder":                 {[]string{"net.onnx", "some notes.txt", "x.data"}, "", "model.onnx"},
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
			if content, err := os.ReadFile(filepath.Join(dir, model.GraphFile)); err != nil || !strings.Contains(string(content), filepath.Base(m.Source.URL)) {
				t.Errorf("the graph is that of %s, %v; the manifest says %s", content, err, m.Source.URL)
			}
		})
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	if _, err := s.store.Scratch("taken", hub.AddedVariant); err != nil { // of a process that died
		t.Fatal(err)
	}
	if _, _, err := s.Add(t.Context(), s.store, graphFolder(t, "a.onnx"), described("taken"), nil); err != nil {
		t.Fatal(err)
	}
	// Another model, damaged, does not keep the check from seeing the one that is there.
	if err := errors.Join(os.MkdirAll(filepath.Join(s.store.Root, "broken", "onnx"), 0o700), os.WriteFile(filepath.Join(s.store.Root, "broken", "onnx", model.ManifestFile), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe.onnx")
	makePipe(t, pipe)
	if _, _, err := s.Pull(t.Context(), s.store, pipe, "", "", nil); err == nil || !strings.Contains(err.Error(), "is no file") {
		t.Errorf("Pull of a pipe: %v", err)
	}
	manifestWeights := graphFolder(t, model.ManifestFile)
	if err := os.WriteFile(filepath.Join(manifestWeights, "a.onnx"), []byte(graphOf("y", model.ManifestFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, model, says string
	}{
		"a name that is taken":  {graphFolder(t, "a.onnx"), "taken", "pelton model rm taken:onnx"},
		"a name that is a way":  {graphFolder(t, "a.onnx"), "../x", "name"},
		"a pipe":                {pipe, "net", "is no file"},
		"no graph":              {graphFolder(t, "a.txt"), "net", "0 .onnx files"},
		"two graphs":            {graphFolder(t, "a.onnx", "b.onnx"), "net", "2 .onnx files"},
		"weights as a manifest": {manifestWeights, "net", "rename it"},
		"two that would be it":  {graphFolder(t, "a.onnx.data", "a.onnx") + "/none.onnx", "net", "no such file"},
	} {
		_, _, err := s.Add(t.Context(), s.store, c.path, described(c.model), nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
	much := described("net")
	much.MaxBatch = -1
	copied := false
	if _, _, err := s.Add(t.Context(), s.store, graphFolder(t, "a.onnx"), much, func(hub.Event) { copied = true }); err == nil || !strings.Contains(err.Error(), "max_batch") || copied {
		t.Errorf("a manifest that is none: %v, copied before it was looked at: %v", err, copied)
	}
	if all, err := s.store.List(); !errors.Is(err, model.ErrDamaged) || len(all) != 1 {
		t.Errorf("after the refusals the store has %d models, %v", len(all), err)
	}
	left, err := filepath.Glob(filepath.Join(s.store.Root, "*", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("scratch folders are left: %v, %v", left, err)
	}
}
