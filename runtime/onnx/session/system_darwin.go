//go:build cgo

package session

import "golang.org/x/sys/unix"

// adviseSmallPages does nothing: macOS has no huge pages for anonymous memory.
func adviseSmallPages([]byte) {}

// adviseUnused lets the system take the pages when it needs them; until then they keep their content.
func adviseUnused(b []byte) error { return unix.Madvise(b, unix.MADV_FREE) }

// Trim does nothing: macOS takes freed memory when it needs it.
func Trim() {}
