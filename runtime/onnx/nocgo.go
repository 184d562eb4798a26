//go:build !cgo || !(linux || darwin)

package onnx

import (
	"errors"

	"github.com/pelton-run/pelton/runtime/model"
)

var errNoCgo = errors.New("this build cannot run onnx models: build it with CGO_ENABLED=1 and a C compiler on linux or macos, or use a simulated device")

// OpenModel says that this build has no ONNX engine.
func OpenModel(Config) (Model, error) { return nil, errNoCgo }

// OpenNet says that this build has no ONNX graphs.
func OpenNet(Config) (Graph, error) { return nil, errNoCgo }

// Load says that this build has no ONNX engine.
func Load(string) error { return errNoCgo }

// Ports says that this build reads no ONNX files.
func Ports(_, _ string) (inputs, outputs []model.Port, err error) { return nil, nil, errNoCgo }
