//go:build !cgo || !(linux || darwin)

package session

// Trim does nothing: there is no library that could have freed memory.
func Trim() {}
