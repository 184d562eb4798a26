package convert_test

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/pelton-run/pelton/runtime/gguf/gguftest"
	"github.com/pelton-run/pelton/runtime/quant"
)

// tiny describes a small Llama file with random weights.
type tiny struct {
	arch                                         string // "" is llama
	hidden, heads, kvHeads, headDim, ffn, layers int

	weights, embed quant.Format
	head           quant.Format // F32 with tied set means: the embedding
	tied           bool
	ropeScale      float32 // 0 is none
	ropeFreqs      bool
	override       map[string]quant.Format // by the tensor's name within a layer
}

const tinyContext = 24

func small(weights, embed quant.Format) tiny {
	return tiny{hidden: 64, heads: 4, kvHeads: 2, headDim: 16, ffn: 96, layers: 2, weights: weights, embed: embed, tied: true}
}

// with is a model with a change.
func with(c tiny, change func(*tiny)) tiny {
	change(&c)
	return c
}

// wide has rows that are multiples of 256, as the K formats need.
func wide(weights, embed quant.Format) tiny {
	c := small(weights, embed)
	c.hidden, c.heads, c.headDim, c.ffn = 256, 8, 32, 512
	return c
}

// tinyTokens are the bytes in GPT-2's spelling, two merged ones and the special ones.
func tinyTokens() (tokens []string, kinds []int32) {
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if b <= ' ' || b >= 0x7f && b <= 0xa0 || b == 0xad {
			r, next = next, next+1
		}
		tokens, kinds = append(tokens, string(r)), append(kinds, 1)
	}
	tokens, kinds = append(tokens, "he", "Ġt"), append(kinds, 1, 1)
	tokens, kinds = append(tokens, "<|endoftext|>", "<|im_start|>", "<|im_end|>"), append(kinds, 3, 3, 3)
	return append(tokens, "<think>", `odd"\<>&`), append(kinds, 4, 1)
}

func (c tiny) build() *gguftest.Builder {
	rng := rand.New(rand.NewPCG(7, uint64(c.weights)))
	var b gguftest.Builder
	tokens, kinds := tinyTokens()
	arch := cmp.Or(c.arch, "llama")
	for _, kv := range []struct {
		key   string
		value any
	}{
		{"general.architecture", arch}, {"general.name", "Tiny Llama 1.0"},
		{arch + ".block_count", uint32(c.layers)}, {arch + ".embedding_length", uint32(c.hidden)},
		{arch + ".feed_forward_length", uint32(c.ffn)}, {arch + ".context_length", uint32(tinyContext)},
		{arch + ".attention.head_count", uint32(c.heads)}, {arch + ".attention.head_count_kv", uint32(c.kvHeads)},
		{arch + ".attention.key_length", uint32(c.headDim)}, {arch + ".attention.value_length", uint32(c.headDim)},
		{arch + ".rope.dimension_count", uint32(c.headDim)}, {arch + ".rope.freq_base", float32(100)},
		{arch + ".attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"tokenizer.ggml.model", "gpt2"}, {"tokenizer.ggml.pre", "smollm"}, {"tokenizer.ggml.tokens", tokens},
		{"tokenizer.ggml.token_type", kinds}, {"tokenizer.ggml.merges", []string{"h e", "Ġ t"}},
		{"tokenizer.ggml.eos_token_id", uint32(260)}, {"tokenizer.chat_template", "{{ messages[0].content }}<|im_end|>"},
	} {
		b.Set(kv.key, kv.value)
	}
	if c.ropeScale != 0 {
		b.Set(arch+".rope.scaling.type", "linear")
		b.Set(arch+".rope.scaling.factor", c.ropeScale)
	}
	add := func(name string, f quant.Format, dims ...int) {
		n := 1
		for _, d := range dims {
			n *= d
		}
		b.Add(name, f, gguftest.Weights(rng, f, n), dims...)
	}
	add("token_embd.weight", c.embed, c.hidden, len(tokens))
	for i := range c.layers {
		layer := func(name string, f quant.Format, dims ...int) {
			if o, ok := c.override[name]; ok {
				f = o
			}
			add("blk."+strconv.Itoa(i)+"."+name+".weight", f, dims...)
		}
		q, kv := c.heads*c.headDim, c.kvHeads*c.headDim
		b.Add("blk."+strconv.Itoa(i)+".attn_norm.weight", quant.F32, nearOne(rng, c.hidden), c.hidden)
		layer("attn_q", c.weights, c.hidden, q)
		layer("attn_k", c.weights, c.hidden, kv)
		layer("attn_v", c.weights, c.hidden, kv)
		for name, n := range map[string]int{"q": q, "k": kv, "v": kv} {
			if arch == "qwen2" {
				b.Add("blk."+strconv.Itoa(i)+".attn_"+name+".bias", quant.F32, nearOne(rng, n), n)
			}
			if arch == "qwen3" && name != "v" {
				b.Add("blk."+strconv.Itoa(i)+".attn_"+name+"_norm.weight", quant.F32, nearOne(rng, c.headDim), c.headDim)
			}
		}
		layer("attn_output", c.weights, q, c.hidden)
		b.Add("blk."+strconv.Itoa(i)+".ffn_norm.weight", quant.F32, nearOne(rng, c.hidden), c.hidden)
		layer("ffn_gate", c.weights, c.hidden, c.ffn)
		layer("ffn_up", c.weights, c.hidden, c.ffn)
		layer("ffn_down", c.weights, c.ffn, c.hidden)
	}
	b.Add("output_norm.weight", quant.F32, nearOne(rng, c.hidden), c.hidden)
	if !c.tied {
		add("output.weight", c.head, c.hidden, len(tokens))
	}
	if c.ropeFreqs {
		factors := make([]byte, 0, 4*c.headDim/2)
		for i := range c.headDim / 2 {
			factors = append(factors, 0, 0, 0x80+byte(i), 0x3f) // 1, 1.0078, 1.0156, …
		}
		b.Add("rope_freqs.weight", quant.F32, factors, c.headDim/2)
	}
	return &b
}

// nearOne are n float32 weights of a norm.
func nearOne(rng *rand.Rand, n int) []byte {
	var out []byte
	for range n {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(1+float32(rng.NormFloat64())/4))
	}
	return out
}

// write stores a file and returns its path.
func write(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
