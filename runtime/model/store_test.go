package model_test

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/model"
)

func store(t *testing.T, refs ...string) model.Store {
	t.Helper()
	s := model.Store{Root: t.TempDir()}
	for _, ref := range refs {
		name, variant, _ := strings.Cut(ref, ":")
		folder(t, filepath.Join(s.Root, name, variant), valid(name, variant))
	}
	return s
}

func TestStoreList(t *testing.T) {
	t.Parallel()
	s := store(t, "b:q8", "a:q8", "a:fp32")
	// None of these is a model.
	folder(t, filepath.Join(s.Root, "a", ".q4.part-1"), valid("a", "q4"))
	folder(t, filepath.Join(s.Root, ".lock"), valid("a", "q4"))
	_ = os.MkdirAll(filepath.Join(s.Root, "empty", "q8"), 0o755)
	write(t, filepath.Join(s.Root, "a", "notes.txt"), "x")
	list, err := s.List()
	var got []string
	for _, m := range list {
		got = append(got, m.Name+":"+m.Variant)
	}
	if want := "a:fp32 a:q8 b:q8"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("List = %v, %v; want %s", got, err, want)
	}

	write(t, filepath.Join(s.Root, "a", "q8", model.WeightsFile), "")
	list, err = s.List()
	if !errors.Is(err, model.ErrDamaged) || len(list) != 2 {
		t.Errorf("List = %d models, %v; want the 2 good ones and ErrDamaged", len(list), err)
	}

	list, err = model.Store{Root: filepath.Join(s.Root, "nowhere")}.List()
	if err != nil || len(list) != 0 {
		t.Errorf("List of no folder = %v, %v; want nothing", list, err)
	}
	if _, err = (model.Store{Root: filepath.Join(s.Root, "a", "notes.txt")}).List(); err == nil {
		t.Error("List of a file: no error")
	}
}

func TestStoreFind(t *testing.T) {
	t.Parallel()
	s := store(t, "two:q8", "two:fp32", "one:fp32")
	folder(t, filepath.Join(s.Root, "moved", "q8"), valid("two", "q8"))
	for ref, want := range map[string]string{"two:": "two/q8", "two:fp32": "two/fp32", "one:": "one/fp32"} {
		name, variant, _ := strings.Cut(ref, ":")
		dir, m, err := s.Find(name, variant)
		if err != nil || dir != filepath.Join(s.Root, want) || m.Name+"/"+m.Variant != want {
			t.Errorf("Find(%s) = %s, %s:%s, %v; want %s", ref, dir, m.Name, m.Variant, err, want)
		}
	}
	for ref, say := range map[string]string{"two:q4": "it has fp32, q8", "three:": "three:q8", "three:q4": "three:q4"} {
		name, variant, _ := strings.Cut(ref, ":")
		if _, _, err := s.Find(name, variant); !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), say) {
			t.Errorf("Find(%s) = %v, want ErrNotFound that says %q", ref, err, say)
		}
	}
	if _, _, err := s.Find("moved", "q8"); !errors.Is(err, model.ErrDamaged) {
		t.Errorf("Find of a folder in the wrong place = %v, want ErrDamaged", err)
	}
}

func TestStoreNamesCannotEscape(t *testing.T) {
	t.Parallel()
	s := store(t, "a:q8")
	outside := folder(t, filepath.Join(filepath.Dir(s.Root), "outside", "q8"), valid("outside", "q8"))
	for _, name := range []string{"", ".", "..", "../outside", "a/../../outside", "/etc", `..\outside`, "a\x00", ".hidden", "a.", "a b", strings.Repeat("x", 101), "ä"} {
		if dir, _, err := s.Find(name, "q8"); !errors.Is(err, model.ErrNotFound) {
			t.Errorf("Find(%q) = %s, %v; want ErrNotFound", name, dir, err)
		}
		if err := s.Remove(name, "q8"); !errors.Is(err, model.ErrNotFound) {
			t.Errorf("Remove(%q) = %v; want ErrNotFound", name, err)
		}
		if name == "" {
			continue // Find chooses the variant itself
		}
		if dir, _, err := s.Find("a", name); !errors.Is(err, model.ErrNotFound) {
			t.Errorf("Find(a, %q) = %s, %v; want ErrNotFound", name, dir, err)
		}
	}
	if _, err := model.Load(outside); err != nil {
		t.Errorf("the folder outside the store: %v", err)
	}
}

func TestStoreRemove(t *testing.T) {
	t.Parallel()
	s := store(t, "a:q8", "a:fp32")
	write(t, filepath.Join(s.Root, "a", "fp32", model.ManifestFile), "damaged")
	for _, variant := range []string{"fp32", "q8"} {
		if err := s.Remove("a", variant); err != nil {
			t.Errorf("Remove(a, %s) = %v", variant, err)
		}
		if err := s.Remove("a", variant); !errors.Is(err, model.ErrNotFound) {
			t.Errorf("second Remove(a, %s) = %v, want ErrNotFound", variant, err)
		}
	}
	left, err := os.ReadDir(s.Root)
	if err != nil || len(left) != 0 {
		t.Errorf("the store holds %v, %v after everything was removed; want nothing", left, err)
	}
}

func TestDefaultRoot(t *testing.T) {
	t.Parallel()
	if got := model.DefaultRoot(); !strings.HasSuffix(got, filepath.Join("pelton", "models")) || !filepath.IsAbs(got) {
		t.Errorf("DefaultRoot() = %q, want an absolute path that ends in pelton/models", got)
	}
	if _, err := (model.Store{}).Dir("a", "q8"); err == nil {
		t.Error("Dir of a store without folder: no error")
	}
}

func TestStorePlace(t *testing.T) {
	t.Parallel()
	s := store(t, "a:q8")
	write(t, filepath.Join(s.Root, "a", "q8", model.WeightsFile), "damaged")
	for _, ref := range []string{"a:q8", "a:q4", "b:q8"} {
		name, variant, _ := strings.Cut(ref, ":")
		scratch, err := s.Scratch(name, variant)
		if err != nil {
			t.Fatal(err)
		}
		folder(t, scratch, valid(name, variant))
		dir, m, err := s.Place(scratch)
		if err != nil || dir != filepath.Join(s.Root, name, variant) || m.Name != name || m.Variant != variant {
			t.Errorf("Place of %s = %s, %s:%s, %v", ref, dir, m.Name, m.Variant, err)
		}
		if _, _, err := s.Find(name, variant); err != nil {
			t.Errorf("Find(%s) after Place: %v", ref, err)
		}
	}
}

func TestStorePlaceRefuses(t *testing.T) {
	t.Parallel()
	s := store(t)
	scratch, err := s.Scratch("a", "q8")
	if err != nil {
		t.Fatal(err)
	}
	if dir, _, err := s.Place(scratch); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("Place of an empty folder = %s, %v; want ErrNotFound", dir, err)
	}
	folder(t, scratch, valid("b", "q8"))
	if dir, _, err := s.Place(scratch); err == nil {
		t.Errorf("Place of model b beside model a = %s, want an error", dir)
	}
	if _, err := s.Scratch("..", "q8"); err == nil {
		t.Error("Scratch of model ..: no error")
	}
}

func TestStoreClean(t *testing.T) {
	t.Parallel()
	s := store(t, "a:q8")
	for range 2 {
		scratch, err := s.Scratch("a", "q4")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(scratch, "x"), "x")
	}
	_ = os.Mkdir(filepath.Join(s.Root, "a", ".q4.removed-17"), 0o755)
	if err := errors.Join(s.Clean("a"), s.Clean("nobody")); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(filepath.Join(s.Root, "a"))
	if len(left) != 1 || left[0].Name() != "q8" {
		t.Errorf("Clean left %v, want only q8", left)
	}
}

// Without HOME, as in a service of the system, models and libraries are not taken from a folder that everybody can
// write to.
func TestDefaultRootWithoutHome(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	u, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	if got, want := model.DefaultRoot(), filepath.Join(u.HomeDir, ".cache", "pelton", "models"); got != want {
		t.Errorf("DefaultRoot = %s, want %s", got, want)
	}
}
