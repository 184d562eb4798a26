package repo_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/hub/repo"
)

func TestParseRef(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]repo.Ref{
		"hf:org/name":                    {ID: "org/name", Revision: "main"},
		"hf:gpt2":                        {ID: "gpt2", Revision: "main"},
		"hf:org/name@v1.0":               {ID: "org/name", Revision: "v1.0"},
		"hf:org/name@refs/pr/1:a b.gguf": {ID: "org/name", Revision: "refs/pr/1", File: "a b.gguf"},
		"hf:org/name:cpu/int4/":          {ID: "org/name", Revision: "main", File: "cpu/int4"},
	} {
		if got, err := repo.ParseRef(text); err != nil || got != want {
			t.Errorf("ParseRef(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "hf:", "org/name", "hf:a/b/c", "hf:org/../x", "hf:org/name@", "hf:org/name@a..b", "hf:org/name:../x", "hf:org/name:/x", "hf:org/na me", "hf:org/name:a\\b"} {
		if got, err := repo.ParseRef(text); err == nil {
			t.Errorf("ParseRef(%q) = %+v, want an error", text, got)
		}
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	const words = " tokenizer.json config.json"
	for _, c := range []struct{ files, want, choice string }{
		{"a.Q4_K_M.gguf a.Q8_0.gguf a.F16.gguf", "", "a.Q8_0.gguf"},
		{"a.Q4_K_M.gguf a-q4_0.gguf a.IQ4_XS.gguf", "", "a.Q4_K_M.gguf"},
		{"a.IQ4_XS.gguf", "", "a.IQ4_XS.gguf"},
		{"a.Q2_K.gguf a.Q3_K_M.gguf a.IQ4_XS.gguf", "", "a.IQ4_XS.gguf"},
		{"a.Q4_K_M.gguf a.Q8_0.gguf", "a.Q4_K_M.gguf", "a.Q4_K_M.gguf"},
		{"a.gguf onnx/model.onnx" + words, "", "a.gguf"},
		{"a.gguf onnx/model.onnx" + words, "onnx", "onnx/model.onnx"},
		{"onnx/model.onnx onnx/model_q4.onnx onnx/decoder_with_past_model.onnx" + words, "", "onnx/model.onnx"},
		{"onnx/model_q4.onnx onnx/model_int8.onnx" + words, "", "onnx/model_int8.onnx"},
		{"cpu/int4/model.onnx cpu/int4/tokenizer.json cpu/int4/genai_config.json gpu/model.onnx gpu/tokenizer.json", "cpu/int4", "cpu/int4/model.onnx"},
		{"a-00001-of-00002.gguf a-00002-of-00002.gguf b.mmproj-f16.gguf", "", ""},
		{"a-00001-of-00002.gguf", "a-00001-of-00002.gguf", ""},
		{"cpu/model.onnx gpu/model.onnx" + words, "", ""},
		{"x.gguf y.gguf", "", ""},
		{"onnx/model.onnx config.json", "", ""},
		{"encoder_model.onnx" + words, "", ""},
		{"onnx/model.onnx modules.json 1_Pooling/config.json" + words, "", ""},
		{"README.md", "README.md", ""},
		{"README.md", "nothing", ""},
		{"", "", ""},
	} {
		var files []repo.File
		for _, name := range strings.Fields(c.files) {
			files = append(files, repo.File{Path: name})
		}
		got, err := repo.Choose(files, c.want)
		if got.GGUF+got.Graph != c.choice || (err == nil) != (c.choice != "") || err != nil && !errors.Is(err, repo.ErrChoice) {
			t.Errorf("Choose(%s; %q) = %+v, %v, want %q", c.files, c.want, got, err, c.choice)
		}
		if got.Graph != "" && len(got.Words) < 2 {
			t.Errorf("Choose(%s) takes the texts %v", c.files, got.Words)
		}
	}
}
