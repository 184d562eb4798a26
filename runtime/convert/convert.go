// Package convert makes model folders from model files of other runtimes: a graph for ONNX Runtime, its
// weights, the tokenizer, the chat template and the manifest.
//
// Previous step: runtime/gguf opens the source that runtime/hub has fetched. Next step: runtime/onnx
// loads the graph, runtime/tokenizer the vocabulary. The package never downloads and never runs a model,
// and it leaves making the folder appear atomically to its caller. Memory stays near the size of the
// largest matrix of one layer as the source stores it: everything else is streamed. Conversions of
// different folders may run at once.
package convert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pelton-run/pelton/runtime/convert/vocabulary"
	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// The variants that FromGGUF makes.
const (
	// Q8 has 8-bit weights in blocks of 32 and computes with 8-bit activations, by ONNX Runtime's products: the
	// default where ours have no fast kernels.
	Q8 = "q8"
	// Q4 takes the file's 4-bit weights over without loss (Q4_0, Q4_1 and Q4_K), keeps the rest in 8 bit
	// and computes with 8-bit activations, by operators of our own (runtime/onnx/kernels).
	Q4 = "q4"
	// BF16W4 has the weights of Q4 and computes with them and with activations in bfloat16: for processors that have
	// instructions for products of such matrices (AMX).
	BF16W4 = "bf16-w4"
	// FP32 is float32 throughout: the reference that the others are compared with.
	FP32 = "fp32"
	// FP16 is half precision throughout, with the cache in pages: for GPUs, and for them only. FP16W8 and FP16W4 are the
	// same with weights in blocks of 32, by ONNX Runtime's products: of 8 bits, and the file's own 4 bits where it has them.
	FP16   = "fp16"
	FP16W8 = "fp16-w8"
	FP16W4 = "fp16-w4"
	// Fused and Naive are FP32 without some of what makes it fast, to show what that is worth.
	Fused = "fused"
	Naive = "naive"
)

// Variants lists what Options.Variant may be, first what is taken when none is named.
func Variants() []string { return []string{Q8, Q4, BF16W4, FP16, FP16W8, FP16W4, FP32, Fused, Naive} }

// Options of a conversion.
type Options struct {
	Name    string       // of the model, for the manifest; default: the file's general.name in lower case
	Variant string       // one of Variants; default Q8
	Source  model.Source // for the manifest; an empty URL becomes the file's path

	// Progress is told how many of the source's bytes are converted, from the calling goroutine; may be nil.
	Progress func(done, total int64)
}

// FromGGUF converts the GGUF file of a Llama, Qwen2 or Qwen3 model into the folder outDir, which must exist and should be
// empty: files of the same names are overwritten. When it returns without an error the files are on disk;
// after an error, or when ctx ends, the folder's content is unusable and is the caller's to remove.
func FromGGUF(ctx context.Context, ggufPath, outDir string, opt Options) (model.Manifest, error) {
	opt.Variant = cmp.Or(opt.Variant, Q8)
	if !slices.Contains(Variants(), opt.Variant) {
		return model.Manifest{}, fmt.Errorf("convert: there is no variant %q, choose one of %s", opt.Variant, strings.Join(Variants(), ", "))
	}
	opt.Source.URL = cmp.Or(opt.Source.URL, ggufPath)
	if opt.Name != "" {
		if err := model.CheckName(opt.Name); err != nil {
			return model.Manifest{}, fmt.Errorf("convert: %w", err)
		}
	}
	f, err := gguf.Open(ggufPath)
	if err != nil {
		return model.Manifest{}, fmt.Errorf("convert: %w", err)
	}
	m, err := fromFile(ctx, f, outDir, opt)
	if err = errors.Join(err, f.Close()); err != nil {
		return model.Manifest{}, fmt.Errorf("convert %s to %s: %w", ggufPath, opt.Variant, err)
	}
	return m, nil
}

// Check tells why a GGUF file of size bytes cannot be converted to a variant, as far as its beginning says so. Of one
// that is still being fetched r may hold less: then the error is io.EOF or io.ErrUnexpectedEOF while that is too little
// to tell.
func Check(r io.ReaderAt, size int64, variant string) error {
	f, err := gguf.Parse(r, size)
	if err == nil {
		_, _, err = read(f, variant)
	}
	return err
}

// read is all that a file says of a model but its weights, if that can be converted.
func read(f *gguf.File, variant string) (h hyper, words vocabulary.Vocabulary, err error) {
	if h, err = readHyper(f); err != nil {
		return h, words, err
	}
	if words, err = vocabulary.Read(f, h.Vocab); err != nil {
		return h, words, err
	}
	if _, err := tokenizer.Parse(words.Tokenizer, words.Template); err != nil { // nobody could load the model
		return h, words, fmt.Errorf("the file's tokens: %w", err)
	}
	h.KVWidth = kvWidth(variant)
	if paged(variant) {
		if err := checkPaged(h, variant); err != nil {
			return h, words, err
		}
		h.PageTokens = pageTokens(h.HeadDim)
	}
	_, err = checkTensors(f, h)
	return h, words, err
}

func fromFile(ctx context.Context, f *gguf.File, dir string, opt Options) (model.Manifest, error) {
	h, words, err := read(f, opt.Variant)
	if err != nil {
		return model.Manifest{}, err
	}
	m := model.Manifest{
		Format: model.Format, Name: opt.Name, Variant: opt.Variant, Architecture: strings.TrimSuffix(h.arch, "."),
		Shape: h.Shape, EOS: words.EOS, Source: opt.Source, Created: time.Now().UTC().Truncate(time.Second),
	}
	if m.Name == "" {
		m.Name = defaultName(f)
	}
	for _, t := range f.Tensors {
		m.Parameters += t.Elements()
	}
	if err := m.Foresee(model.GraphFile, model.WeightsFile, model.TokenizerFile); err != nil {
		return m, err
	}
	graph, weights, err := writeWeights(ctx, f, h, dir, opt)
	if err != nil {
		return m, err
	}
	m.Files = []model.File{weights}
	for _, text := range []struct {
		name  string
		bytes []byte
	}{{model.GraphFile, graph}, {model.TokenizerFile, words.Tokenizer}, {model.TokenizerConfigFile, words.Config}, {model.ChatTemplateFile, words.Template}} {
		if len(text.bytes) == 0 {
			continue
		}
		file, err := writeFile(dir, text.name, text.bytes)
		if err != nil {
			return m, err
		}
		m.Files = append(m.Files, file)
	}
	slices.SortFunc(m.Files, func(a, b model.File) int { return strings.Compare(a.Name, b.Name) })
	return m, model.Write(dir, m) // last: a folder that has a manifest is complete
}

// writeWeights writes the weights file and returns the graph that goes with it.
func writeWeights(ctx context.Context, f *gguf.File, h hyper, dir string, opt Options) ([]byte, model.File, error) {
	w, err := createWeights(dir)
	if err != nil {
		return nil, model.File{}, err
	}
	if paged(opt.Variant) {
		w.real = typeHalf
	}
	b := newBuilder(ctx, f, h, opt, w)
	if err := b.build(); err != nil {
		return nil, model.File{}, errors.Join(err, w.abort())
	}
	file, err := w.finish()
	return modelProto(b.graph()), file, err
}

// defaultName makes a name of the file's own title, for example "smollm2 135m instruct" with dashes.
func defaultName(f *gguf.File) string {
	title, _ := f.Text("general.name")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, title)
	if name = strings.Trim(name, "-._"); name == "" {
		return "unnamed"
	}
	return name[:min(len(name), 64)]
}
