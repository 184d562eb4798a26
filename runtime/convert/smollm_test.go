package convert_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

// smollm is the path of the default model's GGUF file: that in PELTON_TEST_GGUF, or the one that the hub
// keeps, which fetches it when it is missing.
func smollm(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("PELTON_TEST_GGUF"); path != "" {
		return path
	}
	root := model.DefaultRoot()
	if _, _, err := hub.Ensure(t.Context(), model.Store{Root: root}, hub.Default, convert.Q8, nil); err != nil {
		t.Fatalf("no GGUF file to test with: %v; or set PELTON_TEST_GGUF to the path of SmolLM2-135M-Instruct.Q4_1.gguf", err)
	}
	found, err := filepath.Glob(filepath.Join(filepath.Dir(root), "downloads", "*SmolLM2-135M-Instruct.Q4_1.gguf"))
	if err != nil || len(found) == 0 {
		t.Fatalf("the hub keeps no GGUF file beside %s (%v): remove that folder, or set PELTON_TEST_GGUF", root, err)
	}
	return found[0]
}

// The default model becomes what the runtime was measured with, in little memory.
func TestSmolLM2(t *testing.T) {
	path := smollm(t)
	dir := t.TempDir()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, err := convert.FromGGUF(t.Context(), path, dir, convert.Options{Name: "smollm2-135m-instruct"})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys - before.HeapSys); grown > 64<<20 {
		t.Errorf("the heap grew by %d bytes for a file of 98 MB, allowed are 64 MiB", grown)
	}
	want := model.Manifest{
		Format: model.Format, Name: "smollm2-135m-instruct", Variant: "q8", Architecture: "llama", Parameters: 134515008,
		Shape: model.Shape{Layers: 30, Hidden: 576, Heads: 9, KVHeads: 3, HeadDim: 64, FFN: 1536, Vocab: 49152, ContextLength: 8192, KVWidth: 4},
		EOS:   []int32{2, 0}, Files: m.Files, Source: model.Source{URL: path}, Created: m.Created,
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	sizes := map[string]int64{}
	for _, f := range m.Files {
		sizes[f.Name] = f.Size
	}
	// The embedding is the head as well, and both are in the file once: 134.5 MB of weights in 8 bit, an
	// eighth of that in scales, 2 MB of rotary tables.
	if n := sizes[model.WeightsFile]; n < 150e6 || n > 155e6 {
		t.Errorf("the weights take %d bytes, want about 153.8 MB", n)
	}
	words, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := words.Chat([]tokenizer.Message{{Role: "user", Content: "Hi"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	prompt := "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
	text := ""
	for _, id := range ids {
		text += string(words.TokenBytes(id))
	}
	if text != prompt {
		t.Errorf("a chat renders as %q, want %q", text, prompt)
	}
}
