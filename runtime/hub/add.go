package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pelton-run/pelton/runtime/adopt"
	"github.com/pelton-run/pelton/runtime/model"
)

// AddedVariant is the variant under which [Hub.Add] stores a graph.
const AddedVariant = "onnx"

// Add copies an ONNX file, or the only one of a folder, with its external data into the store as a model
// of [model.KindTensor]. Of m are taken the name, the inputs and outputs and MaxBatch. A model of that name
// must not be there yet.
func (h *Hub) Add(ctx context.Context, store model.Store, path string, m model.Manifest, p Progress) (dir string, _ model.Manifest, err error) {
	if err := model.CheckName(m.Name); err != nil {
		return "", m, err
	}
	files, err := graphFiles(path)
	if err != nil {
		return "", m, err
	}
	m.Format, m.Kind, m.Variant, m.Architecture, m.Created = model.Format, model.KindTensor, AddedVariant, "onnx", time.Now().UTC().Truncate(time.Second)
	if err := m.Foresee(slices.Collect(maps.Values(files))...); err != nil {
		return "", m, fmt.Errorf("model %s: %w", m.Name, err)
	}
	unlock, err := lock(ctx, filepath.Join(store.Root, "."+m.Name+".lock"), p)
	if err != nil {
		return "", m, err
	}
	defer unlock()
	all, _ := store.List() // what is damaged is replaced
	for _, other := range all {
		if other.Name == m.Name {
			return "", m, fmt.Errorf("model %s is there already: choose another --name, or remove it with pelton model rm %s:%s", m.Name, m.Name, other.Variant)
		}
	}
	if err := store.Clean(m.Name); err != nil {
		return "", m, err
	}
	scratch, err := store.Scratch(m.Name, AddedVariant)
	if err != nil {
		return "", m, explain(err, store.Root)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(scratch))
		}
	}()
	for from, name := range files {
		p.report("copying "+filepath.Base(from), 0, 0)
		if err := copyFile(ctx, from, filepath.Join(scratch, name)); err != nil {
			return "", m, explain(err, store.Root)
		}
		file, err := model.Sum(ctx, filepath.Join(scratch, name))
		if err != nil {
			return "", m, err
		}
		m.Files = append(m.Files, file)
		if name == model.GraphFile {
			m.Source = model.Source{URL: from, SHA256: file.SHA256}
		}
	}
	if err := model.Write(scratch, m); err != nil {
		return "", m, err
	}
	return store.Place(scratch)
}

// GraphFile is the ONNX file of a path: itself, or the only one in a folder.
func GraphFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().IsRegular() {
		return path, nil
	}
	if !info.IsDir() { // to open a pipe may take for ever
		return "", fmt.Errorf("%s is no file", path)
	}
	found, err := filepath.Glob(filepath.Join(path, "*.onnx"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("folder %s has %d .onnx files, one is needed", path, len(found))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// graphFiles are a graph and the files with its weights, with their names in the store.
func graphFiles(path string) (map[string]string, error) {
	graph, err := GraphFile(path)
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(graph)
	if err != nil {
		return nil, err
	}
	weights, err := adopt.WeightFiles(absolute)
	if err != nil {
		return nil, err
	}
	files := map[string]string{absolute: model.GraphFile}
	for _, name := range weights {
		if name == model.GraphFile || name == model.ManifestFile {
			return nil, fmt.Errorf("%s cannot lie beside the graph %s: rename it", name, filepath.Base(absolute))
		}
		at := filepath.Join(filepath.Dir(absolute), name)
		if info, err := os.Stat(at); err != nil {
			return nil, fmt.Errorf("a file of the model is missing: %w", err)
		} else if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is no file", at)
		}
		files[at] = name
	}
	return files, nil
}

// copyFile copies a file and brings it to disk.
func copyFile(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(0o644))
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for err == nil && ctx.Err() == nil {
		var n int
		if n, err = in.Read(buf); n > 0 {
			if _, e := out.Write(buf[:n]); e != nil {
				err = e
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, context.Cause(ctx), out.Sync(), out.Close())
}
