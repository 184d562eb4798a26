//go:build !(cgo && linux && amd64)

package kernels

func amx() bool { return false }
