//go:build cgo && (linux || darwin)

package onnx

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pelton-run/pelton/runtime/model"
)

// mapping is anonymous memory outside the Go heap. Pages are taken when they are first written.
type mapping struct {
	bytes []byte
}

func newMapping(size int64) (*mapping, error) {
	if int64(int(size)) != size || size <= 0 {
		return nil, fmt.Errorf("map %d bytes: more than this system can address", size)
	}
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w: lift the limit on virtual memory (ulimit -v, vm.overcommit_memory) or allow fewer sequences", size, err)
	}
	adviseSmallPages(b)
	return &mapping{bytes: b}, nil
}

func (m *mapping) unmap() error {
	if m == nil || m.bytes == nil {
		return nil
	}
	b := m.bytes
	m.bytes = nil
	return unix.Munmap(b)
}

// release gives the whole pages in [from, to) back to the system; they read as zero afterwards.
func (m *mapping) release(from, to int64) error {
	page := int64(os.Getpagesize())
	from = (from + page - 1) / page * page
	to = to / page * page
	if from >= to {
		return nil
	}
	return adviseUnused(m.bytes[from:to])
}

// view is a part of the mapping as numbers; offset is in bytes and aligned to T.
func view[T any](m *mapping, offset, count int64) []T {
	var zero T
	part := m.bytes[offset : offset+count*int64(unsafe.Sizeof(zero))]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(part))), count)
}

// kvMemory is the KV cache: for each layer a buffer of keys and one of values, each of shape
// [slots, KVHeads, ContextLength, HeadDim].
type kvMemory struct {
	*mapping
	shape   model.Shape
	buffers int // 2 x layers
	slots   int
	region  int64 // bytes of one slot's head: ContextLength x HeadDim floats
	buffer  int64 // bytes of one buffer
}

const (
	floatBytes = 4
	maxMapping = 1 << 45 // bytes of address space that 64-bit systems surely have
)

func newKVMemory(s model.Shape, slots int) (*kvMemory, error) {
	k := &kvMemory{shape: s, buffers: 2 * s.Layers, slots: slots}
	k.region = int64(s.ContextLength) * int64(s.HeadDim) * floatBytes
	k.buffer = k.region * int64(s.KVHeads) * int64(slots)
	if all := float64(s.KVBytesPerToken()) * float64(s.ContextLength) * float64(slots); all > maxMapping {
		return nil, fmt.Errorf("a kv cache of %d slots of %d tokens needs %.3g bytes of address space: allow fewer sequences", slots, s.ContextLength, all)
	}
	var err error
	if k.mapping, err = newMapping(k.buffer * int64(k.buffers)); err != nil {
		return nil, err
	}
	return k, nil
}

// rows is buffer b from slot lo on, n slots long.
func (k *kvMemory) rows(b, lo, n int) []float32 {
	slot := k.region * int64(k.shape.KVHeads)
	return view[float32](k.mapping, int64(b)*k.buffer+int64(lo)*slot, int64(n)*slot/floatBytes)
}

// regions calls f with the byte offset of every region of a slot.
func (k *kvMemory) regions(slot int, f func(offset int64) error) error {
	for b := range k.buffers {
		for h := range k.shape.KVHeads {
			if err := f(int64(b)*k.buffer + (int64(slot)*int64(k.shape.KVHeads)+int64(h))*k.region); err != nil {
				return err
			}
		}
	}
	return nil
}

// move copies a slot's first tokens to another slot and clears where they were.
func (k *kvMemory) move(from, to, tokens int) error {
	size := int64(tokens) * int64(k.shape.HeadDim) * floatBytes
	shift := int64(to-from) * int64(k.shape.KVHeads) * k.region
	err := k.regions(from, func(at int64) error {
		copy(k.bytes[at+shift:at+shift+size], k.bytes[at:at+size])
		return nil
	})
	if err != nil {
		return err
	}
	return k.clear(from, tokens)
}

// clear gives the pages of a slot's first tokens back. It counts one token more than there are, since
// a companion row (see Engine.decode) may have written behind them.
func (k *kvMemory) clear(slot, tokens int) error {
	size := min(int64(tokens+1)*int64(k.shape.HeadDim)*floatBytes, k.region)
	page := int64(os.Getpagesize())
	size = min((size+page-1)/page*page, k.region)
	return k.regions(slot, func(at int64) error { return k.release(at, at+size) })
}

// blockTokens is the number of tokens whose keys fill whole pages in each region, at least 16: what is
// reserved in such blocks is exactly what becomes resident.
func blockTokens(s model.Shape) int {
	page, n := os.Getpagesize(), 16
	for n < 1024 && n*s.HeadDim*floatBytes%page != 0 {
		n *= 2
	}
	return n
}
