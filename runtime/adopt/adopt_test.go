package adopt_test

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pelton-run/pelton/runtime/adopt"
	"github.com/pelton-run/pelton/runtime/model"
)

// folder unpacks an export of runtime/onnx/testdata.
func folder(t testing.TB, name string) string {
	t.Helper()
	z, err := zip.OpenReader(filepath.Join("..", "onnx", "testdata", name+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = z.Close() }()
	dir := t.TempDir()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, f.Name, b)
	}
	return dir
}

func put(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFindsTheParts(t *testing.T) {
	t.Parallel()
	half := model.Value{Name: "past_key_values.%d.key", Type: model.Float16}
	for name, check := range map[string]func(m model.Manifest) bool{
		"genai-int4": func(m model.Manifest) bool {
			return m.Graph.InPlace && m.Graph.Positions.Name == "" && m.Variant == "q4"
		},
		"optimum":        func(m model.Manifest) bool { return m.Graph.Positions.Type == model.Int64 && m.Graph.Mask.Name != "" },
		"optimum-merged": func(m model.Manifest) bool { return m.Graph.UseCache.Type == model.Bool },
		"optimum-fp16":   func(m model.Manifest) bool { return m.Graph.PastKey == half && m.Shape.KVWidth == 2 },
		"optimum-bare":   func(m model.Manifest) bool { return m.Graph.Mask.Name == "" && m.Graph.Positions.Name == "" },
	} {
		found, err := adopt.Inspect(folder(t, name), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := model.Shape{Layers: 2, Hidden: 32, Heads: 4, KVHeads: 2, HeadDim: 16, FFN: 64, Vocab: 1205, ContextLength: 512, KVWidth: found.Manifest.Shape.KVWidth}
		if m := found.Manifest; m.Shape != want || m.Architecture != "llama" || !check(m) {
			t.Errorf("%s: found %+v with graph %+v", name, m, m.Graph)
		}
	}
}

// Gemma 3's tokenizer has a special token for images that its models of text alone have no row for. It is never
// written, unlike a token that is read out of text.
func TestTokensBeyondTheGraph(t *testing.T) {
	t.Parallel()
	for special, want := range map[bool]string{true: "", false: "the tokenizer has the token 1205"} {
		dir := folder(t, "optimum")
		b, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
		if err != nil {
			t.Fatal(err)
		}
		var words map[string]any
		if err := json.Unmarshal(b, &words); err != nil {
			t.Fatal(err)
		}
		words["added_tokens"] = append(words["added_tokens"].([]any), map[string]any{"id": 1205, "content": "<image_soft_token>", "special": special})
		if b, err = json.Marshal(words); err != nil {
			t.Fatal(err)
		}
		put(t, dir, "tokenizer.json", b)
		if _, err := adopt.Inspect(dir, ""); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("special %v: %v, want %q", special, err, want)
		}
	}
}

func TestPlaceCopies(t *testing.T) {
	t.Parallel()
	for _, link := range []bool{false, true} {
		from, to := folder(t, "genai-fp32"), t.TempDir()
		found, err := adopt.Inspect(from, "model.onnx")
		if err != nil {
			t.Fatal(err)
		}
		m, err := adopt.Place(t.Context(), found, to, adopt.Options{Name: "tiny", Link: link})
		if err != nil {
			t.Fatal(err)
		}
		read, err := model.Load(to)
		if err != nil || len(read.Files) != 5 || read.Graph == nil || *read.Graph != *m.Graph {
			t.Errorf("link %v: on disk is %+v, %v", link, read, err)
		}
		if err := model.Verify(t.Context(), to, read); err != nil {
			t.Error(err)
		}
		a, _ := os.Stat(filepath.Join(from, "model.onnx"))
		b, _ := os.Stat(filepath.Join(to, "model.onnx"))
		if os.SameFile(a, b) != link {
			t.Errorf("link %v: one file under two names is %v", link, os.SameFile(a, b))
		}
	}
	wide, err := adopt.Inspect(folder(t, "optimum"), "")
	if err != nil {
		t.Fatal(err)
	}
	wide.Manifest.Shape.ContextLength = 1 << 40
	to := t.TempDir()
	_, err = adopt.Place(t.Context(), wide, to, adopt.Options{Name: "wide"})
	if left, _ := os.ReadDir(to); err == nil || !strings.Contains(err.Error(), "context_length") || len(left) > 0 {
		t.Errorf("a manifest that is none: %v, after %d files were copied", err, len(left))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	found, err := adopt.Inspect(folder(t, "optimum"), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := adopt.Place(ctx, found, t.TempDir(), adopt.Options{Name: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	edit := func(name, file, from, to string) func(t *testing.T) string {
		return func(t *testing.T) string {
			dir := folder(t, name)
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			put(t, dir, file, []byte(strings.ReplaceAll(string(b), from, to)))
			return dir
		}
	}
	for _, c := range []struct {
		name, graph string
		dir         func(t *testing.T) string
		want        string
	}{
		{"empty", "", func(t *testing.T) string { return t.TempDir() }, "neither config.json nor genai_config.json"},
		{"no graph", "", func(t *testing.T) string {
			dir := t.TempDir()
			put(t, dir, "config.json", []byte(`{"model_type":"llama"}`))
			return dir
		}, "no .onnx file"},
		{"several graphs", "", func(t *testing.T) string {
			dir := folder(t, "optimum")
			put(t, dir, "onnx/model_q4.onnx", nil)
			return dir
		}, "several graphs, name one of them: model.onnx, onnx/model_q4.onnx"},
		{"outside", "../model.onnx", func(t *testing.T) string { return folder(t, "optimum") }, "does not lie in the folder"},
		{"cut off", "", func(t *testing.T) string {
			dir := folder(t, "optimum")
			b, _ := os.ReadFile(filepath.Join(dir, "model.onnx"))
			put(t, dir, "model.onnx", b[:len(b)/2])
			return dir
		}, "cut off or damaged"},
		{"no tokenizer", "", func(t *testing.T) string {
			dir := folder(t, "optimum")
			if err := os.Remove(filepath.Join(dir, "tokenizer.json")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, "no tokenizer.json"},
		{"missing weights", "", func(t *testing.T) string {
			dir := folder(t, "genai-fp32")
			if err := os.Remove(filepath.Join(dir, "model.onnx.data")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, "model.onnx.data"},
		{"weights elsewhere", "", edit("genai-fp32", "model.onnx", "model.onnx.data", "../../../passwd"), "no plain file name"},
		{"another input", "", edit("optimum", "model.onnx", "position_ids", "pixel_valuez"), "does not have: pixel_valuez"},
		{"no cache", "", edit("optimum", "model.onnx", "past_key_values", "cast_key_values"), "cast_key_values.0.key, cast_key_values.0.value"},
		{"no logits", "", edit("optimum", "model.onnx", "logits", "digits"), "no logits"},
		{"an encoder", "", edit("genai-fp32", "genai_config.json", `"type"`, `"encoder": {}, "type"`), "a model with encoder"},
		{"no end", "", func(t *testing.T) string {
			dir := folder(t, "optimum")
			put(t, dir, "config.json", []byte(`{"model_type":"llama","hidden_size":32,"num_attention_heads":4,"max_position_embeddings":512,"vocab_size":1205}`))
			put(t, dir, "generation_config.json", []byte(`{}`))
			b, _ := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
			put(t, dir, "tokenizer.json", []byte(strings.ReplaceAll(string(b), "<|end|>", "<|fin|>")))
			return dir
		}, "nothing would end an answer"},
		{"configuration", "", edit("optimum", "config.json", "{", "["), "config.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := adopt.Inspect(c.dir(t), c.graph)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Inspect = %+v, error %v; want one with %q", found.Manifest, err, c.want)
			}
		})
	}
}

// FuzzGraph: whatever the file holds, it is read or refused, in little time and memory.
func FuzzGraph(f *testing.F) {
	dir := folder(f, "optimum-merged")
	b, err := os.ReadFile(filepath.Join(dir, "onnx", "decoder_model_merged.onnx"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[len(b)-4096:])
	value := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "logits")
	graph := protowire.AppendBytes(protowire.AppendTag(nil, 12, protowire.BytesType), value)
	f.Add(protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), graph))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		put(t, dir, "config.json", []byte(`{"model_type":"llama"}`))
		put(t, dir, "model.onnx", b)
		if _, err := adopt.Inspect(dir, ""); err == nil {
			t.Error("a folder without a tokenizer was taken")
		}
	})
}
