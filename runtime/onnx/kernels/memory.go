//go:build cgo && (linux || darwin)

package kernels

/*
#include <stdlib.h>
#include "register.h"
*/
import "C"

import (
	_ "embed"
	"fmt"
	"sync"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"
)

// Names of memory, as the library calls it.
const (
	HostMemory   = "Cpu"
	CUDAMemory   = "Cuda"
	PinnedMemory = "CudaPinned" // of the host, which CUDA devices copy from and to without a stop in between
)

// Memory gives out tensors in one kind of memory of a session, which must outlive it. It and its tensors
// belong to one goroutine at a time.
type Memory struct {
	info, allocator unsafe.Pointer
	tensors         []*Tensor
}

// Tensor is a value whose content Go may not be able to see.
type Tensor struct {
	*ort.CustomDataTensor // nil: what is called of a Value by a run is overridden below
	value                 ort.ValueInternalData
	data                  unsafe.Pointer
}

// NewMemory finds the kind of memory that is so called, of the device with a number.
func NewMemory(session *ort.DynamicAdvancedSession, name string, device int) (*Memory, error) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	var info, allocator unsafe.Pointer
	if err := failure(C.pelton_allocator(rawSession(session), text, C.int(device), &info, &allocator)); err != nil {
		return nil, fmt.Errorf("memory %s of device %d: %w", name, device, err)
	}
	return &Memory{info: info, allocator: allocator}, nil
}

// Tensor allocates one; its content is anything.
func (m *Memory) Tensor(t ort.TensorElementDataType, dims ...int64) (*Tensor, error) {
	var value, data unsafe.Pointer
	if err := failure(C.pelton_tensor(m.allocator, C.int(t), (*C.int64_t)(unsafe.SliceData(dims)), C.size_t(len(dims)), &value, &data)); err != nil {
		return nil, fmt.Errorf("tensor of %v: %w", dims, err)
	}
	return m.add(value, data), nil
}

// View is a tensor over so many bytes of another one's memory, from byte at on.
func (m *Memory) View(of *Tensor, at, bytes int64, t ort.TensorElementDataType, dims ...int64) (*Tensor, error) {
	var value unsafe.Pointer
	data := unsafe.Add(of.data, at)
	if err := failure(C.pelton_view(m.info, data, C.size_t(bytes), C.int(t), (*C.int64_t)(unsafe.SliceData(dims)), C.size_t(len(dims)), &value)); err != nil {
		return nil, fmt.Errorf("tensor of %v: %w", dims, err)
	}
	return m.add(value, data), nil
}

func (m *Memory) add(value, data unsafe.Pointer) *Tensor {
	t := &Tensor{data: data}
	*(*unsafe.Pointer)(unsafe.Pointer(&t.value)) = value
	m.tensors = append(m.tensors, t)
	return t
}

// GetInternals is the value for a run.
func (t *Tensor) GetInternals() *ort.ValueInternalData { return &t.value }

// Numbers is the content of n elements of a tensor in memory of the host.
func Numbers[T any](t *Tensor, n int) []T { return unsafe.Slice((*T)(t.data), n) }

// Write copies to a tensor on a CUDA device, which no run may be using. The calling thread must have called
// [UseCUDA].
func (t *Tensor) Write(b []byte) error {
	return failure(C.pelton_cuda_copy(t.data, unsafe.Pointer(unsafe.SliceData(b)), C.size_t(len(b)), 0))
}

// Read copies from a tensor on a CUDA device, from byte at on, as Write does.
func (t *Tensor) Read(at int64, b []byte) error {
	return failure(C.pelton_cuda_copy(unsafe.Pointer(unsafe.SliceData(b)), unsafe.Add(t.data, at), C.size_t(len(b)), 1))
}

// ptx is gpu.cu, compiled by `make ptx`.
//
//go:embed gpu.ptx
var ptx string

// image hands ptx over, where it stays.
var image = sync.OnceFunc(func() { C.pelton_image(C.CString(ptx)) })

// UseCUDA makes a device the calling thread's, and the operators for it ready.
func UseCUDA(device int) error {
	image()
	return failure(C.pelton_cuda_use(C.int(device)))
}

// Free gives everything back; nil has nothing, nor has one that is freed.
func (m *Memory) Free() {
	if m == nil || m.allocator == nil {
		return
	}
	for _, t := range m.tensors {
		C.pelton_free_tensor(*(*unsafe.Pointer)(unsafe.Pointer(&t.value)))
	}
	m.tensors = nil
	C.pelton_free_allocator(m.info, m.allocator)
	m.allocator = nil
}

// Entry sets what the binding has no name for.
func Entry(options *ort.RunOptions, key, value string) error {
	k, v := C.CString(key), C.CString(value)
	defer C.free(unsafe.Pointer(k))
	defer C.free(unsafe.Pointer(v))
	return failure(C.pelton_run_entry(*(*unsafe.Pointer)(unsafe.Pointer(options)), k, v))
}

// rawSession is the library's own object behind the binding's, the first field of what its only field points to
// (TestPlaces looks whether it still is).
func rawSession(s *ort.DynamicAdvancedSession) unsafe.Pointer {
	return **(**unsafe.Pointer)(unsafe.Pointer(s))
}
