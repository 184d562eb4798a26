package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/model"
)

// Pull converts a local GGUF file into the store. With name "" the model is called after the file,
// without its ending and the name of its number format; variant "" is the fastest on this processor. When the
// store has that variant from the same file already, it is returned as it is; from another file, the
// error says so.
func (h *Hub) Pull(ctx context.Context, store model.Store, path, name, variant string, p Progress) (dir string, m model.Manifest, err error) {
	if err := checkGGUF(path); err != nil {
		return "", model.Manifest{}, err
	}
	if name == "" {
		name = nameOf(path)
	}
	if err := model.CheckName(name); err != nil {
		return "", model.Manifest{}, fmt.Errorf("%s: model %w", path, err)
	}
	if variant == "" {
		variant = fastest()
	}
	if err := checkVariant(name, variant, convert.Variants()); err != nil {
		return "", model.Manifest{}, err
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", model.Manifest{}, err
	}
	return h.pullGGUF(ctx, store, absolute, name, variant, model.Source{URL: absolute}, p)
}

// pullGGUF converts a file, unless that was done already.
func (h *Hub) pullGGUF(ctx context.Context, store model.Store, path, name, variant string, source model.Source, p Progress) (dir string, m model.Manifest, err error) {
	p.report("reading "+filepath.Base(path), 0, 0)
	content, err := model.Sum(ctx, path)
	if err != nil {
		return "", model.Manifest{}, err
	}
	source.SHA256 = content.SHA256
	good := func(m model.Manifest) error {
		if m.Source.SHA256 != source.SHA256 {
			return fmt.Errorf("%s:%s is there already, made from another file (%s): remove that with pelton model rm %s:%s", m.Name, m.Variant, m.Source.URL, m.Name, m.Variant)
		}
		return nil
	}
	return h.build(ctx, store, name, variant, good, p, func(context.Context) (origin, error) {
		return origin{path: path, source: source}, nil
	})
}

// checkGGUF refuses what is plainly something else before it is read as a whole.
func checkGGUF(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", model.ErrNotFound, err)
	}
	if !info.Mode().IsRegular() { // to open a pipe may take for ever
		return fmt.Errorf("%s is no file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	if string(magic[:]) != "GGUF" {
		return fmt.Errorf("%s is no GGUF file: it begins with %q", path, magic[:])
	}
	return nil
}

var (
	// numberFormat is what file names end with after the model's name: .Q4_1, -f16, .IQ4_XS, -Q6_K_L
	numberFormat = regexp.MustCompile(`(?i)[.\-_](i?q[0-9][a-z0-9_]*|b?f16|f32)$`)
	oddRunes     = regexp.MustCompile(`[^a-z0-9._+-]+`)
)

func nameOf(path string) string {
	base := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if short := numberFormat.ReplaceAllString(base, ""); short != "" {
		base = short
	}
	return strings.Trim(oddRunes.ReplaceAllString(strings.ToLower(base), "-"), "-._+")
}
