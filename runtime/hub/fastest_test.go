package hub_test

import (
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub"
)

func TestForGPU(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"smollm2": convert.FP16, hub.Default: convert.FP16, "./some.gguf": convert.FP16,
		"minilm": "", "unknown": "", "./folder": "", "./phi-3.5": "", "a/x.GGUF": convert.FP16,
		"hf:org/name": convert.FP16, "hf:org/name-1.5": convert.FP16, "hf:org/name:onnx": convert.FP16, // a GGUF file, or it does not matter
	} {
		if got := hub.ForGPU(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
