//go:build cgo && (linux || darwin)

package kernels

/*
#cgo CFLAGS: -O3 -std=c11 -D_GNU_SOURCE
#cgo LDFLAGS: -ldl -lm
#include <stdlib.h>
#include "register.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"
)

var registered struct {
	mu     sync.Mutex
	loaded bool
}

// Add makes the operators known to sessions that are made with the options. library is the path of the
// ONNX Runtime that the binding has loaded.
func Add(library string, options *ort.SessionOptions) error {
	registered.mu.Lock()
	defer registered.mu.Unlock()
	if !registered.loaded {
		path := C.CString(library)
		defer C.free(unsafe.Pointer(path))
		if err := failure(C.pelton_load(path)); err != nil {
			return fmt.Errorf("operators of onnx runtime %s: %w", library, err)
		}
		C.pelton_level(C.int(slices.Index(levels, Level())))
		registered.loaded = true
	}
	if err := failure(C.pelton_add(raw(options))); err != nil {
		return fmt.Errorf("add operators: %w", err)
	}
	return nil
}

// raw is the library's own object behind the binding's, which has no way to add operators. It is the
// binding's only field (TestPlaces looks whether it still is).
func raw(options *ort.SessionOptions) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(options))
}

// Select makes all kernels use a lower level of instructions than the processor has, for tests and
// comparisons. No kernel may be running.
func Select(level string) error {
	i := slices.Index(levels, level)
	if i < 0 || i > slices.Index(levels, Level()) {
		return fmt.Errorf("this processor has no level %q", level)
	}
	C.pelton_level(C.int(i))
	return nil
}

func failure(text *C.char) error {
	if text == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(text))
	return errors.New(C.GoString(text))
}
