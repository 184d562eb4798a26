//go:build !linux && !darwin

package memory

// Resident is the memory that this process holds now, in bytes. It is exact on Linux, the peak so far
// on macOS, and 0 elsewhere. It may be called from any goroutine.
func Resident() int64 { return 0 }

func machineLimit(int64) (int64, string, error) { return 0, "", ErrUnknownLimit }
