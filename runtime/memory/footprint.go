package memory

import (
	"fmt"
	"math"
)

// LeastKV is the smallest KV cache, in bytes, that KVBudget hands out. A worker with less could hold
// no job worth pulling.
const LeastKV = 4 << 20

// Footprint is what a worker holds beside its KV cache, in bytes.
type Footprint struct {
	Base    int64 // process: Go runtime, libraries, broker when embedded
	Weights int64 // model weights as loaded
	Arena   int64 // activations of the largest step; never given back once touched
	Margin  int64 // room that is kept free for growth of the heap and page rounding
}

// KVBudget is what remains of limit bytes for the KV cache once fp is paid. When less than [LeastKV]
// remains, the error says the least limit that would do.
func KVBudget(limit int64, fp Footprint) (int64, error) {
	taken := int64(0)
	for _, part := range []int64{fp.Base, fp.Weights, fp.Arena, fp.Margin} {
		if part < 0 || part > math.MaxInt64-LeastKV-taken {
			return 0, fmt.Errorf("footprint of %d + %d + %d + %d bytes is out of range", fp.Base, fp.Weights, fp.Arena, fp.Margin)
		}
		taken += part
	}
	if limit-taken >= LeastKV {
		return limit - taken, nil
	}
	return 0, fmt.Errorf("%s of memory is too little: the worker takes %s before its first job (process %s, weights %s, activations %s, reserve %s): give it at least %s",
		FormatSize(limit), FormatSize(taken), FormatSize(fp.Base), FormatSize(fp.Weights), FormatSize(fp.Arena), FormatSize(fp.Margin), roundUp(taken+LeastKV))
}

// roundUp writes n rounded up to whole MiB, so that what the user types back is enough.
func roundUp(n int64) string {
	const mib = 1 << 20
	return fmt.Sprintf("%dMiB", n/mib+min(n%mib, 1))
}
