//go:build cgo

package onnx

/*
#include <features.h>
#ifdef __GLIBC__
#include <malloc.h>
static void trim(void) { malloc_trim(0); }
#else
static void trim(void) {} // musl keeps little
#endif
*/
import "C"

// trim gives memory that the library freed back to the system: the C allocator keeps what lies between
// blocks that are still in use.
func trim() { C.trim() }
