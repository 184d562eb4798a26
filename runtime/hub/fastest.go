package hub

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/cpu"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/hub/repo"
)

// fastest is the variant that is taken when none is named: of those whose quality is that of 8-bit weights,
// the fastest on this kind of processor (runtime/PERFORMANCE.md). It goes by the processor and not by a
// measurement, because workers on equal machines must choose equally: only then do they continue each
// other's streams bit for bit.
func fastest() string {
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA { // our own operators have kernels for it
		return convert.Q4
	}
	return convert.Q8
}

// ForGPU is the variant of a model that is taken on GPUs when none is named, "" where there is none for them. Of a
// reference to a hub it is that of a GGUF file; an export is taken as it is, whatever is asked for.
func ForGPU(name string) string {
	if e, ok := Lookup(name); ok && len(e.Sentence) == 0 || strings.EqualFold(filepath.Ext(name), ".gguf") || strings.HasPrefix(name, repo.Prefix) {
		return convert.FP16
	}
	return ""
}
