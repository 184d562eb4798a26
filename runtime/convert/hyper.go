package convert

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/quant"
)

// family is how an architecture differs from the others that one graph is made for: all are decoders
// of the Llama kind.
type family struct {
	// interleaved: the rows of Q and K are stored for a rotary kernel that turns neighboring pairs (the
	// converters of llama.cpp permute them so for Llama alone); elsewhere halves are turned (NEOX).
	interleaved bool
	bias        bool // Q, K and V have biases
	headNorms   bool // each head of Q and K is normalized before it is turned
}

var families = map[string]family{
	"llama": {interleaved: true}, // also Mistral, SmolLM and others that are stored under this name
	"qwen2": {bias: true},
	"qwen3": {headNorms: true},
}

// hyper is what a file says of its model beyond the weights.
type hyper struct {
	model.Shape
	family
	arch      string    // prefix of the metadata's keys
	epsilon   float32   // of the RMS norms
	ropeBase  float64   // rotary frequency i is ropeBase^(-2i/HeadDim)
	ropeScale float64   // positions are divided by it: linear scaling, usually 1
	ropeFreqs []float32 // each frequency is divided by its own factor (Llama 3.1 and later); nil for none
}

const (
	maxLayers  = 1 << 10
	maxSize    = 1 << 20 // of Hidden, FFN and ContextLength
	maxHeads   = 1 << 10
	maxHeadDim = 1 << 10
)

func readHyper(f *gguf.File) (hyper, error) {
	var h hyper
	if n, ok := f.Int("split.count"); ok && n > 1 {
		return h, fmt.Errorf("the file is one of %d pieces: join them with llama-gguf-split --merge", n)
	}
	arch, ok := f.Text("general.architecture")
	if h.family, ok = families[arch]; !ok {
		return h, fmt.Errorf("architecture %q is not supported, only %s are", arch, strings.Join(slices.Sorted(maps.Keys(families)), ", "))
	}
	h.arch = arch + "."
	if err := h.sizes(f); err != nil {
		return h, err
	}
	if err := h.rope(f); err != nil {
		return h, err
	}
	epsilon, ok := f.Float(h.arch + "attention.layer_norm_rms_epsilon")
	if !ok || !(epsilon > 0 && epsilon < 1) {
		return h, fmt.Errorf("metadata %sattention.layer_norm_rms_epsilon is missing or out of range (%g)", h.arch, epsilon)
	}
	h.epsilon = float32(epsilon)
	return h, nil
}

func (h *hyper) sizes(f *gguf.File) error {
	for _, m := range []struct {
		key   string
		to    *int
		limit int
	}{
		{"block_count", &h.Layers, maxLayers},
		{"embedding_length", &h.Hidden, maxSize},
		{"feed_forward_length", &h.FFN, maxSize},
		{"context_length", &h.ContextLength, maxSize},
		{"attention.head_count", &h.Heads, maxHeads},
	} {
		n, ok := f.Int(h.arch + m.key)
		if !ok || n < 1 || n > m.limit {
			return fmt.Errorf("metadata %s%s is missing or out of range (%d, at most %d)", h.arch, m.key, n, m.limit)
		}
		*m.to = n
	}
	if n, ok := f.Int(h.arch + "expert_count"); ok && n > 0 {
		return fmt.Errorf("mixtures of experts are not supported (%sexpert_count is %d)", h.arch, n)
	}
	optional := func(key string, otherwise, limit int) (int, error) {
		if !f.Has(h.arch + key) {
			return otherwise, nil
		}
		n, ok := f.Int(h.arch + key)
		if !ok || n < 1 || n > limit {
			return 0, fmt.Errorf("metadata %s%s is no number from 1 to %d", h.arch, key, limit)
		}
		return n, nil
	}
	var err error
	if h.KVHeads, err = optional("attention.head_count_kv", h.Heads, maxHeads); err != nil {
		return err
	}
	if h.HeadDim, err = optional("attention.key_length", h.Hidden/h.Heads, maxHeadDim); err != nil {
		return err
	}
	values, err := optional("attention.value_length", h.HeadDim, maxHeadDim)
	if err != nil {
		return err
	}
	embed, ok := f.Tensor(tensorEmbed)
	if !ok || len(embed.Dims) != 2 {
		return fmt.Errorf("tensor %s is missing or no matrix", tensorEmbed)
	}
	h.Vocab = embed.Dims[1]
	switch {
	case h.Heads%h.KVHeads != 0:
		return fmt.Errorf("%d query heads cannot share %d key heads evenly", h.Heads, h.KVHeads)
	case values != h.HeadDim:
		return fmt.Errorf("key length %d and value length %d differ, which is not supported", h.HeadDim, values)
	case h.HeadDim%16 != 0 || h.HeadDim > maxHeadDim: // as the attention kernel wants it
		return fmt.Errorf("head size %d is no multiple of 16 up to %d", h.HeadDim, maxHeadDim)
	case h.Hidden%quant.Block != 0 || h.FFN%quant.Block != 0 || h.Heads*h.HeadDim%quant.Block != 0:
		return fmt.Errorf("sizes %d (hidden), %d (feed forward), %d (heads) must be multiples of %d", h.Hidden, h.FFN, h.Heads*h.HeadDim, quant.Block)
	}
	return nil
}

// rope reads the rotary embedding's parameters and refuses the kinds that the graph cannot express.
func (h *hyper) rope(f *gguf.File) error {
	h.ropeBase, h.ropeScale = 10000, 1
	if key := h.arch + "rope.freq_base"; f.Has(key) {
		base, ok := f.Float(key)
		if !ok {
			return fmt.Errorf("metadata %s is no floating-point number", key)
		}
		h.ropeBase = base
	}
	if dims, ok := f.Int(h.arch + "rope.dimension_count"); ok && dims != h.HeadDim {
		return fmt.Errorf("rotary embedding of %d of %d dimensions is not supported", dims, h.HeadDim)
	}
	if err := h.scaling(f); err != nil {
		return err
	}
	if !(h.ropeBase > 1 && h.ropeBase <= math.MaxFloat32) || !(h.ropeScale > 0 && h.ropeScale <= math.MaxFloat32) {
		return fmt.Errorf("rotary base %g or scale %g is out of range", h.ropeBase, h.ropeScale)
	}
	t, ok := f.Tensor(tensorRopeFreqs)
	if !ok {
		return nil
	}
	if t.Elements() != int64(h.HeadDim/2) || t.Rows() != 1 {
		return fmt.Errorf("tensor %s has shape %v, wanted [%d]", t.Name, t.Dims, h.HeadDim/2)
	}
	var err error
	if h.ropeFreqs, err = f.Floats(t, 0, 1); err != nil {
		return err
	}
	for i, v := range h.ropeFreqs {
		if !(v > 0 && v <= math.MaxFloat32) {
			return fmt.Errorf("tensor %s: factor %d is %g", t.Name, i, v)
		}
	}
	return nil
}

// scaling reads by what positions are divided. As for llama.cpp, a factor without a type means linear scaling, and
// 0 means none; old files have another key.
func (h *hyper) scaling(f *gguf.File) error {
	kind, _ := f.Text(h.arch + "rope.scaling.type")
	switch kind {
	case "none":
		return nil
	case "", "linear":
	default:
		return fmt.Errorf("rope scaling %q is not supported, only linear is", kind)
	}
	for _, key := range []string{h.arch + "rope.scaling.factor", h.arch + "rope.scale_linear"} {
		if !f.Has(key) {
			continue
		}
		scale, ok := f.Float(key)
		if !ok {
			return fmt.Errorf("metadata %s is no floating-point number", key)
		}
		if scale != 0 {
			h.ropeScale = scale
		}
		return nil
	}
	if kind == "linear" {
		return fmt.Errorf("metadata %srope.scaling.factor is missing", h.arch)
	}
	return nil
}

// angle is the rotary angle of frequency i at a position, in radians, rounded as float32 kernels do.
func (h *hyper) angle(position, i int) float64 {
	freq := math.Pow(h.ropeBase, -2*float64(i)/float64(h.HeadDim)) / h.ropeScale
	if h.ropeFreqs != nil {
		freq /= float64(h.ropeFreqs[i])
	}
	return float64(float32(float64(position) * float64(float32(freq))))
}
