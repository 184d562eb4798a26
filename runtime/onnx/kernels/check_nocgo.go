//go:build !(cgo && linux && amd64)

package kernels

// right is not known without the kernels, and the default variant is the same with them and without.
func right() bool { return true }
