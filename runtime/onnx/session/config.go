// Package session makes sessions of ONNX Runtime: it loads the library, opens a graph on a device, and has the
// memory outside the Go heap that the engines' values lie in.
//
// Previous step of the walk: runtime/onnx and runtime/onnx/paged, which know the models; next step: the library.
// Everything may be called from any goroutine, but one session, and one Mapping, belong to one at a time.
package session

import "github.com/pelton-run/pelton/runtime/device"

// Spin says whether ONNX Runtime's threads wait for work by spinning.
type Spin int

const (
	// SpinAuto spins while a step runs and stops at its end, so that the rest of the process has the
	// cores between steps.
	SpinAuto Spin = iota
	// SpinOn spins between steps too: fastest when the process has the cores to itself.
	SpinOn
	// SpinOff never spins: for machines shared with other busy processes.
	SpinOff
)

// Config of a session.
type Config struct {
	Library string // path of the library, see Load
	Device  device.Device
	Threads int // of one call
	Spin    Spin

	// Captured: on a CUDA device, runs are captured and repeated as a whole (CUDA graphs), those whose options do not
	// say otherwise.
	Captured bool
}
