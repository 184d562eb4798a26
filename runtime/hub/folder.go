package hub

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/runtime/adopt"
	"github.com/pelton-run/pelton/runtime/model"
)

// Adopt takes a folder that another tool exported (see package adopt) into the store, as it is: its files
// are copied. graph names the .onnx file in it; "" takes the only one. With name "" the model is called
// after the folder. The variant is what the graph holds. When the store has that variant of the same
// files already, it is returned as it is; of others, the error says so.
func (h *Hub) Adopt(ctx context.Context, store model.Store, folder, name, graph string, p Progress) (dir string, m model.Manifest, err error) {
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return "", model.Manifest{}, err
	}
	if name == "" {
		name = nameOf(filepath.Base(absolute) + ".onnx")
	}
	return h.adopt(ctx, store, absolute, name, graph, model.Source{URL: absolute}, false, p)
}

// isFolder tells a folder of an exported model from other names.
func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir() && isPath(name) && !strings.EqualFold(filepath.Ext(name), ".gguf")
}

// adopt stores an exported decoder; owned says that the files are the hub's own.
func (h *Hub) adopt(ctx context.Context, store model.Store, folder, name, graph string, source model.Source, owned bool, p Progress) (dir string, m model.Manifest, err error) {
	if err := model.CheckName(name); err != nil {
		return "", model.Manifest{}, fmt.Errorf("%s: model %w", folder, err)
	}
	p.report("reading "+filepath.Base(folder), 0, 0)
	found, err := adopt.Inspect(folder, graph)
	if err != nil {
		return "", model.Manifest{}, err
	}
	sum, err := model.Sum(ctx, found.Graph())
	if err != nil {
		return "", model.Manifest{}, err
	}
	source.SHA256 = sum.SHA256
	good := func(m model.Manifest) error { // a graph alone says nothing: its weights may be files of their own
		files, err := found.Files(ctx)
		if err == nil && !slices.Equal(files, m.Files) {
			err = fmt.Errorf("%s:%s is there already, made from other files (%s): remove that with pelton model rm %s:%s", m.Name, m.Variant, m.Source.URL, m.Name, m.Variant)
		}
		return err
	}
	return h.build(ctx, store, name, found.Manifest.Variant, good, p, func(context.Context) (origin, error) {
		return origin{path: folder, export: &found, owned: owned, source: source}, nil
	})
}
