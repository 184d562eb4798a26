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

// NewParts reserves memory for parts of so many bytes. Each begins at a multiple of 64, and its capacity ends with it.
func NewParts(sizes ...int64) (m *Mapping, parts [][]byte, err error) {
	const line = 64
	total := int64(0)
	for _, n := range sizes {
		total += (n + line - 1) / line * line
	}
	if m, err = NewMapping(total); err != nil {
		return nil, nil, err
	}
	at := int64(0)
	for _, n := range sizes {
		parts = append(parts, m.Bytes[at:at+n:at+n])
		at += (n + line - 1) / line * line
	}
	return m, parts, nil
}

// Numbers is memory as numbers.
func Numbers[T any](b []byte) []T {
	var zero T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(zero)))
}
