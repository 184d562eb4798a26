package device

import (
	"cmp"
	"log/slog"
)

// Open opens a model whose weights take so many bytes on a device, with the ONNX Runtime at library.
// Auto chooses the device, and goes on with the CPU when the model does not open there. open gets the
// device that it became.
func Open[T any](d Device, library string, bytes int64, log *slog.Logger, open func(Device) (T, error)) (T, error) {
	gpus, err := GPUs()
	if err != nil {
		log.Warn("gpus cannot be counted", "error", err)
	}
	return openOn(d, library, bytes, gpus, log, open)
}

func openOn[T any](asked Device, library string, bytes int64, gpus []GPU, log *slog.Logger, open func(Device) (T, error)) (opened T, err error) {
	d := asked.Choose(library, gpus)
	d.Kind = cmp.Or(d.Kind, CPU)
	if err = d.Check(gpus, bytes); err == nil {
		if opened, err = open(d); err == nil {
			return opened, nil
		}
	}
	if asked.Kind != Auto || d.Kind == CPU {
		return opened, err
	}
	log.Warn("the model runs on the CPU: the device that was chosen does not open it", "device", d.String(), "error", err)
	return open(Device{Kind: CPU})
}
