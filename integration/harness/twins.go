package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/model"
)

// DefaultModel is the name of the model that the tests use; `make race` fetches it.
const DefaultModel = "smollm2-135m-instruct"

// Twins makes a folder of models that are the default one under other names.
func Twins(t testing.TB, names ...string) (root string) {
	t.Helper()
	dir, m, err := model.Store{Root: model.DefaultRoot()}.Find(DefaultModel, "q8")
	if err != nil {
		t.Fatalf("the default model is needed, `pelton model pull smollm2` fetches it: %v", err)
	}
	root = t.TempDir()
	for _, name := range names {
		to := filepath.Join(root, name, "q8")
		if err := os.MkdirAll(to, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range m.Files {
			if err := os.Symlink(filepath.Join(dir, f.Name), filepath.Join(to, f.Name)); err != nil {
				t.Fatal(err)
			}
		}
		manifest, err := os.ReadFile(filepath.Join(dir, model.ManifestFile))
		if err != nil {
			t.Fatal(err)
		}
		manifest = []byte(strings.Replace(string(manifest), `"name": "`+DefaultModel+`"`, `"name": "`+name+`"`, 1))
		if err := os.WriteFile(filepath.Join(to, model.ManifestFile), manifest, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
