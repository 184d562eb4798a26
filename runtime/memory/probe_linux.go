package memory

import "os"

// Resident is the memory that this process holds now, in bytes. It is exact on Linux, the peak so far
// on macOS, and 0 elsewhere. It may be called from any goroutine.
func Resident() int64 { return linuxResident(os.DirFS("/")) }

func machineLimit(resident int64) (int64, string, error) {
	return linuxLimit(os.DirFS("/"), resident)
}
