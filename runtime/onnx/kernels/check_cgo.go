//go:build cgo && linux && amd64

package kernels

// #include "register.h"
import "C"

import "sync"

// right tells whether AMX, which is permitted, computes what the other levels do.
var right = sync.OnceValue(func() bool { return C.pelton_amx() != 0 })
