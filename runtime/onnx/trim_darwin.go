//go:build cgo

package onnx

// trim does nothing: macOS takes freed memory when it needs it.
func trim() {}
