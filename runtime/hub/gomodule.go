package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A Go module carries the library for Linux. Only its files are used: keep.go holds it, and with it its
// checksum, in go.mod without linking it.
const (
	ortModule  = "github.com/k2-fsa/sherpa-onnx-go-linux"
	ortRelease = "v1.12.40" // holds ONNX Runtime 1.24.4
	ownModule  = "github.com/pelton-run/pelton"
)

// moduleMember is where the library lies in the module, "" when it has none for this platform.
func moduleMember(goos, goarch string) string {
	triplet := map[string]string{"amd64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu", "arm": "arm-unknown-linux-gnueabihf"}[goarch]
	if goos != "linux" || triplet == "" {
		return ""
	}
	return filepath.Join("lib", triplet, libraryName(goos))
}

// modulePaths is where the library would lie in the Go module cache.
func (h *Hub) modulePaths() []string {
	member := moduleMember(runtime.GOOS, runtime.GOARCH)
	cache := h.moduleCache()
	if member == "" || cache == "" {
		return nil
	}
	return []string{filepath.Join(cache, filepath.FromSlash(ortModule)+"@"+ortRelease, member)}
}

// moduleCache is where the go command keeps modules: what the environment says, else what the command
// says (it has settings of its own), else the usual place.
func (h *Hub) moduleCache() string {
	if dir := h.cfg.Environ("GOMODCACHE"); dir != "" {
		return dir
	}
	if list := filepath.SplitList(h.cfg.Environ("GOPATH")); len(list) > 0 && list[0] != "" {
		return filepath.Join(list[0], "pkg", "mod")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if out, err := h.goCommand(ctx, "env", "GOMODCACHE"); err == nil && filepath.IsAbs(strings.TrimSpace(string(out))) {
		return strings.TrimSpace(string(out))
	}
	if home := h.cfg.Environ("HOME"); home != "" {
		return filepath.Join(home, "go", "pkg", "mod")
	}
	return ""
}

// libraryFromModule has the go command fetch the module, which checks it against go.sum. That needs
// the go command and Pelton's source tree as the current folder, which is how "go run" is used.
func (h *Hub) libraryFromModule(ctx context.Context, p Progress) (string, error) {
	member := moduleMember(runtime.GOOS, runtime.GOARCH)
	if member == "" {
		return "", fmt.Errorf("the Go module has no library for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	out, err := h.goCommand(ctx, "list", "-m")
	if err != nil || strings.TrimSpace(string(out)) != ownModule {
		return "", errors.New("the Go module is fetched only inside the source tree, with the go command at hand")
	}
	p.report("fetching ONNX Runtime "+ortVersion+" as a Go module", 0, 0)
	out, err = h.goCommand(ctx, "mod", "download", "-json", ortModule+"@"+ortRelease)
	var answer struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &answer); jsonErr == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	if err != nil {
		return "", fmt.Errorf("go mod download %s@%s: %w", ortModule, ortRelease, err)
	}
	path := filepath.Join(answer.Dir, member)
	return path, checkLibrary(path, runtime.GOOS, runtime.GOARCH)
}

// goCommand runs the go command of the hub's PATH and returns its standard output.
func (h *Hub) goCommand(ctx context.Context, args ...string) ([]byte, error) {
	for _, dir := range filepath.SplitList(h.cfg.Environ("PATH")) {
		path, err := exec.LookPath(filepath.Join(dir, "go"))
		if err != nil || !filepath.IsAbs(path) {
			continue
		}
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.WaitDelay = time.Second
		cmd.Env = os.Environ()
		if dir := h.cfg.Environ("GOMODCACHE"); dir != "" {
			cmd.Env = append(cmd.Env, "GOMODCACHE="+dir)
		}
		return cmd.Output()
	}
	return nil, errors.New("no go command on PATH")
}
