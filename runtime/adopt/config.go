package adopt

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Files of the tools' folders.
const (
	genaiFile      = "genai_config.json"
	configFile     = "config.json"
	generationFile = "generation_config.json"
)

// maxConfig bounds such a file in bytes.
const maxConfig = 4 << 20

// facts are what configuration files say of a model; 0 is what they do not say.
type facts struct {
	file                                    string // of the graph; "" when nothing is said
	architecture                            string
	layers, hidden, heads, kvHeads, headDim int
	ffn, vocab, context                     int
	eos                                     []int32
	names                                   names
}

// names are those of inputs and outputs.
type names struct {
	ids, mask, positions, logits string
	past, present                [2]string // of keys and values, with %d
}

func usualNames() names {
	return names{ids: "input_ids", mask: "attention_mask", positions: "position_ids", logits: "logits"}
}

// idList is one token id, or several, or null.
type idList []int32

func (l *idList) UnmarshalJSON(b []byte) error {
	var one *int32
	if json.Unmarshal(b, &one) == nil {
		if one != nil {
			*l = idList{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]int32)(l))
}

// genaiJSON is genai_config.json of the onnxruntime-genai builder.
type genaiJSON struct {
	Model struct {
		Type          string `json:"type"`
		VocabSize     int    `json:"vocab_size"`
		ContextLength int    `json:"context_length"`
		EOS           idList `json:"eos_token_id"`
		Decoder       struct {
			Filename  string            `json:"filename"`
			HeadSize  int               `json:"head_size"`
			Hidden    int               `json:"hidden_size"`
			Heads     int               `json:"num_attention_heads"`
			Layers    int               `json:"num_hidden_layers"`
			KVHeads   int               `json:"num_key_value_heads"`
			Inputs    map[string]string `json:"inputs"`
			Outputs   map[string]string `json:"outputs"`
			Pipeline  json.RawMessage   `json:"pipeline"`
			SlidingKV json.RawMessage   `json:"sliding_window"`
		} `json:"decoder"`
		Encoder json.RawMessage `json:"encoder"`
		Vision  json.RawMessage `json:"vision"`
	} `json:"model"`
}

// configJSON is config.json of Hugging Face, with the older spellings.
type configJSON struct {
	Type     string `json:"model_type"`
	Layers   int    `json:"num_hidden_layers"`
	NLayer   int    `json:"n_layer"`
	Hidden   int    `json:"hidden_size"`
	NEmbd    int    `json:"n_embd"`
	Heads    int    `json:"num_attention_heads"`
	NHead    int    `json:"n_head"`
	KVHeads  int    `json:"num_key_value_heads"`
	HeadDim  int    `json:"head_dim"`
	FFN      int    `json:"intermediate_size"`
	Vocab    int    `json:"vocab_size"`
	Context  int    `json:"max_position_embeddings"`
	NContext int    `json:"n_positions"`
	EOS      idList `json:"eos_token_id"`
}

// readFacts reads what configuration files there are; genai_config.json comes first.
func readFacts(dir string) (facts, error) {
	f := facts{names: usualNames()}
	var g genaiJSON
	if ok, err := readJSON(filepath.Join(dir, genaiFile), &g); err != nil {
		return f, err
	} else if ok {
		if err := f.genai(g); err != nil {
			return f, fmt.Errorf("%s: %w", genaiFile, err)
		}
	}
	var c configJSON
	found, err := readJSON(filepath.Join(dir, configFile), &c)
	if err != nil {
		return f, err
	}
	if !found && f.file == "" {
		return f, fmt.Errorf("%s has neither %s nor %s, which describe the model: %w", dir, configFile, genaiFile, ErrUnsupported)
	}
	f.config(c)
	var generation struct {
		EOS idList `json:"eos_token_id"`
	}
	if _, err := readJSON(filepath.Join(dir, generationFile), &generation); err != nil {
		return f, err
	}
	for _, id := range slices.Concat(generation.EOS, c.EOS) {
		if !slices.Contains(f.eos, id) {
			f.eos = append(f.eos, id)
		}
	}
	return f, nil
}

func (f *facts) genai(g genaiJSON) error {
	d := g.Model.Decoder
	for what, raw := range map[string]json.RawMessage{"pipeline": d.Pipeline, "sliding_window": d.SlidingKV, "encoder": g.Model.Encoder, "vision": g.Model.Vision} {
		if len(raw) > 0 && string(raw) != "null" {
			return fmt.Errorf("a model with %s: %w", what, ErrUnsupported)
		}
	}
	f.file, f.architecture = d.Filename, g.Model.Type
	if f.file == "" {
		return errors.New("model.decoder.filename is missing")
	}
	f.layers, f.hidden, f.heads, f.kvHeads, f.headDim = d.Layers, d.Hidden, d.Heads, d.KVHeads, d.HeadSize
	f.vocab, f.context, f.eos = g.Model.VocabSize, g.Model.ContextLength, g.Model.EOS
	n := &f.names
	n.ids, n.mask = cmp.Or(d.Inputs["input_ids"], n.ids), cmp.Or(d.Inputs["attention_mask"], n.mask)
	n.positions, n.logits = cmp.Or(d.Inputs["position_ids"], n.positions), cmp.Or(d.Outputs["logits"], n.logits)
	n.past = [2]string{d.Inputs["past_key_names"], d.Inputs["past_value_names"]}
	n.present = [2]string{d.Outputs["present_key_names"], d.Outputs["present_value_names"]}
	return nil
}

// config fills what genai_config.json left open.
func (f *facts) config(c configJSON) {
	f.architecture = cmp.Or(f.architecture, c.Type)
	f.layers = cmp.Or(f.layers, c.Layers, c.NLayer)
	f.hidden = cmp.Or(f.hidden, c.Hidden, c.NEmbd)
	f.heads = cmp.Or(f.heads, c.Heads, c.NHead)
	f.kvHeads = cmp.Or(f.kvHeads, c.KVHeads, f.heads)
	if f.headDim = cmp.Or(f.headDim, c.HeadDim); f.headDim == 0 && f.heads > 0 {
		f.headDim = f.hidden / f.heads
	}
	f.ffn = cmp.Or(c.FFN, 4*f.hidden) // only told, never used
	f.vocab = cmp.Or(f.vocab, c.Vocab)
	f.context = cmp.Or(f.context, c.Context, c.NContext)
}

// readJSON reads a file that may be missing.
func readJSON(path string, to any) (found bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return false, err
	}
	if len(b) > maxConfig {
		return false, fmt.Errorf("%s is larger than the %d bytes that are read of such a file", path, maxConfig)
	}
	if err := json.Unmarshal(b, to); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}
