package convert_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/gguf/gguftest"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/quant"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// The evaluated graph equals the model that the source describes: to float32's rounding where the
// variant keeps the source's numbers, and to that of 8-bit weights where it does not.
func TestGraphEqualsSource(t *testing.T) {
	t.Parallel()
	const exact, packed = 2e-4, 5e-2 // of the largest logit
	for _, c := range []struct {
		name, variant string
		tiny          tiny
		within        float64
	}{
		{"q8 of Q8_0", convert.Q8, small(quant.Q80, quant.Q80), exact},
		{"q8 of Q8_0, head of its own", convert.Q8, with(small(quant.Q80, quant.Q80), func(c *tiny) { c.tied, c.head = false, quant.Q80 }), exact},
		{"q8 of Q8_0, longer heads", convert.Q8, with(small(quant.Q80, quant.Q80), func(c *tiny) { c.headDim = 32 }), exact},
		{"q8 of Q4_1", convert.Q8, small(quant.Q41, quant.Q80), packed},
		{"q8 of F16", convert.Q8, small(quant.F16, quant.F16), packed},
		{"q8 of Q6_K", convert.Q8, wide(quant.Q6K, quant.Q6K), packed},
		{"q4 of Q4_1", convert.Q4, small(quant.Q41, quant.Q80), exact},
		{"q4 of Q4_0", convert.Q4, small(quant.Q40, quant.Q80), exact},
		{"q4 of Q4_K", convert.Q4, wide(quant.Q4K, quant.Q80), exact},
		{"q4 of Q4_1, some Q8_0", convert.Q4, with(small(quant.Q41, quant.Q80), func(c *tiny) {
			c.override = map[string]quant.Format{"ffn_down": quant.Q80, "attn_output": quant.Q80}
		}), exact},
		{"q4 of Q4_0 and Q4_1 in one matrix", convert.Q4, with(small(quant.Q40, quant.Q80), func(c *tiny) {
			c.override = map[string]quant.Format{"attn_v": quant.Q41}
		}), exact},
		{"q4 of F16", convert.Q4, small(quant.F16, quant.F16), packed},
		{"q4 of Q4_0, head of its own, odd sizes", convert.Q4, with(small(quant.Q40, quant.Q40), func(c *tiny) {
			c.tied, c.head, c.headDim = false, quant.Q41, 32
		}), exact},
		{"bf16-w4 of Q4_1", convert.BF16W4, small(quant.Q41, quant.Q80), exact},
		{"bf16-w4 of Q4_K, some Q8_0", convert.BF16W4, with(wide(quant.Q4K, quant.Q80), func(c *tiny) {
			c.override = map[string]quant.Format{"ffn_down": quant.Q80, "attn_output": quant.Q80}
		}), exact},
		{"bf16-w4 of F16", convert.BF16W4, small(quant.F16, quant.F16), packed},
		{"bf16-w4 of qwen2", convert.BF16W4, with(small(quant.Q41, quant.Q80), func(c *tiny) { c.arch, c.tied, c.head = "qwen2", false, quant.Q80 }), exact},
		{"fp32 of F32", convert.FP32, small(quant.F32, quant.F32), exact},
		{"fp32 of BF16", convert.FP32, small(quant.BF16, quant.F16), exact},
		{"fp32 of Q4_1", convert.FP32, small(quant.Q41, quant.Q80), exact},
		{"fp32 of Q5_0", convert.FP32, small(quant.Q50, quant.Q51), exact},
		{"fp32 of Q5_K and Q6_K in one matrix", convert.FP32, with(wide(quant.Q5K, quant.Q6K), func(c *tiny) {
			c.override = map[string]quant.Format{"attn_v": quant.Q6K, "ffn_up": quant.F16, "ffn_gate": quant.Q4K}
		}), exact},
		{"fp32, head of its own, scaled rotary", convert.FP32, with(small(quant.F32, quant.F32), func(c *tiny) {
			c.tied, c.ropeScale, c.ropeFreqs = false, 2, true
		}), exact},
		{"fp32 of qwen2", convert.FP32, with(small(quant.F32, quant.F32), func(c *tiny) { c.arch = "qwen2" }), exact},
		{"q8 of qwen2", convert.Q8, with(small(quant.Q80, quant.Q80), func(c *tiny) { c.arch = "qwen2" }), exact},
		{"q4 of qwen2", convert.Q4, with(small(quant.Q41, quant.Q80), func(c *tiny) { c.arch, c.tied, c.head = "qwen2", false, quant.Q80 }), exact},
		{"fp32 of qwen3", convert.FP32, with(small(quant.F16, quant.F32), func(c *tiny) { c.arch = "qwen3" }), exact},
		{"q8 of qwen3, longer heads", convert.Q8, with(small(quant.Q80, quant.Q80), func(c *tiny) { c.arch, c.headDim = "qwen3", 32 }), exact},
		{"fused", convert.Fused, small(quant.Q41, quant.Q80), exact},
		{"naive", convert.Naive, small(quant.Q41, quant.Q80), exact},
		{"naive of qwen2", convert.Naive, with(small(quant.F32, quant.F32), func(c *tiny) { c.arch, c.tied, c.head = "qwen2", false, quant.Q80 }), exact},
		{"fp32, one head for all", convert.FP32, with(small(quant.F32, quant.F32), func(c *tiny) { c.kvHeads = 1 }), exact},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, m, f := converted(t, c.tiny, c.variant)
			checkShape(t, m, c.tiny)
			ids := []int64{5, 200, 256, 31, 262, 7, 7}
			want := reference{t, f, c.tiny}.logits(ids)
			checkLogits(t, load(t, dir), m.Shape, ids, want, c.within)
		})
	}
}

// converted is a tiny model in a variant, beside its source.
func converted(t *testing.T, c tiny, variant string) (dir string, m model.Manifest, f *gguf.File) {
	t.Helper()
	raw := c.build().Bytes()
	f, err := gguf.Parse(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if m, err = convert.FromGGUF(t.Context(), write(t, raw), dir, convert.Options{Variant: variant}); err != nil {
		t.Fatal(err)
	}
	return dir, m, f
}

func checkShape(t *testing.T, m model.Manifest, c tiny) {
	t.Helper()
	width := 4
	if m.Variant == convert.Q4 || m.Variant == convert.BF16W4 {
		width = 2
	}
	want := model.Shape{Layers: c.layers, Hidden: c.hidden, Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.headDim, FFN: c.ffn, Vocab: 263, ContextLength: tinyContext, KVWidth: width}
	if diff := cmp.Diff(want, m.Shape); diff != "" {
		t.Errorf("shape (-want +got):\n%s", diff)
	}
}

// checkLogits feeds the graph all tokens but the last as a prompt, then the last alone.
func checkLogits(t *testing.T, e *evaluator, s model.Shape, ids []int64, want []float64, within float64) {
	t.Helper()
	caches := map[string]array{}
	for i := range s.Layers {
		for _, kv := range []string{"keys.", "values."} {
			caches[kv+strconv.Itoa(i)] = array{dims: []int{1, s.KVHeads, 16, s.HeadDim}, f: make([]float32, s.KVHeads*16*s.HeadDim)}
		}
	}
	feed := func(ids []int64, past int, rows ...int64) []float32 {
		in := map[string]array{"ids": {dims: []int{len(ids)}, i: ids}, "sel": {dims: []int{len(rows)}, i: rows}, "places": {dims: []int{len(ids), 2}}}
		for i := range ids {
			in["places"] = array{dims: in["places"].dims, i: append(in["places"].i, 0, int64(past+i))}
		}
		maps.Copy(in, caches)
		return e.run(in)["logits"].f
	}
	last := len(ids) - 1
	got := slices.Concat(feed(ids[:last], 0, 0, 2, int64(last-1)), feed(ids[last:], last, 0))
	compareLogits(t, got, s, ids, want, within)
}

// compareLogits compares those behind tokens 0, 2, the last but one and the last.
func compareLogits(t *testing.T, got []float32, s model.Shape, ids []int64, want []float64, within float64) {
	t.Helper()
	last := len(ids) - 1
	peak, worst := 0.0, 0.0
	for at, row := range []int{0, 2, last - 1, last} {
		for i := range s.Vocab {
			w := want[row*s.Vocab+i]
			peak = max(peak, math.Abs(w))
			if diff := math.Abs(float64(got[at*s.Vocab+i]) - w); !(diff <= worst) {
				worst = diff
			}
		}
	}
	if !(worst <= within*peak) || peak < 0.1 {
		t.Errorf("logits differ by up to %g, allowed are %g (the largest is %g)", worst, within*peak, peak)
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	dir, path := t.TempDir(), write(t, small(quant.Q41, quant.Q80).build().Bytes())
	var done, total []int64
	m, err := convert.FromGGUF(t.Context(), path, dir, convert.Options{Source: model.Source{License: "MIT"}, Progress: func(d, n int64) {
		done, total = append(done, d), append(total, n)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(done) || len(done) == 0 || done[len(done)-1] != total[0] {
		t.Errorf("progress %v of %v: it should grow to the total", done, total)
	}
	if m.Name != "tiny-llama-1.0" || m.Variant != convert.Q8 || m.Source.URL != path || m.Source.License != "MIT" {
		t.Errorf("manifest is of %s, variant %s, source %+v", m.Name, m.Variant, m.Source)
	}
	if diff := cmp.Diff([]int32{260, 258}, m.EOS); diff != "" {
		t.Errorf("end tokens (-want +got):\n%s", diff)
	}
	read, err := model.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, read); diff != "" {
		t.Errorf("manifest (-returned +on disk):\n%s", diff)
	}
	if err := model.Verify(t.Context(), dir, m); err != nil {
		t.Error(err)
	}
	again, err := convert.FromGGUF(t.Context(), path, t.TempDir(), convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m.Files, again.Files); diff != "" {
		t.Errorf("a second conversion makes other files (-first +second):\n%s", diff)
	}
	q4, err := convert.FromGGUF(t.Context(), path, t.TempDir(), convert.Options{Variant: convert.Q4, Name: "x"})
	if err != nil || q4.Name != "x" || model.Fingerprint(q4) == model.Fingerprint(m) {
		t.Errorf("q4: %v, name %s, same fingerprint as q8 %v", err, q4.Name, model.Fingerprint(q4) == model.Fingerprint(m))
	}
}

func TestTokenizer(t *testing.T) {
	t.Parallel()
	for _, pre := range []string{"smollm", "gpt-2", "default", "llama-bpe", "qwen2", "tekken", ""} {
		b := small(quant.Q80, quant.Q80).build()
		if b.Set("tokenizer.ggml.pre", pre); pre == "" {
			b.Unset("tokenizer.ggml.pre")
		}
		dir := t.TempDir()
		if _, err := convert.FromGGUF(t.Context(), write(t, b.Bytes()), dir, convert.Options{}); err != nil {
			t.Fatalf("%q: %v", pre, err)
		}
		words, err := tokenizer.Load(dir)
		if err != nil {
			t.Fatalf("%q: %v", pre, err)
		}
		if words.Vocab() != 263 || words.ChatError() != nil {
			t.Errorf("%q: %d tokens, chats: %v", pre, words.Vocab(), words.ChatError())
		}
		text := "the 42 héros: 日本"
		if got := words.Decode(words.Encode(text)); got != text {
			t.Errorf("%q: %q came back as %q", pre, text, got)
		}
		if diff := cmp.Diff([]int32{257, 256}, words.Encode(" the")); diff != "" {
			t.Errorf("%q: tokens of \" the\" (-want +got):\n%s", pre, diff)
		}
		for text, want := range map[string]int32{"<|im_end|>": 260, "<|endoftext|>": 258} {
			if id, ok := words.Special(text); !ok || id != want {
				t.Errorf("%q: special token %s is %d, %v, want %d", pre, text, id, ok, want)
			}
		}
	}
}

// Files that give a factor of the positions mean linear scaling, also without the type and under the older name.
func TestRopeScaling(t *testing.T) {
	t.Parallel()
	made := func(keys map[string]any) string {
		b := small(quant.F32, quant.F32).build()
		for key, value := range keys {
			b.Set(key, value)
		}
		m, err := convert.FromGGUF(t.Context(), write(t, b.Bytes()), t.TempDir(), convert.Options{Variant: convert.FP32})
		if err != nil {
			t.Fatalf("%v: %v", keys, err)
		}
		return model.Fingerprint(m)
	}
	plain, scaled := made(nil), made(map[string]any{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": float32(2)})
	for _, c := range []struct {
		keys map[string]any
		want string
	}{
		{map[string]any{"llama.rope.scaling.factor": float32(2)}, scaled},
		{map[string]any{"llama.rope.scale_linear": float32(2)}, scaled},
		{map[string]any{"llama.rope.scaling.type": "linear", "llama.rope.scale_linear": float32(2)}, scaled},
		{map[string]any{"llama.rope.scaling.factor": float32(0)}, plain},
		{map[string]any{"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": float32(2)}, plain},
	} {
		if got := made(c.keys); got != c.want || plain == scaled {
			t.Errorf("%v: %s, want %s", c.keys, got, c.want)
		}
	}
}

// Qwen's own tokenizer composes characters before it looks at them; Llama 3.1 ends a message that calls a tool with a
// token that files do not name; what ends a text is special whatever a file says.
func TestFamiliesWords(t *testing.T) {
	t.Parallel()
	b := small(quant.Q80, quant.Q80).build()
	b.Set("tokenizer.ggml.pre", "qwen2")
	tokens, kinds := tinyTokens()
	tokens[259], kinds[258] = "<|eom_id|>", 4 // files of fine-tuned models take ends for words
	b.Set("tokenizer.ggml.tokens", tokens)
	b.Set("tokenizer.ggml.token_type", kinds)
	dir := t.TempDir()
	m, err := convert.FromGGUF(t.Context(), write(t, b.Bytes()), dir, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	words, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(words.Encode("h\u00e9"), words.Encode("he\u0301")); diff != "" {
		t.Errorf("composed and not (-want +got):\n%s", diff)
	}
	if !slices.Contains(m.EOS, 258) || !slices.Contains(m.EOS, 259) {
		t.Errorf("tokens %v end an answer, want 258 and 259 among them", m.EOS)
	}
	if ids := words.Encode("<|endoftext|>"); slices.Contains(ids, 258) {
		t.Errorf("the end of a text was read out of text: %v", ids)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*gguftest.Builder)
		opt    convert.Options
		want   string
	}{
		{"architecture", func(b *gguftest.Builder) { b.Set("general.architecture", "gemma") }, convert.Options{}, `architecture "gemma" is not supported`},
		{"no architecture", func(b *gguftest.Builder) { b.Unset("general.architecture") }, convert.Options{}, "is not supported"},
		{"a piece", func(b *gguftest.Builder) { b.Set("split.count", uint16(3)); b.Unset("general.architecture") }, convert.Options{}, "one of 3 pieces"},
		{"no layers", func(b *gguftest.Builder) { b.Set("llama.block_count", uint32(0)) }, convert.Options{}, "llama.block_count"},
		{"huge context", func(b *gguftest.Builder) { b.Set("llama.context_length", uint64(1<<40)) }, convert.Options{}, "llama.context_length"},
		{"experts", func(b *gguftest.Builder) { b.Set("llama.expert_count", uint32(8)) }, convert.Options{}, "experts"},
		{"odd heads", func(b *gguftest.Builder) { b.Set("llama.attention.head_count_kv", uint32(3)) }, convert.Options{}, "cannot share"},
		{"bad key length", func(b *gguftest.Builder) { b.Set("llama.attention.key_length", "x") }, convert.Options{}, "key_length"},
		{"value length", func(b *gguftest.Builder) { b.Set("llama.attention.value_length", uint32(8)) }, convert.Options{}, "differ"},
		{"head size", func(b *gguftest.Builder) {
			b.Set("llama.attention.key_length", uint32(12))
			b.Set("llama.attention.value_length", uint32(12))
		}, convert.Options{}, "head size 12"},
		{"partial rotary", func(b *gguftest.Builder) { b.Set("llama.rope.dimension_count", uint32(8)) }, convert.Options{}, "8 of 16"},
		{"yarn", func(b *gguftest.Builder) { b.Set("llama.rope.scaling.type", "yarn") }, convert.Options{}, `"yarn" is not supported`},
		{"rotary base as a whole number", func(b *gguftest.Builder) { b.Set("llama.rope.freq_base", uint32(500000)) }, convert.Options{}, "rope.freq_base is no floating-point number"},
		{"rotary scale without a factor", func(b *gguftest.Builder) { b.Set("llama.rope.scaling.type", "linear") }, convert.Options{}, "scaling.factor is missing"},
		{"rotary base", func(b *gguftest.Builder) { b.Set("llama.rope.freq_base", float32(math.NaN())) }, convert.Options{}, "rotary base"},
		{"rotary factors", func(b *gguftest.Builder) { b.Add("rope_freqs.weight", quant.F32, make([]byte, 32), 8) }, convert.Options{}, "factor 0 is 0"},
		{"epsilon", func(b *gguftest.Builder) { b.Unset("llama.attention.layer_norm_rms_epsilon") }, convert.Options{}, "epsilon"},
		{"no embedding", func(b *gguftest.Builder) { b.Remove("token_embd.weight") }, convert.Options{}, "token_embd.weight is missing"},
		{"no down", func(b *gguftest.Builder) { b.Remove("blk.1.ffn_down.weight") }, convert.Options{}, "blk.1.ffn_down.weight is missing"},
		{"no last norm", func(b *gguftest.Builder) { b.Remove("output_norm.weight") }, convert.Options{}, "output_norm.weight is missing"},
		{"bias", func(b *gguftest.Builder) { b.Add("blk.0.attn_q.bias", quant.F32, make([]byte, 4), 1) }, convert.Options{}, "blk.0.attn_q.bias is not part"},
		{"matrix shape", func(b *gguftest.Builder) { b.Add("blk.0.attn_k.weight", quant.F32, make([]byte, 64*64*4), 64, 64) }, convert.Options{}, "has shape [64 64], wanted [64 32]"},
		{"norm shape", func(b *gguftest.Builder) { b.Add("output_norm.weight", quant.F32, make([]byte, 8), 2) }, convert.Options{}, "has shape [2], wanted [64]"},
		{"NaN in 8 bit", func(b *gguftest.Builder) {
			b.Add("blk.1.attn_v.weight", quant.Q80, bytes.Repeat([]byte{0x7e}, 34*64), 64, 32)
		}, convert.Options{}, "blk.1.attn_v.weight"},
		{"NaN in fp32", func(b *gguftest.Builder) {
			b.Add("blk.1.attn_v.weight", quant.Q80, bytes.Repeat([]byte{0x7e}, 34*64), 64, 32)
		}, convert.Options{Variant: convert.FP32}, "damaged"},
		{"NaN in the norm", func(b *gguftest.Builder) { b.Add("output_norm.weight", quant.F32, bytes.Repeat([]byte{0xff}, 256), 64) }, convert.Options{}, "damaged"},
		{"variant", func(*gguftest.Builder) {}, convert.Options{Variant: "q5"}, "choose one of q8, q4, bf16-w4, fp16, fp16-w8, fp16-w4, fp32, fused, naive"},
		{"name", func(*gguftest.Builder) {}, convert.Options{Name: "../x"}, "../x"},
		{"tokenizer", func(b *gguftest.Builder) { b.Set("tokenizer.ggml.model", "bert") }, convert.Options{}, `tokenizer "bert" is not supported`},
		{"scores", func(b *gguftest.Builder) { b.Set("tokenizer.ggml.model", "llama") }, convert.Options{}, "tokenizer.ggml.scores has 0 entries"},
		{"splitting", func(b *gguftest.Builder) { b.Set("tokenizer.ggml.pre", "new") }, convert.Options{}, `tokenizer.ggml.pre "new" is not supported`},
		{"tokens", func(b *gguftest.Builder) { b.Set("tokenizer.ggml.tokens", []string{"a"}) }, convert.Options{}, "1 tokens, the embedding has 263"},
		{"token twice", func(b *gguftest.Builder) { changeTokens(b, 9, "a") }, convert.Options{}, `tokens 9 and 97 are both "a"`},
		{"token no text", func(b *gguftest.Builder) { changeTokens(b, 9, "\xff") }, convert.Options{}, "token 9 is"},
		{"kinds", func(b *gguftest.Builder) { b.Set("tokenizer.ggml.token_type", []int32{1}) }, convert.Options{}, "token_type has 1 entries"},
		{"no merges", func(b *gguftest.Builder) { b.Unset("tokenizer.ggml.merges") }, convert.Options{}, "merges is missing"},
		{"bad merge", func(b *gguftest.Builder) { b.Set("tokenizer.ggml.merges", []string{"h e", "q q"}) }, convert.Options{}, `"q" and "q"`},
		{"merge of what is no token", func(b *gguftest.Builder) { changeTokens(b, 'h', "hhh") }, convert.Options{}, `"h" and "e"`},
		{"end token", func(b *gguftest.Builder) { b.Set("tokenizer.ggml.eos_token_id", uint32(5000)) }, convert.Options{}, "eos_token_id is 5000"},
		{"template", func(b *gguftest.Builder) { b.Set("tokenizer.chat_template", "\xff") }, convert.Options{}, "chat_template"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := small(quant.Q80, quant.Q80).build()
			c.change(b)
			dir := t.TempDir()
			m, err := convert.FromGGUF(t.Context(), write(t, b.Bytes()), dir, c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, error %v; want an error with %q", m.Files, err, c.want)
			}
			if _, err := os.Stat(filepath.Join(dir, model.ManifestFile)); err == nil {
				t.Error("a failed conversion left a manifest")
			}
		})
	}
}

func changeTokens(b *gguftest.Builder, at int, text string) {
	tokens, _ := tinyTokens()
	tokens[at] = text
	b.Set("tokenizer.ggml.tokens", tokens)
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	path := write(t, small(quant.Q41, quant.Q80).build().Bytes())
	for _, variant := range convert.Variants() {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := convert.FromGGUF(ctx, path, t.TempDir(), convert.Options{Variant: variant, Progress: func(done, total int64) {
			if done > total/2 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: canceled halfway: error %v", variant, err)
		}
		cancel()
	}
}

func TestBadPlaces(t *testing.T) {
	t.Parallel()
	path := write(t, small(quant.Q41, quant.Q80).build().Bytes())
	if _, err := convert.FromGGUF(t.Context(), filepath.Join(t.TempDir(), "absent.gguf"), t.TempDir(), convert.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent source: error %v", err)
	}
	if _, err := convert.FromGGUF(t.Context(), path, filepath.Join(t.TempDir(), "absent"), convert.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent folder: error %v", err)
	}
}
