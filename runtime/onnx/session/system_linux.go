//go:build cgo

package session

/*
#include <features.h>
#ifdef __GLIBC__
#include <malloc.h>
static void trim(void) { malloc_trim(0); }
// Each thread that calls C would get an arena of its own, and each arena keeps what lies between its blocks.
__attribute__((constructor)) static void arenas(void) { mallopt(M_ARENA_MAX, 2); }
#else
static void trim(void) {} // musl keeps little
#endif
*/
import "C"

import "golang.org/x/sys/unix"

// Trim gives memory that the library freed back to the system: the C allocator keeps what lies between
// blocks that are still in use. Safe from any goroutine.
func Trim() { C.trim() }

// adviseSmallPages keeps the kernel from making a sequence of a few tokens resident in huge pages. A
// kernel without huge pages refuses the advice and needs none.
func adviseSmallPages(b []byte) { _ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) }

func adviseUnused(b []byte) error { return unix.Madvise(b, unix.MADV_DONTNEED) }
