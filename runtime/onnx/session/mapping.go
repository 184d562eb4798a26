//go:build cgo && (linux || darwin)

package session

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mapping is anonymous memory outside the Go heap. Pages are taken when they are first written.
type Mapping struct {
	Bytes []byte
}

// NewMapping reserves size bytes of address space.
func NewMapping(size int64) (*Mapping, error) {
	if int64(int(size)) != size || size <= 0 {
		return nil, fmt.Errorf("map %d bytes: more than this system can address", size)
	}
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w: lift the limit on virtual memory (ulimit -v, vm.overcommit_memory) or allow fewer sequences", size, err)
	}
	adviseSmallPages(b)
	return &Mapping{Bytes: b}, nil
}

// Unmap gives all of it back; nil has none.
func (m *Mapping) Unmap() error {
	if m == nil || m.Bytes == nil {
		return nil
	}
	b := m.Bytes
	m.Bytes = nil
	return unix.Munmap(b)
}

// Release gives the whole pages in [from, to) back to the system; they read as zero afterwards.
func (m *Mapping) Release(from, to int64) error {
	page := int64(os.Getpagesize())
	from = (from + page - 1) / page * page
	to = to / page * page
	if from >= to {
		return nil
	}
	return adviseUnused(m.Bytes[from:to])
}

// View is a part of the mapping as numbers; offset is in bytes and aligned to T.
func View[T any](m *Mapping, offset, count int64) []T {
	var zero T
	part := m.Bytes[offset : offset+count*int64(unsafe.Sizeof(zero))]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(part))), count)
}
