package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pelton-run/pelton/runtime/adopt"
	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub/repo"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
)

// Fetch brings a model of a Hugging Face hub, "hf:org/name[@revision][:file]", into the store: a GGUF file
// is converted to variant ("" is the default one), an exported ONNX decoder is taken as it is. The commit
// that the revision stands for is resolved first, so that all files are of one; each is checked against
// the hub's checksum. When the hub does not answer, or no longer shows the model, one that was fetched by the
// same reference is returned from the store.
func (h *Hub) Fetch(ctx context.Context, store model.Store, ref, variant string, p Progress) (dir string, m model.Manifest, err error) {
	r, err := repo.ParseRef(ref)
	if err != nil {
		return "", model.Manifest{}, err
	}
	a, err := readAccount(h.cfg.Environ)
	if err != nil {
		return "", model.Manifest{}, err
	}
	p.report("looking up "+r.ID, 0, 0)
	v := visit{hub: h, account: a, ref: r, progress: p}
	s, err := v.look(ctx)
	if (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrAccess)) && ctx.Err() == nil {
		if dir, m, ok := fetched(store, r, variant); ok {
			p.report(fmt.Sprintf("%v: taking %s:%s from the store", err, m.Name, m.Variant), 0, 0)
			return dir, m, nil
		}
	}
	if err != nil {
		return "", model.Manifest{}, err
	}
	choice, err := repo.Choose(s.files, r.File)
	if err != nil {
		return "", model.Manifest{}, fmt.Errorf("%s: %w", r, err)
	}
	if choice.GGUF != "" && variant == "" {
		variant = fastest()
	}
	if choice.GGUF != "" { // before gigabytes are fetched for it
		if err := checkVariant(nameFor(h.cfg.Catalog, r), variant, convert.Variants()); err != nil {
			return "", model.Manifest{}, err
		}
	}
	folder := filepath.Join(downloads(store), "hf", strings.ReplaceAll(r.ID, "/", "--"))
	c := &checkout{visit: v, snapshot: s, folder: filepath.Join(folder, s.commit), variant: variant}
	if dir, m, ok := c.stored(store, choice, variant); ok {
		return dir, m, nil
	}
	unlock, err := lock(ctx, filepath.Join(folder, ".lock"), p)
	if err != nil {
		return "", model.Manifest{}, err
	}
	defer unlock()
	if err := c.fetch(ctx, choice); err != nil {
		return "", model.Manifest{}, fmt.Errorf("%s: %w", r, err)
	}
	source := model.Source{URL: sourceURL(r, s.commit, choice.GGUF+choice.Graph), License: s.license}
	if choice.GGUF != "" {
		return h.pullGGUF(ctx, store, c.at(choice.GGUF), nameFor(h.cfg.Catalog, r), variant, source, p)
	}
	base := c.at(choice.Base)
	graph, err := filepath.Rel(base, c.at(choice.Graph))
	if err != nil {
		return "", model.Manifest{}, err
	}
	return h.adopt(ctx, store, base, nameFor(h.cfg.Catalog, r), graph, source, true, p)
}

// sourceURL is what the manifest says; fetched finds models by its start and its end.
func sourceURL(r repo.Ref, commit, file string) string {
	return "hf:" + r.ID + "@" + commit + ":" + file + "#" + r.Revision
}

// fetched finds a model in the store that came from the same reference.
func fetched(store model.Store, r repo.Ref, variant string) (string, model.Manifest, bool) {
	list, _ := store.List() // what is damaged is not there
	for _, m := range list {
		from, revision, _ := strings.Cut(m.Source.URL, "#")
		rest, ok := strings.CutPrefix(from, "hf:"+r.ID+"@")
		commit, file, _ := strings.Cut(rest, ":")
		if ok && (revision == r.Revision || commit == r.Revision) && (r.File == "" || file == r.File || strings.HasPrefix(file, r.File+"/")) && (variant == "" || variant == m.Variant || m.Graph != nil) {
			if dir, err := store.Dir(m.Name, m.Variant); err == nil {
				return dir, m, true
			}
		}
	}
	return "", model.Manifest{}, false
}

// nameFor is what a fetched model is called in the store: as the repository, and never as a model of the catalog,
// which is another one even if the names are alike.
func nameFor(catalog []Entry, r repo.Ref) string {
	name := shortName(path.Base(r.ID))
	if _, taken := lookup(catalog, name); taken {
		name = shortName(strings.ReplaceAll(r.ID, "/", "-"))
	}
	return name
}

// shortName is the name of a repository without its format.
func shortName(of string) string {
	name := nameOf(of + ".gguf")
	for _, end := range []string{"-gguf", "-onnx"} {
		if short := strings.TrimSuffix(name, end); short != "" {
			name = short
		}
	}
	return name
}

// checkout fetches files of one commit into a folder.
type checkout struct {
	visit
	snapshot snapshot
	folder   string
	variant  string // that a GGUF file is converted to
}

// at is where a file of the repository lies.
func (c *checkout) at(name string) string { return filepath.Join(c.folder, filepath.FromSlash(name)) }

// stored finds what was made of the same files in the store: then nothing is fetched, and nothing written.
func (c *checkout) stored(store model.Store, choice repo.Choice, variant string) (string, model.Manifest, bool) {
	if choice.GGUF == "" { // the commit stands for all files of an export
		return fetched(store, repo.Ref{ID: c.ref.ID, Revision: c.snapshot.commit, File: choice.Graph}, "")
	}
	f, _ := c.find(choice.GGUF)
	dir, m, err := store.Find(nameFor(c.hub.cfg.Catalog, c.ref), variant)
	return dir, m, err == nil && f.SHA256 != "" && m.Source.SHA256 == f.SHA256
}

func (c *checkout) fetch(ctx context.Context, choice repo.Choice) error {
	if len(choice.Other) > 0 {
		c.progress.report(fmt.Sprintf("taking %s; there are also %s", choice.GGUF+choice.Graph, strings.Join(choice.Other, ", ")), 0, 0)
	}
	if choice.GGUF != "" {
		return c.files(ctx, choice.GGUF)
	}
	if err := c.files(ctx, append(choice.Words, choice.Graph)...); err != nil {
		return err
	}
	names, err := adopt.WeightFiles(c.at(choice.Graph))
	if err != nil {
		return err
	}
	for i := range names {
		names[i] = path.Join(path.Dir(choice.Graph), names[i])
	}
	return c.files(ctx, names...)
}

// files fetches what is not there yet, after a look at the room that there is.
func (c *checkout) files(ctx context.Context, names ...string) error {
	var missing []repo.File
	need := int64(0)
	for _, name := range names {
		f, ok := c.find(name)
		if !ok {
			return fmt.Errorf("%w: the repository has no %s", repo.ErrChoice, name)
		}
		if ok, err := intactFile(ctx, c.at(name), c.file(f)); err != nil {
			return err
		} else if !ok {
			missing = append(missing, f)
			need += max(0, f.Size-c.download(f).size()) // what has arrived takes its room already
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := os.MkdirAll(c.folder, 0o755); err != nil {
		return explain(err, c.folder)
	}
	if free, ok := c.hub.cfg.FreeSpace(c.folder); ok && need > free {
		return fmt.Errorf("%w: %s are needed and %s are free in %s: make room, choose a smaller file, or another folder with --models",
			ErrDiskFull, memory.FormatSize(need), memory.FormatSize(free), c.folder)
	}
	for _, f := range missing {
		if err := c.one(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return nil
}

func (c *checkout) find(name string) (repo.File, bool) {
	for _, f := range c.snapshot.files {
		if f.Path == name {
			return f, true
		}
	}
	return repo.File{}, false
}

func (c *checkout) file(f repo.File) file {
	address := c.account.address(c.ref.ID) + "/resolve/" + c.snapshot.commit + strings.TrimPrefix(c.account.address(f.Path), c.account.endpoint.String())
	return file{Name: path.Base(f.Path), URL: address, Size: f.Size, SHA256: f.SHA256, Git: f.Git}
}

func (c *checkout) download(f repo.File) *download {
	d := newDownload(c.hub, c.file(f), filepath.Dir(c.at(f.Path)), path.Base(f.Path), c.progress)
	d.header = c.account.header()
	if strings.HasSuffix(f.Path, ".gguf") {
		d.check = func(part io.ReaderAt) error { return convert.Check(part, f.Size, c.variant) }
	}
	d.refused = func(resp *http.Response) error { return accessError(resp, c.account, c.ref) }
	return d
}

func (c *checkout) one(ctx context.Context, f repo.File) error {
	if err := os.MkdirAll(filepath.Dir(c.at(f.Path)), 0o755); err != nil {
		return explain(err, c.folder)
	}
	return explain(c.download(f).run(ctx), c.folder)
}
