package hub

import (
	"path/filepath"

	"golang.org/x/sys/cpu"

	"github.com/pelton-run/pelton/runtime/convert"
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

// ForGPU is the variant of a model that is taken on GPUs when none is named, "" where there is none for them.
func ForGPU(name string) string {
	if e, ok := Lookup(name); ok && len(e.Sentence) == 0 || isPath(name) && filepath.Ext(name) != "" {
		return convert.FP16
	}
	return ""
}
