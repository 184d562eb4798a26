package node

import (
	"runtime/metrics"

	"github.com/pelton-run/pelton/runtime/memory"
)

// resident is the process's resident memory in bytes.
func resident() int64 { return memory.Resident() }

// heapSize is what the Go runtime holds of the operating system's memory, in bytes.
func heapSize() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}
