//go:build linux && amd64

package kernels

import (
	"sync"

	"golang.org/x/sys/unix"
)

// permitted tells whether the system lets this process use AMX, which it has to be asked for.
var permitted = sync.OnceValue(func() bool {
	const request, tiles = 0x1023, 18 // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
	_, _, err := unix.Syscall(unix.SYS_ARCH_PRCTL, request, tiles, 0)
	return err == 0
})
