//go:build cgo && (linux || darwin)

package session

import (
	"errors"
	"fmt"
	"strconv"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/onnx/kernels"
)

// addProvider makes a session use the device. What the device cannot run, the library runs on the CPU.
func addProvider(o *ort.SessionOptions, d device.Device, captured bool) error {
	id := strconv.Itoa(d.Index)
	var err error
	switch d.Kind {
	case device.CPU, "":
		return nil
	case device.CUDA:
		err = addCUDA(o, id, captured)
	case device.TensorRT:
		if err = addTensorRT(o, id); err == nil {
			err = addCUDA(o, id, false) // for the nodes that TensorRT leaves
		}
	case device.ROCm:
		err = o.AppendExecutionProvider("MIGraphX", map[string]string{"device_id": id})
	case device.OpenVINO:
		err = o.AppendExecutionProviderOpenVINO(map[string]string{"device_type": "AUTO"})
	case device.CoreML:
		err = o.AppendExecutionProviderCoreMLV2(map[string]string{"ModelFormat": "MLProgram"})
	default:
		err = errors.New("no such device")
	}
	if err != nil {
		return fmt.Errorf("device %s cannot be used with this ONNX Runtime: %w: %s", d, err, d.Advice())
	}
	return nil
}

func addCUDA(o *ort.SessionOptions, id string, captured bool) error {
	p, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	settings := map[string]string{
		"device_id": id,
		// The arena grows by what is asked for, not by doubling, so that the memory is what was predicted.
		"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC",
		// Norms of sums are added up in single precision: squares leave half precision.
		"enable_skip_layer_norm_strict_mode": "1",
		// Attention by the library's own kernels (flash, memory-efficient, plain). cuDNN's would be planned for each
		// new shape, 50 ms each time (measured on an H200).
		"sdpa_kernel": "19",
	}
	if captured {
		settings["enable_cuda_graph"] = "1"
	}
	if err = p.Update(settings); err == nil {
		err = errors.Join(
			// Products of weights in blocks without unpacking the weights first; how is measured when a model is loaded.
			o.AddSessionConfigEntry("ep.cuda.fpa_intb_gemm", "1"),
			o.AppendExecutionProviderCUDA(p),
		)
	}
	return errors.Join(err, p.Destroy())
}

func addTensorRT(o *ort.SessionOptions, id string) error {
	p, err := ort.NewTensorRTProviderOptions()
	if err != nil {
		return err
	}
	// No cache of engines: it takes one model's for another's that has the same graph, with other weights
	// (microsoft/onnxruntime#6455).
	err = p.Update(map[string]string{"device_id": id, "trt_fp16_enable": "1"})
	if err == nil {
		err = o.AppendExecutionProviderTensorRT(p)
	}
	return errors.Join(err, p.Destroy())
}

// Class names what the bits of a result depend on beside weights and library: the processor's kernels and
// our own, and the device.
func Class(d device.Device) string {
	c := kernelClass() + "-" + kernels.Version
	if d.Kind != device.CPU {
		c = string(d.Kind) + "-" + c
	}
	return c
}
