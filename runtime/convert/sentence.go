package convert

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	sentenceSplitter  = "tokenizer_config.json"
	sentenceModules   = "modules.json"
	sentencePrompts   = "config_sentence_transformers.json"
)

// sentenceSteps are the modules of a folder that is converted, and where they lie.
var sentenceSteps = []string{"Transformer in \"\"", "Pooling in \"1_Pooling\"", "Normalize in \"2_Normalize\""}

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
	var pooling map[string]any
	var length struct {
		Most  int  `json:"max_seq_length"`
		Lower bool `json:"do_lower_case"`
	}
	var splitter struct {
		Most float64 `json:"model_max_length"` // 1e30 is what it says of no bound
	}
	var words struct {
		Normalizer struct {
			Lower bool `json:"lowercase"`
		} `json:"normalizer"`
	}
	var modules []struct{ Path, Type string }
	var prompts struct {
		Default string `json:"default_prompt_name"`
	}
	for name, to := range map[string]any{
		sentenceConfig: &e, sentencePooling: &pooling, sentenceLength: &length, sentenceTokenizer: &words, sentenceSplitter: &splitter, sentenceModules: &modules, sentencePrompts: &prompts,
	} {
		raw, err := os.ReadFile(filepath.Join(from, filepath.FromSlash(name)))
		if missing := errors.Is(err, fs.ErrNotExist); missing && name != sentenceConfig && name != sentencePooling {
			continue
		}
		if err != nil {
			return e, err
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return e, fmt.Errorf("%s: %w", name, err)
		}
	}
	var steps []string
	for _, m := range modules {
		steps = append(steps, fmt.Sprintf("%s in %q", m.Type[strings.LastIndexByte(m.Type, '.')+1:], m.Path))
	}
	if e.length = length.Most; e.length < 1 && splitter.Most >= 1 && splitter.Most < float64(e.Positions) {
		e.length = int(splitter.Most)
	}
	if e.length < 1 || e.length > e.Positions {
		e.length = e.Positions
	}
	switch {
	case e.Kind != "bert":
		return e, fmt.Errorf("model_type %q: only bert encoders are converted", e.Kind)
	case e.Activation != "gelu":
		return e, fmt.Errorf("hidden_act %q: only gelu is converted", e.Activation)
	case e.Position != "" && e.Position != "absolute":
		return e, fmt.Errorf("position_embedding_type %q: only absolute is converted", e.Position)
	case steps != nil && !slices.Equal(steps, sentenceSteps):
		return e, fmt.Errorf("%s: %s: only %s are converted", sentenceModules, strings.Join(steps, ", "), strings.Join(sentenceSteps, ", "))
	case prompts.Default != "":
		return e, fmt.Errorf("default_prompt_name %.100q: texts are embedded as they are, without a prompt", prompts.Default)
	case length.Lower && !words.Normalizer.Lower:
		return e, errors.New("do_lower_case: only what the tokenizer itself lowers is converted")
	case !onlyMean(pooling):
		return e, errors.New("pooling: only the mean of the tokens is converted")
	case min(e.Hidden, e.FFN, e.Heads, e.Layers, e.Positions, e.Vocab) < 1 || max(e.Hidden, e.FFN) > 1<<16 || e.Layers > 1<<10 || e.Hidden%e.Heads != 0 || e.length < 3:
		return e, fmt.Errorf("the shape of the encoder in %s makes no sense: %+v", sentenceConfig, e)
	}
	return e, nil
}

// onlyMean tells whether the mean of the tokens is all that is pooled; older folders have a switch for each kind.
func onlyMean(pooling map[string]any) bool {
	if kind, ok := pooling["pooling_mode"]; ok {
		return kind == "mean"
	}
	for name, on := range pooling {
		if strings.HasPrefix(name, "pooling_mode_") && on == true && name != "pooling_mode_mean_tokens" {
			return false
		}
	}
	return pooling["pooling_mode_mean_tokens"] == true
}
