//go:build !cgo || !(linux || darwin)

package session

import (
	"errors"

	"github.com/pelton-run/pelton/runtime/device"
)

// Usable says that no device is.
func Usable(string, device.Device) error { return errors.New("this build has no ONNX Runtime") }

// Trim does nothing: there is no library that could have freed memory.
func Trim() {}
