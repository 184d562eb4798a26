package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Resident is the memory that this process holds now, in bytes. It is exact on Linux, the peak so far
// on macOS, and 0 elsewhere. It may be called from any goroutine.
func Resident() int64 {
	// The current size needs a Mach call, and with it cgo.
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss // bytes here, KiB on other systems
}

// machineLimit is half of the physical memory: macOS compresses and swaps rather than saying what is
// free.
func machineLimit(int64) (int64, string, error) {
	total, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0, "", fmt.Errorf("%w: %w", ErrUnknownLimit, err)
	}
	return int64(total / 2), "half of the physical memory", nil
}
