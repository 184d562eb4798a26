//go:build cgo

package onnx

// Trim does nothing: macOS takes freed memory when it needs it.
func Trim() {}
