package kernels

import (
	"slices"

	"golang.org/x/sys/cpu"
)

// Version changes whenever a kernel gives other bits than before.
const Version = "k2"

// The lowest level, of any processor, and that of those with instructions for products of matrices.
const (
	Portable = "portable"
	AMX      = "amx"
)

// levels are the names of enum level in kernel.h.
var levels = []string{Portable, "avx2", "avx512vnni", AMX}

// Levels are the levels of instructions that this processor has, in rising order.
func Levels() []string { return levels[:slices.Index(levels, Level())+1] }

// Level is the highest level of instructions that this processor has: that of the kernels.
func Level() string {
	x := cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasFMA: // all that have AVX2 convert half precision as well
		return levels[0]
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VNNI:
		if x.HasAMXTile && x.HasAMXBF16 && x.HasAVX512BF16 && permitted() && right() {
			return levels[3]
		}
		return levels[2]
	}
	return levels[1]
}

// Together is how many rows of activations products take at once: CHUNK of blocks.h with AMX, TILE below.
func Together() int {
	if Level() == levels[3] {
		return 16
	}
	return 4
}
