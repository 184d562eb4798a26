//go:build !nvml || !cgo || !linux

package device

// GPUs lists no GPU: this build has no access to a driver. Builds with the tag nvml do.
func GPUs() ([]GPU, error) { return nil, nil }
