// Package adopt takes decoders that other tools exported to ONNX as they are: folders of the
// onnxruntime-genai builder (genai_config.json) and of Optimum or onnx-community (config.json, the graph
// in the folder or in onnx/). It finds out how the graph is called and fed and writes the manifest.
//
// Previous step: runtime/hub fetched the folder, or it lies on disk. Next step: runtime/onnx runs the
// graph behind the same seam as Pelton's own. The package never downloads, never runs a model and never
// changes a graph; everything that a file announces is checked before it is believed.
package adopt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// Found is a decoder in a folder, and what is needed to run it.
type Found struct {
	Manifest model.Manifest // without name, files, source and time
	graph    string
	paths    []string // of the files, in the order of their names
}

// Graph is the path of the graph's file.
func (f Found) Graph() string { return f.graph }

// Files describes the decoder's files as they are now; Place makes the same.
func (f Found) Files(ctx context.Context) ([]model.File, error) {
	var out []model.File
	for _, p := range f.paths {
		file, err := model.Sum(ctx, p)
		if err != nil {
			return nil, err
		}
		out = append(out, file)
	}
	return out, nil
}

// Inspect looks at a folder. file names the graph, relative to dir; "" takes the one that
// genai_config.json names or the only one there is. The errors are ErrUnsupported, or those of files
// that cannot be read or are damaged.
func Inspect(dir, file string) (Found, error) {
	f, err := readFacts(dir)
	if err != nil {
		return Found{}, err
	}
	file = cmp.Or(file, f.file)
	if file == "" {
		if file, err = onlyGraph(dir); err != nil {
			return Found{}, err
		}
	}
	if !filepath.IsLocal(filepath.FromSlash(file)) {
		return Found{}, fmt.Errorf("graph %.200q does not lie in the folder", file)
	}
	g, err := readGraph(filepath.Join(dir, file))
	if err != nil {
		return Found{}, err
	}
	d, err := readRoles(g, f.names)
	if err != nil {
		return Found{}, fmt.Errorf("%s: %w", file, err)
	}
	found := Found{Manifest: describe(g, d, f), graph: filepath.Join(dir, file)}
	found.Manifest.Graph.File = path.Base(filepath.ToSlash(file))
	if found.paths, err = neededFiles(dir, file, g); err != nil {
		return Found{}, err
	}
	return found, checkWords(dir, &found.Manifest)
}

// WeightFiles lists the files beside a graph that hold its weights, sorted.
func WeightFiles(path string) ([]string, error) {
	g, err := readGraph(path)
	if err != nil {
		return nil, err
	}
	return g.weightFiles(path)
}

func (g *graphFile) weightFiles(file string) ([]string, error) {
	for name := range g.external {
		if model.CheckName(name) != nil {
			return nil, fmt.Errorf("%s keeps weights in %.200q, which is no plain file name", file, name)
		}
	}
	return slices.Sorted(maps.Keys(g.external)), nil
}

// Graphs lists the graphs of a folder, as Inspect takes them.
func Graphs(dir string) []string {
	var out []string
	for _, at := range []string{"", "onnx"} {
		entries, _ := os.ReadDir(filepath.Join(dir, at))
		for _, e := range entries {
			if !e.IsDir() && strings.HasSuffix(e.Name(), ".onnx") {
				out = append(out, path.Join(at, e.Name()))
			}
		}
	}
	return out
}

func onlyGraph(dir string) (string, error) {
	all := Graphs(dir)
	switch len(all) {
	case 0:
		return "", fmt.Errorf("%s has no .onnx file: %w", dir, ErrUnsupported)
	case 1:
		return all[0], nil
	}
	return "", fmt.Errorf("%s has several graphs, name one of them: %s", dir, strings.Join(all, ", "))
}

// describe makes the manifest; what the graph fixes comes before what configuration files say.
func describe(g *graphFile, d decoder, f facts) model.Manifest {
	s := model.Shape{
		Layers: d.layers, Hidden: f.hidden, Heads: f.heads, KVHeads: cmp.Or(d.kvHeads, f.kvHeads), HeadDim: cmp.Or(d.dim, f.headDim),
		FFN: f.ffn, Vocab: cmp.Or(d.vocab, f.vocab), ContextLength: f.context,
	}
	if d.graph.PastKey.Type == model.Float16 {
		s.KVWidth = 2
	}
	graph := d.graph
	// GroupQueryAttention appends in place where past and present are the same memory. It is trusted
	// only where it gets its lengths from a mask and computes positions itself.
	graph.InPlace = g.operators["GroupQueryAttention"] == d.layers && graph.Mask.Name != "" && graph.Positions.Name == ""
	m := model.Manifest{Format: model.Format, Variant: variantOf(g, d), Architecture: f.architecture, Shape: s, EOS: f.eos, Graph: &graph}
	// Nobody counts an export's weights; this is a decoder's usual count.
	m.Parameters = int64(s.Vocab)*int64(s.Hidden) + int64(s.Layers)*(2*int64(s.Hidden)*int64(s.Heads+s.KVHeads)*int64(s.HeadDim)+3*int64(s.Hidden)*int64(s.FFN))
	return m
}

// neededFiles lists the graph, its weights and what belongs to its text.
func neededFiles(dir, file string, g *graphFile) ([]string, error) {
	folder := filepath.Dir(filepath.Join(dir, file))
	out := []string{filepath.Join(dir, file)}
	weights, err := g.weightFiles(file)
	if err != nil {
		return nil, err
	}
	for _, name := range weights {
		out = append(out, filepath.Join(folder, name))
	}
	for _, name := range []string{model.TokenizerFile, model.TokenizerConfigFile, model.ChatTemplateFile} {
		at := filepath.Join(dir, name)
		if _, err := os.Stat(at); err == nil {
			out = append(out, at)
		} else if name == model.TokenizerFile {
			return nil, fmt.Errorf("%s has no %s: export it with its fast tokenizer: %w", dir, name, ErrUnsupported)
		}
	}
	for _, at := range out {
		if info, err := os.Stat(at); err != nil {
			return nil, fmt.Errorf("a file of the model is missing: %w", err)
		} else if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is no file", at)
		}
	}
	slices.Sort(out)
	return out, nil
}

// checkWords makes sure that the tokenizer can be used and ends answers.
func checkWords(dir string, m *model.Manifest) error {
	words, err := tokenizer.Load(dir)
	if err != nil {
		return err
	}
	for id := m.Shape.Vocab; id < words.Vocab(); id++ { // only a template writes special ones
		if text := words.TokenBytes(int32(id)); text != nil {
			if _, special := words.Special(string(text)); !special {
				return fmt.Errorf("the tokenizer has the token %d (%.40q), the graph only %d", id, text, m.Shape.Vocab)
			}
		}
	}
	for _, text := range []string{"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>"} {
		if id, ok := words.Special(text); ok && int(id) < m.Shape.Vocab && !slices.Contains(m.EOS, id) {
			m.EOS = append(m.EOS, id)
		}
	}
	if len(m.EOS) == 0 {
		return fmt.Errorf("no configuration file names an eos_token_id: nothing would end an answer: %w", ErrUnsupported)
	}
	return nil
}

// Options of an adoption.
type Options struct {
	Name     string // of the model
	Source   model.Source
	Link     bool                    // files may be links to the same content, which then nobody may change in place
	Progress func(done, total int64) // bytes, from the calling goroutine; may be nil
}

// Place puts a found decoder's files and its manifest into outDir, which must exist and should be empty.
// After an error the folder's content is the
// caller's to remove.
func Place(ctx context.Context, found Found, outDir string, opt Options) (model.Manifest, error) {
	m := found.Manifest
	m.Name, m.Source, m.Created = opt.Name, opt.Source, time.Now().UTC().Truncate(time.Second)
	var done, total int64
	var names []string
	for _, p := range found.paths {
		info, err := os.Stat(p)
		if err != nil {
			return m, err
		}
		names = append(names, filepath.Base(p))
		total += info.Size()
	}
	if err := m.Foresee(names...); err != nil {
		return m, err
	}
	for _, p := range found.paths {
		to := filepath.Join(outDir, filepath.Base(p))
		if err := bring(ctx, p, to, opt.Link); err != nil {
			return m, err
		}
		file, err := model.Sum(ctx, to)
		if err != nil {
			return m, err
		}
		m.Files = append(m.Files, file)
		if done += file.Size; opt.Progress != nil {
			opt.Progress(done, total)
		}
	}
	return m, model.Write(outDir, m)
}

// bring makes to a second name of from's content, or a copy.
func bring(ctx context.Context, from, to string, link bool) (err error) {
	real, err := filepath.EvalSymlinks(from) // caches of others keep links
	if err != nil {
		return err
	}
	if link && os.Link(real, to) == nil {
		return nil
	}
	in, err := os.Open(real)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, readErr := in.Read(buf)
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(readErr, io.EOF) {
			return out.Sync()
		}
		if readErr != nil {
			return readErr
		}
	}
}
