package model

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// DefaultVariant is the one that Find takes when none is named.
const DefaultVariant = "q8"

// Store is a folder of model folders, Root/NAME/VARIANT. Names that begin with a dot are temporaries
// and never models. Its methods may be called from any goroutine and while other processes use the
// same folder.
type Store struct {
	Root string
}

// Home is the user's home folder, also where the environment does not say it, as in services of the system: what
// is kept and loaded from there must not be in a folder that everybody can write to. A user whom the system does
// not know, as in containers, has a folder for temporary files alone.
func Home() string {
	if home, err := os.UserHomeDir(); err == nil {
		return home
	}
	if u, err := user.Current(); err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir
	}
	return filepath.Join(os.TempDir(), "pelton-"+strconv.Itoa(os.Getuid()))
}

// DefaultRoot is where models are kept when nothing else is said: pelton/models in the user's cache
// folder.
func DefaultRoot() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(Home(), ".cache")
	}
	return filepath.Join(cache, "pelton", "models")
}

// Dir is where a variant lies or would lie. It fails only for names that [CheckName] refuses.
func (s Store) Dir(name, variant string) (string, error) {
	if err := errors.Join(CheckName(name), CheckName(variant)); err != nil {
		return "", err
	}
	if s.Root == "" {
		return "", errors.New("the store has no folder")
	}
	return filepath.Join(s.Root, name, variant), nil
}

// Find opens a variant; with variant "" it takes [DefaultVariant], or else the only one there is. The
// error wraps [ErrNotFound], naming the variants that do exist, or [ErrDamaged].
func (s Store) Find(name, variant string) (dir string, m Manifest, err error) {
	if err := CheckName(name); err != nil {
		return "", Manifest{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if variant == "" {
		variant = s.anyVariant(name)
	}
	dir, err = s.Dir(name, variant)
	if err != nil {
		return "", Manifest{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	m, err = Load(dir)
	if errors.Is(err, ErrNotFound) {
		return "", Manifest{}, fmt.Errorf("%w: %s:%s is not in %s%s", ErrNotFound, name, variant, s.Root, s.others(name))
	}
	if err == nil && (m.Name != name || m.Variant != variant) {
		err = fmt.Errorf("%w: %s holds %s:%s", ErrDamaged, dir, m.Name, m.Variant)
	}
	if err != nil {
		return "", Manifest{}, err
	}
	return dir, m, nil
}

func (s Store) anyVariant(name string) string {
	all := subfolders(filepath.Join(s.Root, name))
	if len(all) == 1 {
		return all[0]
	}
	return DefaultVariant
}

// others tells which variants there are instead.
func (s Store) others(name string) string {
	if all := subfolders(filepath.Join(s.Root, name)); len(all) > 0 {
		return " (it has " + strings.Join(all, ", ") + ")"
	}
	return ""
}

// List returns the manifests of all variants, sorted by name and variant. A store that does not exist
// is empty. Damaged folders are left out of the list and told in the error, which comes with the rest
// of the list.
func (s Store) List() ([]Manifest, error) {
	if _, err := os.ReadDir(s.Root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("models: %w", err)
	}
	var out []Manifest
	var bad []error
	for _, name := range subfolders(s.Root) {
		for _, variant := range subfolders(filepath.Join(s.Root, name)) {
			_, m, err := s.Find(name, variant)
			switch {
			case err == nil:
				out = append(out, m)
			case !errors.Is(err, ErrNotFound): // a folder without manifest is none of ours
				bad = append(bad, err)
			}
		}
	}
	return out, errors.Join(bad...)
}

// subfolders lists what may be a model or a variant, sorted.
func subfolders(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		// A link to a folder counts as one.
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.IsDir() && CheckName(e.Name()) == nil {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out
}

// Remove deletes a variant, damaged or not. It vanishes in one move; workers that have it open keep
// what they have. The error wraps [ErrNotFound] when there is none.
func (s Store) Remove(name, variant string) error {
	dir, err := s.Dir(name, variant)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	trash := filepath.Join(filepath.Dir(dir), fmt.Sprintf(".%s.removed-%d", variant, os.Getpid()))
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove %s:%s: %w", name, variant, err)
	}
	if err := os.Rename(dir, trash); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s:%s is not in %s%s", ErrNotFound, name, variant, s.Root, s.others(name))
	} else if err != nil {
		return fmt.Errorf("remove %s:%s: %w", name, variant, err)
	}
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove %s:%s: %w", name, variant, err)
	}
	// Fails, as it should, while other variants are there.
	_ = os.Remove(filepath.Dir(dir))
	return nil
}

// Scratch makes a hidden folder beside where the variant will lie, for [Store.Place] to move.
func (s Store) Scratch(name, variant string) (string, error) {
	dir, err := s.Dir(name, variant)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(dir), "."+variant+".part-")
	if err != nil {
		return "", err
	}
	return scratch, os.Chmod(scratch, 0o755) // readable by others, as the files in it are
}

// Place moves a finished scratch folder to where Find sees it, in one durable move, and returns its new
// path. The folder is checked first and replaces one that is already there. Callers of Scratch, Place
// and Clean for one model keep others out meanwhile, in other processes too.
func (s Store) Place(scratch string) (dir string, m Manifest, err error) {
	m, err = Load(scratch)
	if err != nil {
		return "", Manifest{}, err
	}
	if dir, err = s.Dir(m.Name, m.Variant); err != nil {
		return "", Manifest{}, err
	}
	if filepath.Dir(scratch) != filepath.Dir(dir) {
		return "", Manifest{}, fmt.Errorf("%s:%s does not belong beside %s", m.Name, m.Variant, scratch)
	}
	if err := s.Remove(m.Name, m.Variant); err != nil && !errors.Is(err, ErrNotFound) {
		return "", Manifest{}, err
	}
	// The names in the folder must be on disk before the folder gets its own.
	if err := syncDir(scratch); err != nil {
		return "", Manifest{}, err
	}
	if err := os.Rename(scratch, dir); err != nil {
		return "", Manifest{}, err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return "", Manifest{}, err
	}
	return dir, m, nil
}

// Clean removes what processes that died left of a model: scratch folders and half-removed variants.
func (s Store) Clean(name string) error {
	dir, err := s.Dir(name, DefaultVariant)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var all []error
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, ".") && (strings.Contains(n, ".part-") || strings.Contains(n, ".removed-")) {
			all = append(all, os.RemoveAll(filepath.Join(filepath.Dir(dir), n)))
		}
	}
	return errors.Join(all...)
}
