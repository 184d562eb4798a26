package hub

import (
	"path/filepath"
	"strings"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub/repo"
	"github.com/pelton-run/pelton/runtime/onnx/kernels"
)

// fastest is the variant that is taken when none is named: of those whose quality is that of 8-bit weights,
// the fastest on this kind of processor (runtime/PERFORMANCE.md). It goes by the processor and not by a
// measurement, because workers on equal machines must choose equally: only then do they continue each
// other's streams bit for bit.
func fastest() string {
	switch kernels.Level() { // of our own operators
	case kernels.AMX:
		return convert.BF16W4
	case kernels.Portable:
		return convert.Q8
	}
	return convert.Q4
}

// ForGPU is the variant of a model that is taken on GPUs when none is named, "" where there is none for them. Of a
// reference to a hub it is that of a GGUF file; an export is taken as it is, whatever is asked for.
func ForGPU(name string) string {
	if e, ok := Lookup(name); ok && len(e.Sentence) == 0 || strings.EqualFold(filepath.Ext(name), ".gguf") || strings.HasPrefix(name, repo.Prefix) {
		return convert.FP16
	}
	return ""
}
