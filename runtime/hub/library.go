package hub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// ortVersion is the version of ONNX Runtime that is looked for.
const ortVersion = "1.24.4"

// FindLibrary looks for the ONNX Runtime library on this machine: the given path, a file beside the
// program, the Go module cache, what Library fetched before. The error wraps [ErrNoLibrary]; a given
// path that is wrong is an error, not a reason to look elsewhere.
func (h *Hub) FindLibrary(given string) (string, error) {
	if given != "" {
		if err := checkLibrary(given, runtime.GOOS, runtime.GOARCH); err != nil {
			return "", fmt.Errorf("%w: %w: correct PELTON_ORT_LIB, or unset it to have the library fetched", ErrNoLibrary, err)
		}
		return filepath.Abs(given)
	}
	var paths []string
	if exe, err := os.Executable(); err == nil {
		paths = append(paths, filepath.Join(filepath.Dir(exe), libraryName(runtime.GOOS)))
	}
	paths = append(paths, h.modulePaths()...)
	paths = append(paths, h.cachedLibrary())
	var damaged []error
	for _, path := range paths {
		err := checkLibrary(path, runtime.GOOS, runtime.GOARCH)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			damaged = append(damaged, err)
		}
	}
	return "", errors.Join(append([]error{fmt.Errorf("%w: looked for %s", ErrNoLibrary, strings.Join(paths, ", "))}, damaged...)...)
}

// Library is [Hub.FindLibrary] that fetches the library when it is nowhere: from the package index, or
// else, inside Pelton's own source tree, as a Go module. given is the value of PELTON_ORT_LIB.
func (h *Hub) Library(ctx context.Context, given string, p Progress) (string, error) {
	path, err := h.FindLibrary(given)
	if err == nil || given != "" {
		return path, err
	}
	unlock, err := lock(ctx, filepath.Dir(h.cachedLibrary())+".lock", p)
	if err != nil {
		return "", err
	}
	defer unlock()
	if path, err := h.FindLibrary(""); err == nil {
		return path, nil
	}
	// The wheel is half as large as the module, which holds the library for three processors.
	path, err = h.libraryFromWheel(ctx, p)
	if err == nil || ctx.Err() != nil {
		return path, err
	}
	path, moduleErr := h.libraryFromModule(ctx, p)
	if moduleErr == nil || ctx.Err() != nil {
		return path, moduleErr
	}
	return "", fmt.Errorf("%w: %w; %w; or set PELTON_ORT_LIB to a library of version %s", ErrNoLibrary, err, moduleErr, ortVersion)
}

// libraryFromWheel takes the library out of the Python package, which is the makers' own build.
func (h *Hub) libraryFromWheel(ctx context.Context, p Progress) (string, error) {
	path := h.cachedLibrary()
	dir := filepath.Dir(path)
	wheel, err := h.fetch(ctx, "onnxruntime", "ONNX Runtime "+ortVersion, dir, p, func(files []file) (file, error) {
		return pickWheel(files, runtime.GOOS, runtime.GOARCH)
	})
	if err != nil {
		return "", err
	}
	if err := extract(ctx, wheel, "onnxruntime/capi/"+versionedLibrary(runtime.GOOS), path, 0, "extracting ONNX Runtime", p); err != nil {
		return "", explain(err, dir)
	}
	if err := checkLibrary(path, runtime.GOOS, runtime.GOARCH); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, os.Remove(wheel)
}

// pickWheel chooses the wheel for a platform. The library in it is the same whatever Python the wheel is
// for; the newest one is taken, so that all machines take the same.
func pickWheel(files []file, goos, goarch string) (file, error) {
	platform := map[string]string{
		"linux/amd64": "manylinux*_x86_64", "linux/arm64": "manylinux*_aarch64",
		"darwin/arm64": "macosx_*_arm64", "darwin/amd64": "macosx_*_x86_64",
	}[goos+"/"+goarch]
	var found []file
	for _, f := range files {
		if platform == "" {
			break
		}
		for _, p := range []string{platform, strings.Replace(platform, "x86_64", "universal2", 1)} {
			ok, _ := filepath.Match("onnxruntime-"+ortVersion+"-cp3*-cp3*-"+p+".whl", f.Name)
			if ok && !f.Yanked && !strings.Contains(f.Name, "t-"+p[:4]) && !slices.Contains(found, f) {
				found = append(found, f)
			}
		}
	}
	if len(found) == 0 {
		return file{}, fmt.Errorf("%w: the index has no onnxruntime %s for %s/%s", ErrUnavailable, ortVersion, goos, goarch)
	}
	return slices.MaxFunc(found, func(a, b file) int { return strings.Compare(a.Name, b.Name) }), nil
}

func (h *Hub) cachedLibrary() string {
	return filepath.Join(h.cfg.Cache, "lib", "onnxruntime-"+ortVersion+"-"+runtime.GOARCH, libraryName(runtime.GOOS))
}

func libraryName(goos string) string {
	if goos == "darwin" {
		return "libonnxruntime.dylib"
	}
	return "libonnxruntime.so"
}

func versionedLibrary(goos string) string {
	if goos == "darwin" {
		return "libonnxruntime." + ortVersion + ".dylib"
	}
	return "libonnxruntime.so." + ortVersion
}
