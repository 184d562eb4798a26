package hub_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/runtime/gguf/gguftest"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/hub/repo"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/quant"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// hugging speaks the API of a Hugging Face hub for one repository, org/Tiny-GGUF, and redirects large files
// to a server of another host, as the real one does.
type hugging struct {
	t        *testing.T
	api, cdn *httptest.Server
	files    map[string][]byte
	token    string // that is wanted; "" for none
	page     int    // entries of a page of the listing; 0 is all
	announce func(path string, entry map[string]any)
	large    func(w http.ResponseWriter, r *http.Request, n int) bool // stands before an answer of the cdn

	mu      sync.Mutex
	asked   []string // paths asked of the api
	fetched []string // "path range" asked of the cdn
	leaked  bool     // the cdn saw a token
}

func newHugging(t *testing.T, files map[string][]byte) *hugging {
	h := &hugging{t: t, files: files}
	h.cdn = httptest.NewServer(http.HandlerFunc(h.serveLarge))
	h.api = httptest.NewServer(http.HandlerFunc(h.serveAPI))
	t.Cleanup(h.api.Close)
	t.Cleanup(h.cdn.Close)
	return h
}

// isLarge says which files the repository keeps by SHA-256.
func isLarge(name string) bool {
	return !strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".jinja")
}

func gitSum(b []byte) string {
	s := sha1.New()
	fmt.Fprintf(s, "blob %d\x00", len(b))
	s.Write(b)
	return hex.EncodeToString(s.Sum(nil))
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Error-Code", code)
	w.WriteHeader(status)
}

func (h *hugging) serveAPI(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	path := r.URL.EscapedPath()
	h.asked = append(h.asked, path)
	switch {
	case strings.Contains(path, "/gated/"):
		refuse(w, http.StatusForbidden, "GatedRepo")
		return
	case !strings.Contains(path, "/Tiny-GGUF"), h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token:
		refuse(w, http.StatusUnauthorized, "RepoNotFound")
		return
	}
	_, rest, _ := strings.Cut(path, "Tiny-GGUF")
	switch {
	case rest == "/revision/main", rest == "/revision/refs%2Fpr%2F1", rest == "/revision/"+commit:
		_ = json.NewEncoder(w).Encode(map[string]any{"sha": commit, "cardData": map[string]any{"license": "apache-2.0"}})
	case strings.HasPrefix(rest, "/revision/"):
		refuse(w, http.StatusNotFound, "RevisionNotFound")
	case rest == "/tree/"+commit:
		h.tree(w, r)
	case strings.HasPrefix(rest, "/resolve/"+commit+"/"):
		h.resolve(w, r, strings.TrimPrefix(rest, "/resolve/"+commit+"/"))
	default:
		refuse(w, http.StatusNotFound, "EntryNotFound")
	}
}

func (h *hugging) tree(w http.ResponseWriter, r *http.Request) {
	names := []string{}
	for name := range h.files {
		names = append(names, name)
	}
	slices.Sort(names)
	if h.page > 0 {
		from := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("cursor"), &from)
		names = names[from:]
		if len(names) > h.page {
			names = names[:h.page]
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?recursive=true&cursor=%d>; rel="next"`, h.api.URL, r.URL.Path, from+h.page))
		}
	}
	entries := []map[string]any{{"type": "directory", "path": "onnx", "oid": strings.Repeat("a", 40), "size": 0}}
	for _, name := range names {
		b := h.files[name]
		e := map[string]any{"type": "file", "path": name, "oid": gitSum(b), "size": len(b)}
		if isLarge(name) {
			e["lfs"] = map[string]any{"oid": sum(b), "size": len(b), "pointerSize": 130}
		}
		if h.announce != nil {
			h.announce(name, e)
		}
		entries = append(entries, e)
	}
	_ = json.NewEncoder(w).Encode(entries)
}

func (h *hugging) resolve(w http.ResponseWriter, r *http.Request, escaped string) {
	name, err := url.PathUnescape(escaped)
	b, ok := h.files[name]
	if err != nil || !ok {
		refuse(w, http.StatusNotFound, "EntryNotFound")
		return
	}
	if !isLarge(name) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		return
	}
	w.Header().Set("X-Linked-Size", fmt.Sprint(len(b)))
	w.Header().Set("X-Linked-Etag", `"`+sum(b)+`"`)
	http.Redirect(w, r, h.cdn.URL+"/"+escaped+"?signature=x", http.StatusFound)
}

func (h *hugging) serveLarge(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	h.mu.Lock()
	h.fetched = append(h.fetched, strings.TrimSpace(name+" "+r.Header.Get("Range")))
	h.leaked = h.leaked || r.Header.Get("Authorization") != "" || strings.Contains(r.URL.String(), "hf_")
	n, hook, b := len(h.fetched), h.large, h.files[name]
	h.mu.Unlock()
	if hook != nil && hook(w, r, n) {
		return
	}
	w.Header().Set("ETag", `"`+sum(b)+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func (h *hugging) log() (asked, fetched []string, leaked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked), slices.Clone(h.fetched), h.leaked
}

// hub is a hub that is set to this server.
func (h *hugging) hub(env map[string]string) *hub.Hub {
	return h.hubWith(env, hub.Config{})
}

func (h *hugging) hubWith(env map[string]string, c hub.Config) *hub.Hub {
	c.Environ = func(key string) string {
		if v, ok := env[key]; ok || key != "HF_ENDPOINT" {
			return v
		}
		return h.api.URL
	}
	c.Backoff = time.Millisecond
	return hub.New(c)
}

func tinyGGUF(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "onnx", "testdata", "qwen2.gguf.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// filesOf is an export as the files of a repository, below a folder.
func filesOf(t *testing.T, export, below string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	z := zipped(t, export)
	err := fs.WalkDir(z, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[below+path], err = fs.ReadFile(z, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

const ref = "hf:org/Tiny-GGUF"

func TestFetchGGUF(t *testing.T) {
	t.Parallel()
	gguf := tinyGGUF(t)
	h := newHugging(t, map[string][]byte{"Tiny.Q4_0.gguf": []byte("GGUF no"), "Tiny.Q8_0.gguf": gguf, "README.md": []byte("#"), "Tiny.mmproj-f16.gguf": {1}})
	h.token, h.page = "hf_secret", 2
	store := model.Store{Root: filepath.Join(t.TempDir(), "models")}
	var stages []string
	report := func(e hub.Event) { stages = append(stages, e.Stage) }
	env := map[string]string{"HF_TOKEN": "hf_secret"}
	dir, m, err := h.hub(env).Ensure(t.Context(), store, ref, "fp32", report)
	if err != nil {
		t.Fatal(err)
	}
	if err := model.Verify(t.Context(), dir, m); err != nil {
		t.Error(err)
	}
	if m.Name != "tiny" || m.Variant != "fp32" || m.Source.License != "apache-2.0" || m.Source.SHA256 != sum(gguf) ||
		m.Source.URL != "hf:org/Tiny-GGUF@"+commit+":Tiny.Q8_0.gguf#main" {
		t.Errorf("manifest %+v", m)
	}
	if _, fetched, leaked := h.log(); !slices.Equal(fetched, []string{"Tiny.Q8_0.gguf"}) || leaked {
		t.Errorf("fetched %q, token shown to another host: %v", fetched, leaked)
	}
	// Another variant needs no new download; the reference by commit and file is the same model.
	for _, r := range []string{ref, ref + "@" + commit + ":Tiny.Q8_0.gguf", ref + "@refs/pr/1"} {
		if _, m, err := h.hub(env).Ensure(t.Context(), store, r, "q8", report); err != nil || m.Variant != "q8" {
			t.Errorf("%s: %+v, %v", r, m, err)
		}
	}
	if _, fetched, _ := h.log(); len(fetched) != 1 {
		t.Errorf("fetched again: %q", fetched)
	}
	if _, m, err := h.hub(nil).Ensure(t.Context(), store, ref, "q8", report); err != nil || m.Name != "tiny" {
		t.Errorf("no longer shown by the hub: %+v, %v", m, err)
	}
	catalog := []hub.Entry{{Name: "small", Aliases: []string{"tiny"}}}
	if _, m, err := h.hubWith(env, hub.Config{Catalog: catalog}).Ensure(t.Context(), store, ref, "fp32", report); err != nil || m.Name != "org-tiny" {
		t.Errorf("named as a model of the catalog: %+v, %v", m, err)
	}
	h.api.Close()
	if _, m, err := h.hubWith(env, hub.Config{Retries: -1}).Ensure(t.Context(), store, ref, "q8", report); err != nil || m.Name != "tiny" {
		t.Errorf("without the hub: %+v, %v", m, err)
	}
	if all := strings.Join(stages, "\n"); strings.Contains(all, "hf_secret") || !strings.Contains(all, "there are also Tiny.Q4_0.gguf") || !strings.Contains(all, "no access") {
		t.Errorf("stages: %s", all)
	}
}

func TestFetchExports(t *testing.T) {
	t.Parallel()
	files := filesOf(t, "genai-fp32", "cpu fp32/")
	for name, b := range filesOf(t, "optimum-int8", "") {
		files[name] = b
	}
	h := newHugging(t, files)
	for r, want := range map[string]string{ref: "int8", ref + ":cpu fp32": "fp32", ref + ":onnx/model_quantized.onnx": "int8"} {
		store := model.Store{Root: filepath.Join(t.TempDir(), "models")}
		if r == ref { // the others stand beside: this one needs a name
			r += ":onnx"
		}
		dir, m, err := h.hub(nil).Ensure(t.Context(), store, r, "", nil)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		if m.Variant != want || m.Graph == nil || m.Name != "tiny" {
			t.Errorf("%s: manifest %+v", r, m)
		}
		if err := model.Verify(t.Context(), dir, m); err != nil {
			t.Error(err)
		}
		// An export has no other variants, so what is asked for does not matter: with the hub, and without.
		for _, closed := range []bool{false, true} {
			env := map[string]string{}
			if closed {
				env["HF_ENDPOINT"] = "http://127.0.0.1:1"
			}
			if _, again, err := h.hubWith(env, hub.Config{Retries: -1}).Ensure(t.Context(), store, r, "fp16", nil); err != nil || !again.Created.Equal(m.Created) {
				t.Errorf("%s, hub closed %v: %+v, %v", r, closed, again, err)
			}
		}
	}
}

// breaksOff answers the first request with the beginning of a file only.
func breaksOff(file []byte, at int) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n > 1 {
			return false
		}
		w.Header().Set("ETag", `"`+sum(file)+`"`)
		w.Header().Set("Content-Length", fmt.Sprint(len(file)))
		_, _ = w.Write(file[:at])
		return true
	}
}

func TestFetchResumes(t *testing.T) {
	t.Parallel()
	gguf := tinyGGUF(t)
	h := newHugging(t, map[string][]byte{"a.gguf": gguf})
	h.large = breaksOff(gguf, 1000)
	store := model.Store{Root: filepath.Join(t.TempDir(), "models")}
	if _, _, err := h.hub(nil).Ensure(t.Context(), store, ref, "q8", nil); err != nil {
		t.Fatal(err)
	}
	if _, fetched, _ := h.log(); !slices.Equal(fetched, []string{"a.gguf", "a.gguf bytes=1000-"}) {
		t.Errorf("fetched %q, want the rest from byte 1000", fetched)
	}
}

// TestFetchRefusesEarly: a file that cannot be converted is refused by its beginning, not after gigabytes, and what came
// of it is not kept: it may have been damaged.
func TestFetchRefusesEarly(t *testing.T) {
	t.Parallel()
	var b gguftest.Builder
	b.Set("general.architecture", "mamba")
	b.Add("w", quant.F32, make([]byte, 1<<20), 1<<18)
	gguf := b.Bytes()
	h := newHugging(t, map[string][]byte{"a.gguf": gguf})
	for _, sent := range []int{1 << 10, 40} { // 40 bytes are not enough to tell
		h.large = func(w http.ResponseWriter, r *http.Request, _ int) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(gguf)))
			_, _ = w.Write(gguf[:sent])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // the rest never comes
			return true
		}
		root := t.TempDir()
		_, _, err := h.hubWith(nil, hub.Config{Retries: -1, Stall: time.Second}).Ensure(t.Context(), model.Store{Root: filepath.Join(root, "models")}, ref, "q8", nil)
		if early := err != nil && strings.Contains(err.Error(), `architecture "mamba" is not supported`); err == nil || early != (sent > 100) {
			t.Errorf("%d bytes sent: %v", sent, err)
		}
		kept := int64(0)
		_ = filepath.Walk(root, func(path string, info fs.FileInfo, err error) error {
			if err == nil && strings.HasSuffix(path, ".part") {
				kept = info.Size()
			}
			return nil
		})
		if want := int64(40); sent < 100 && kept != want || sent > 100 && kept != 0 {
			t.Errorf("%d bytes sent: %d are kept", sent, kept)
		}
	}
}

// What has arrived of a file before needs no room again.
func TestFetchResumesOnAFullDisk(t *testing.T) {
	t.Parallel()
	gguf := tinyGGUF(t)
	h := newHugging(t, map[string][]byte{"a.gguf": gguf})
	h.large = breaksOff(gguf, len(gguf)-1000)
	store := model.Store{Root: filepath.Join(t.TempDir(), "models")}
	if _, _, err := h.hubWith(nil, hub.Config{Retries: -1}).Ensure(t.Context(), store, ref, "q8", nil); err == nil {
		t.Fatal("a broken download: no error")
	}
	room := func(free int64) hub.Config {
		return hub.Config{FreeSpace: func(string) (int64, bool) { return free, true }}
	}
	if _, _, err := h.hubWith(nil, room(999)).Ensure(t.Context(), store, ref, "q8", nil); !errors.Is(err, hub.ErrDiskFull) {
		t.Errorf("1000 bytes are missing and 999 free: %v, want %v", err, hub.ErrDiskFull)
	}
	if _, _, err := h.hubWith(nil, room(1000)).Ensure(t.Context(), store, ref, "q8", nil); err != nil {
		t.Errorf("1000 bytes are missing and 1000 free: %v", err)
	}
}

// Several at once, each with a hub of its own as processes have, fetch once.
func TestFetchAtOnce(t *testing.T) {
	t.Parallel()
	h := newHugging(t, map[string][]byte{"a.gguf": tinyGGUF(t)})
	store := model.Store{Root: filepath.Join(t.TempDir(), "models")}
	errs := make(chan error)
	for range 4 {
		go func() {
			_, _, err := h.hub(nil).Ensure(context.Background(), store, ref, "q8", nil)
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if _, fetched, _ := h.log(); len(fetched) != 1 {
		t.Errorf("fetched %q, want once", fetched)
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	one := map[string][]byte{"a.gguf": []byte("GGUF")}
	for _, c := range []struct {
		name, ref string
		files     map[string][]byte
		env       map[string]string
		change    func(h *hugging)
		config    hub.Config
		want      string
		is        error
	}{
		{name: "no such model", ref: "hf:org/none", want: "put a token with the right to read into HF_TOKEN", is: hub.ErrAccess},
		{name: "token refused", ref: "hf:org/none", env: map[string]string{"HF_TOKEN": "hf_x"}, want: "does not take the token", is: hub.ErrAccess},
		{name: "gated", ref: "hf:gated/x", want: "accept its conditions on http", is: hub.ErrAccess},
		{name: "gated for this account", ref: "hf:gated/x", env: map[string]string{"HF_TOKEN": "hf_x"}, want: "the account of the token may not read it", is: hub.ErrAccess},
		{name: "no such revision", ref: ref + "@v9", want: `no revision "v9"`, is: hub.ErrAccess},
		{name: "no such file", ref: ref + ":b.gguf", want: `there is no "b.gguf"; there are a.gguf`, is: repo.ErrChoice},
		{name: "weights of PyTorch", ref: ref, files: map[string][]byte{"model.safetensors": {1}, "config.json": {1}}, want: "PyTorch weights", is: repo.ErrChoice},
		{name: "several", ref: ref, files: map[string][]byte{"a-Q8_0.gguf": {1}, "b-Q8_0.gguf": {1}}, want: "name one of them after a colon: a-Q8_0.gguf, b-Q8_0.gguf", is: repo.ErrChoice},
		{name: "another content", ref: ref, change: func(h *hugging) {
			h.announce = func(_ string, e map[string]any) {
				e["lfs"] = map[string]any{"oid": strings.Repeat("0", 64), "size": 4}
			}
		}, want: "differs", is: hub.ErrChecksum},
		{name: "another small file", ref: ref, files: filesOf(t, "optimum-int8", ""), change: func(h *hugging) {
			h.announce = func(path string, e map[string]any) {
				if path == "config.json" {
					e["oid"] = strings.Repeat("0", 40)
				}
			}
		}, want: "differs", is: hub.ErrChecksum},
		{name: "no room", ref: ref, config: hub.Config{FreeSpace: func(string) (int64, bool) { return 3, true }}, want: "4 B are needed and 3 B are free", is: hub.ErrDiskFull},
		{name: "no GGUF after all", ref: ref, want: "gguf"},
		{name: "a path out of the folder", ref: ref, files: map[string][]byte{"../../a.gguf": {1}}, want: "no GGUF file", is: repo.ErrChoice},
		{name: "a name for the terminal", ref: ref, files: map[string][]byte{"a\x1b[2J-Q8_0.gguf": {1}, "b-Q8_0.gguf": {1}, "c-Q8_0.gguf": {1}}, want: "after a colon: b-Q8_0.gguf, c-Q8_0.gguf", is: repo.ErrChoice},
		{name: "no size", ref: ref, change: func(h *hugging) {
			h.announce = func(_ string, e map[string]any) { e["lfs"].(map[string]any)["size"] = 0 }
		}, want: "no GGUF file", is: repo.ErrChoice},
		{name: "a page elsewhere", ref: ref, change: func(h *hugging) { h.api.URL = "http://other.invalid"; h.page = 1; h.files["b.gguf"] = nil }, env: map[string]string{}, want: "next page lies elsewhere"},
		{name: "variant", ref: ref, want: "no variant \"q99\"", is: model.ErrNotFound},
		{name: "reference", ref: "hf:../x", want: "write hf:org/name"},
		{name: "token in the clear", ref: ref, env: map[string]string{"HF_TOKEN": "hf_x", "HF_ENDPOINT": "http://hub.invalid"}, want: "not encrypted"},
		{name: "token of two lines", ref: ref, env: map[string]string{"HF_TOKEN": "hf_x\nX: y"}, want: "not one line"},
		{name: "no token file", ref: ref, env: map[string]string{"HF_TOKEN_FILE": "/does/not/exist"}, want: "HF_TOKEN_FILE", is: fs.ErrNotExist},
		{name: "endpoint", ref: ref, env: map[string]string{"HF_ENDPOINT": "ftp://x"}, want: "HF_ENDPOINT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := map[string][]byte{}
			for k, v := range one {
				files[k] = v
			}
			if c.files != nil {
				files = c.files
			}
			h := newHugging(t, files)
			env := map[string]string{"HF_ENDPOINT": h.api.URL}
			for k, v := range c.env {
				env[k] = v
			}
			if c.change != nil {
				c.change(h)
			}
			variant := "q8"
			if c.name == "variant" {
				variant = "q99"
			}
			store := model.Store{Root: filepath.Join(t.TempDir(), "models")}
			_, _, err := h.hubWith(env, c.config).Ensure(t.Context(), store, c.ref, variant, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v; want an error with %q that is %v", err, c.want, c.is)
			}
			if err != nil && strings.Contains(err.Error(), "hf_x") {
				t.Errorf("the error shows the token: %v", err)
			}
			if list, _ := store.List(); len(list) > 0 {
				t.Errorf("the store has %+v", list)
			}
		})
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	h := newHugging(t, map[string][]byte{"a.gguf": tinyGGUF(t)})
	h.token = "hf_of_a_file"
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("hf_of_a_file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	store := model.Store{Root: filepath.Join(t.TempDir(), "models")}
	if _, _, err := h.hub(map[string]string{"HF_TOKEN_FILE": path}).Ensure(t.Context(), store, ref, "q8", nil); err != nil {
		t.Error(err)
	}
	if _, _, leaked := h.log(); leaked {
		t.Error("another host saw the token")
	}
}
