//go:build !(linux && amd64)

package kernels

func permitted() bool { return false }
