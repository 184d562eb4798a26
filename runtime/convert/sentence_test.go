package convert_test

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
)

// tinyEncoder is the weights of a BERT encoder of one layer, all zero, as a safetensors file.
func tinyEncoder(t *testing.T) string {
	t.Helper()
	header, at := map[string]any{}, 0
	add := func(name string, shape ...int) {
		n := 4
		for _, d := range shape {
			n *= d
		}
		header[name] = map[string]any{"dtype": "F32", "shape": shape, "data_offsets": []int{at, at + n}}
		at += n
	}
	add("embeddings.word_embeddings.weight", 10, 8)
	add("embeddings.position_embeddings.weight", 32, 8)
	add("embeddings.token_type_embeddings.weight", 2, 8)
	for _, norm := range []string{"embeddings.LayerNorm", "encoder.layer.0.attention.output.LayerNorm", "encoder.layer.0.output.LayerNorm"} {
		add(norm+".weight", 8)
		add(norm+".bias", 8)
	}
	for name, size := range map[string][2]int{
		"attention.self.query": {8, 8}, "attention.self.key": {8, 8}, "attention.self.value": {8, 8}, "attention.output.dense": {8, 8},
		"intermediate.dense": {16, 8}, "output.dense": {8, 16},
	} {
		add("encoder.layer.0."+name+".weight", size[0], size[1])
		add("encoder.layer.0."+name+".bias", size[0])
	}
	raw, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(raw))), raw...)
	return string(append(file, make([]byte, at)...))
}

// TestSentenceTransformer converts folders of several versions of sentence-transformers, and refuses those whose
// vectors would be others.
func TestSentenceTransformer(t *testing.T) {
	t.Parallel()
	weights := tinyEncoder(t)
	const modules = `[{"path":"","type":"sentence_transformers.models.Transformer"},{"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}`
	for _, c := range []struct {
		name   string
		files  map[string]string
		length int    // of the model's texts
		refuse string // part of the error
	}{
		{name: "of the catalog", length: 24},
		{name: "with modules", files: map[string]string{"modules.json": modules + `,{"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]`}, length: 24},
		{name: "as version 6 saves it", length: 16, files: map[string]string{
			"modules.json": `[{"path":"","type":"sentence_transformers.base.modules.transformer.Transformer"},
				{"path":"1_Pooling","type":"sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
				{"path":"2_Normalize","type":"sentence_transformers.sentence_transformer.modules.normalize.Normalize"}]`,
			"1_Pooling/config.json":             `{"embedding_dimension":8,"pooling_mode":"mean","include_prompt":true}`,
			"sentence_bert_config.json":         `{"transformer_task":"feature-extraction"}`,
			"tokenizer_config.json":             `{"model_max_length":16}`,
			"config_sentence_transformers.json": `{"prompts":{"query":"","document":""},"default_prompt_name":null}`,
		}},
		{name: "no bound", length: 32, files: map[string]string{"sentence_bert_config.json": `{"max_seq_length":null}`, "tokenizer_config.json": `{"model_max_length":1000000000000000019884624838656}`}},
		{name: "lower case anyway", length: 24, files: map[string]string{
			"sentence_bert_config.json": `{"max_seq_length":24,"do_lower_case":true}`, "tokenizer.json": `{"normalizer":{"lowercase":true}}`,
		}},
		{name: "no normalize", files: map[string]string{"modules.json": modules + `]`}, refuse: "only Transformer"},
		{name: "dense", files: map[string]string{"modules.json": modules + `,{"path":"2_Dense","type":"sentence_transformers.models.Dense"},{"path":"3_Normalize","type":"sentence_transformers.models.Normalize"}]`}, refuse: "Dense"},
		{name: "cls", files: map[string]string{"1_Pooling/config.json": `{"pooling_mode":"cls"}`}, refuse: "pooling"},
		{name: "two", files: map[string]string{"1_Pooling/config.json": `{"pooling_mode":["mean","cls"]}`}, refuse: "pooling"},
		{name: "mean and last", files: map[string]string{"1_Pooling/config.json": `{"pooling_mode_mean_tokens":true,"pooling_mode_lasttoken":true}`}, refuse: "pooling"},
		{name: "mean and weighted", files: map[string]string{"1_Pooling/config.json": `{"pooling_mode_mean_tokens":true,"pooling_mode_weightedmean_tokens":true}`}, refuse: "pooling"},
		{name: "prompt", files: map[string]string{"config_sentence_transformers.json": `{"prompts":{"query":"query: "},"default_prompt_name":"query"}`}, refuse: "default_prompt_name"},
		{name: "lower case", files: map[string]string{"sentence_bert_config.json": `{"max_seq_length":24,"do_lower_case":true}`}, refuse: "do_lower_case"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{
				"config.json": `{"model_type":"bert","hidden_act":"gelu","hidden_size":8,"intermediate_size":16,"num_attention_heads":2,
					"num_hidden_layers":1,"max_position_embeddings":32,"vocab_size":10,"layer_norm_eps":1e-12}`,
				"1_Pooling/config.json":     `{"word_embedding_dimension":8,"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":true}`,
				"sentence_bert_config.json": `{"max_seq_length":24,"do_lower_case":false}`, "tokenizer.json": "{}", "model.safetensors": weights,
			}
			maps.Copy(files, c.files)
			from := t.TempDir()
			for name, content := range files {
				path := filepath.Join(from, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			m, err := convert.FromSentenceTransformer(t.Context(), from, t.TempDir(), convert.Options{Name: "tiny", Variant: convert.FP32})
			if c.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), c.refuse) {
					t.Errorf("FromSentenceTransformer: %v, want an error with %q", err, c.refuse)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.Shape.ContextLength != c.length {
				t.Errorf("texts of %d tokens, want %d", m.Shape.ContextLength, c.length)
			}
		})
	}
}
