//go:build cgo && linux && amd64

package kernels

// #include "register.h"
import "C"

import "sync"

// amx tells whether the system lets this process use AMX, and whether it computes what the other levels do.
var amx = sync.OnceValue(func() bool { return C.pelton_amx() != 0 })
