//go:build cgo

package onnx

import "golang.org/x/sys/unix"

// adviseSmallPages keeps the kernel from making a sequence of a few tokens resident in huge pages. A
// kernel without huge pages refuses the advice and needs none.
func adviseSmallPages(b []byte) { _ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) }

func adviseUnused(b []byte) error { return unix.Madvise(b, unix.MADV_DONTNEED) }
