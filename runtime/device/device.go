// Package device names what a model runs on, and asks drivers what there is.
//
// It stands beside the walk: ops/cli reads --device with Parse, runtime/onnx chooses the execution
// provider by it. Next step: runtime/onnx.
//
// GPUs loads the NVIDIA driver's management library when it is called, on Linux in builds with cgo and
// the tag nvml (make build); elsewhere it finds no GPU that auto could choose, and one that is named is
// used all the same. Everything else is pure but for Choose, which looks for a file. Safe from any
// goroutine.
package device

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Kind is a family of devices, each with an execution provider of ONNX Runtime.
type Kind string

// The kinds.
const (
	Auto     Kind = "auto" // a GPU where library and driver are there, else the CPU
	CPU      Kind = "cpu"
	CUDA     Kind = "cuda"
	TensorRT Kind = "tensorrt"
	ROCm     Kind = "rocm" // AMD GPUs, by MIGraphX
	OpenVINO Kind = "openvino"
	CoreML   Kind = "coreml"
)

// cudaProvider is the file beside the library that holds the provider for NVIDIA GPUs.
const cudaProvider = "libonnxruntime_providers_cuda.so"

// kinds says of each kind whether it is numbered, and what to install to get it.
var kinds = []struct {
	kind     Kind
	numbered bool
	advice   string
}{
	{Auto, false, ""},
	{CPU, false, ""},
	{CUDA, true, "install the GPU build of ONNX Runtime 1.31 or newer (the release archive onnxruntime-linux-x64-gpu, or PyPI onnxruntime-gpu) with CUDA 13 and cuDNN 9 on the path of shared libraries, and set PELTON_ORT_LIB to its libonnxruntime.so"},
	{TensorRT, true, "install the GPU build of ONNX Runtime (the release archive onnxruntime-linux-x64-gpu, or PyPI onnxruntime-gpu) with its CUDA, cuDNN 9 and TensorRT 10, and set PELTON_ORT_LIB to its libonnxruntime.so"},
	{ROCm, true, "install ROCm and AMD's build of ONNX Runtime (onnxruntime-migraphx), and set PELTON_ORT_LIB to its libonnxruntime.so"},
	{OpenVINO, false, "install Intel's build of ONNX Runtime (PyPI onnxruntime-openvino) with OpenVINO, and set PELTON_ORT_LIB to its libonnxruntime.so"},
	{CoreML, false, "use macOS and a build of ONNX Runtime with CoreML (the release archive for osx), and set PELTON_ORT_LIB to its libonnxruntime.dylib"},
}

// Device is one device.
type Device struct {
	Kind  Kind
	Index int // of GPUs, as the driver's runtime counts them
}

// ErrUnknown is what every error of [Parse] wraps: the text names no device.
var ErrUnknown = errors.New("unknown device")

// Parse reads auto, cpu, cuda:0, tensorrt:0, rocm:0, openvino or coreml. A GPU without a number is the
// first.
func Parse(text string) (Device, error) {
	name, number, numbered := strings.Cut(text, ":")
	for _, k := range kinds {
		if string(k.kind) != name || numbered && !k.numbered {
			continue
		}
		d := Device{Kind: k.kind}
		if !numbered {
			return d, nil
		}
		n, err := strconv.ParseUint(number, 10, 8)
		if err != nil {
			return Device{}, fmt.Errorf("%w %.40q: %s is followed by the number of a GPU, such as %s:0", ErrUnknown, text, name, name)
		}
		d.Index = int(n)
		return d, nil
	}
	return Device{}, fmt.Errorf("%w %.40q: the devices are auto, cpu, cuda:N, tensorrt:N, rocm:N, openvino and coreml", ErrUnknown, text)
}

// String writes a device as Parse reads it. The zero device is the CPU.
func (d Device) String() string {
	switch d.Kind {
	case "":
		return string(CPU)
	case CUDA, TensorRT, ROCm:
		return fmt.Sprintf("%s:%d", d.Kind, d.Index)
	}
	return string(d.Kind)
}

// NVIDIA tells whether the driver that GPUs asks knows the device.
func (d Device) NVIDIA() bool { return d.Kind == CUDA || d.Kind == TensorRT }

// Advice is what to install so that the device can be used.
func (d Device) Advice() string {
	for _, k := range kinds {
		if k.kind == d.Kind {
			return k.advice
		}
	}
	return ""
}

// Choose resolves auto: the first NVIDIA GPU where there is one and the library at path has a provider
// for it beside it, else the CPU. TensorRT is never chosen: it builds for minutes before it runs.
func (d Device) Choose(library string, gpus []GPU) Device {
	if d.Kind != Auto {
		return d
	}
	if real, err := filepath.EvalSymlinks(library); err == nil {
		library = real
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(library), cudaProvider)); err != nil || len(gpus) == 0 {
		return Device{Kind: CPU}
	}
	return Device{Kind: CUDA}
}

// GPU is what the driver says of one GPU. Memory is in bytes.
type GPU struct {
	Name        string
	Total, Free int64
}

// Check tells whether a model of so many bytes can be loaded on the device, as far as the driver of
// gpus knows it. On an error another device or a smaller variant is needed.
func (d Device) Check(gpus []GPU, bytes int64) error {
	if !d.NVIDIA() || len(gpus) == 0 {
		return nil
	}
	if d.Index >= len(gpus) {
		return fmt.Errorf("there is no %s: the last of %d GPUs is %s:%d (see CUDA_VISIBLE_DEVICES)", d, len(gpus), d.Kind, len(gpus)-1)
	}
	if g := gpus[d.Index]; bytes > g.Free {
		return fmt.Errorf("%s (%s) has %d MiB of memory free, the weights take %d MiB: use another GPU or a smaller variant", d, g.Name, g.Free>>20, bytes>>20)
	}
	return nil
}
