package convert

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/safetensors"
)

// Files of a sentence-transformers folder that are read.
const (
	sentenceConfig    = "config.json"
	sentenceWeights   = "model.safetensors"
	sentenceTokenizer = "tokenizer.json"
	sentencePooling   = "1_Pooling/config.json"
	sentenceLength    = "sentence_bert_config.json"
)

// EncoderVariants lists what a sentence transformer can be converted to, the default first: Q8 has 8-bit
// weights, one scale for each column, and rounds activations to 8 bits, one scale for each token.
func EncoderVariants() []string { return []string{Q8, FP32} }

// encoder is the shape of a BERT encoder, from its config.json.
type encoder struct {
	Architectures []string `json:"architectures"`
	Kind          string   `json:"model_type"`
	Activation    string   `json:"hidden_act"`
	Position      string   `json:"position_embedding_type"`
	Hidden        int      `json:"hidden_size"`
	FFN           int      `json:"intermediate_size"`
	Heads         int      `json:"num_attention_heads"`
	Layers        int      `json:"num_hidden_layers"`
	Positions     int      `json:"max_position_embeddings"`
	Vocab         int      `json:"vocab_size"`
	Epsilon       float32  `json:"layer_norm_eps"`

	length int // most tokens of a text
}

// FromSentenceTransformer converts a folder as sentence-transformers writes it, with a BERT encoder, mean
// pooling and vectors of length 1, into the folder outDir, as [FromGGUF] does.
func FromSentenceTransformer(ctx context.Context, from, outDir string, opt Options) (model.Manifest, error) {
	if opt.Variant == "" {
		opt.Variant = EncoderVariants()[0]
	}
	m, err := sentence(ctx, from, outDir, opt)
	if err != nil {
		return model.Manifest{}, fmt.Errorf("convert %s to %s: %w", from, opt.Variant, err)
	}
	return m, nil
}

func sentence(ctx context.Context, from, outDir string, opt Options) (_ model.Manifest, err error) {
	if !slices.Contains(EncoderVariants(), opt.Variant) {
		return model.Manifest{}, fmt.Errorf("there is no variant %q, choose one of %s", opt.Variant, strings.Join(EncoderVariants(), ", "))
	}
	e, err := readEncoder(from)
	if err != nil {
		return model.Manifest{}, err
	}
	words, err := os.ReadFile(filepath.Join(from, sentenceTokenizer))
	if err != nil {
		return model.Manifest{}, err
	}
	src, err := safetensors.Open(filepath.Join(from, sentenceWeights))
	if err != nil {
		return model.Manifest{}, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	opt.Source.URL = cmp.Or(opt.Source.URL, from)
	m := model.Manifest{
		Format: model.Format, Name: opt.Name, Variant: opt.Variant, Architecture: "bert", Kind: model.KindEmbed,
		Shape:   model.Shape{Layers: e.Layers, Hidden: e.Hidden, Heads: e.Heads, KVHeads: e.Heads, HeadDim: e.Hidden / e.Heads, FFN: e.FFN, Vocab: e.Vocab, ContextLength: e.length},
		Inputs:  []model.Port{{Name: model.EmbedIDs, Type: "INT64", Shape: []int64{-1}}, {Name: model.EmbedLengths, Type: "INT32", Shape: []int64{-1}}},
		Outputs: []model.Port{{Name: model.EmbedOutput, Type: "FP32", Shape: []int64{-1, int64(e.Hidden)}}},
		Source:  opt.Source, Created: time.Now().UTC().Truncate(time.Second),
	}
	m.Name = cmp.Or(m.Name, "unnamed")
	for _, t := range src.Tensors() {
		m.Parameters += int64(t.Elements())
	}
	w, err := createWeights(outDir)
	if err != nil {
		return m, err
	}
	b := &encoderBuilder{ctx: ctx, src: src, e: e, int8: opt.Variant == Q8, w: w, progress: opt.Progress}
	if err := b.build(); err != nil {
		return m, errors.Join(err, w.abort())
	}
	weights, err := w.finish()
	if err != nil {
		return m, err
	}
	m.Files = []model.File{weights}
	for name, content := range map[string][]byte{model.GraphFile: modelProto(b.graph()), model.TokenizerFile: words} {
		file, err := writeFile(outDir, name, content)
		if err != nil {
			return m, err
		}
		m.Files = append(m.Files, file)
	}
	slices.SortFunc(m.Files, func(a, b model.File) int { return strings.Compare(a.Name, b.Name) })
	return m, model.Write(outDir, m) // last: a folder that has a manifest is complete
}

// readEncoder reads the folder's configuration and refuses what the graph would silently compute
// differently.
func readEncoder(from string) (encoder, error) {
	var e encoder
	var pooling struct {
		Mean bool `json:"pooling_mode_mean_tokens"`
		CLS  bool `json:"pooling_mode_cls_token"`
		Max  bool `json:"pooling_mode_max_tokens"`
		Root bool `json:"pooling_mode_mean_sqrt_len_tokens"`
	}
	var length struct {
		Most int `json:"max_seq_length"`
	}
	for name, to := range map[string]any{sentenceConfig: &e, sentencePooling: &pooling, sentenceLength: &length} {
		raw, err := os.ReadFile(filepath.Join(from, filepath.FromSlash(name)))
		if err != nil {
			return e, err
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return e, fmt.Errorf("%s: %w", name, err)
		}
	}
	if e.length = length.Most; e.length < 1 || e.length > e.Positions {
		e.length = e.Positions
	}
	switch {
	case e.Kind != "bert":
		return e, fmt.Errorf("model_type %q: only bert encoders are converted", e.Kind)
	case e.Activation != "gelu":
		return e, fmt.Errorf("hidden_act %q: only gelu is converted", e.Activation)
	case e.Position != "" && e.Position != "absolute":
		return e, fmt.Errorf("position_embedding_type %q: only absolute is converted", e.Position)
	case !pooling.Mean || pooling.CLS || pooling.Max || pooling.Root:
		return e, errors.New("pooling: only the mean of the tokens is converted")
	case min(e.Hidden, e.FFN, e.Heads, e.Layers, e.Positions, e.Vocab) < 1 || max(e.Hidden, e.FFN) > 1<<16 || e.Layers > 1<<10 || e.Hidden%e.Heads != 0 || e.length < 3:
		return e, fmt.Errorf("the shape of the encoder in %s makes no sense: %+v", sentenceConfig, e)
	}
	return e, nil
}
