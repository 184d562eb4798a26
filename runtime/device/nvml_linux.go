//go:build nvml && cgo

package device

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// GPUs lists the NVIDIA GPUs that a process may use, as CUDA counts them: CUDA_VISIBLE_DEVICES hides
// and reorders them. Without a driver there are none, which is no error.
func GPUs() ([]GPU, error) { return gpus(nvml.New(), os.LookupEnv) }

func gpus(lib nvml.Interface, env func(string) (string, bool)) (_ []GPU, err error) {
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_NO_PERMISSION:
		return nil, nil
	default:
		return nil, fmt.Errorf("nvidia driver: %s", text(ret))
	}
	defer func() {
		if ret := lib.Shutdown(); ret != nvml.SUCCESS {
			err = errors.Join(err, fmt.Errorf("nvidia driver: shut down: %s", text(ret)))
		}
	}()
	all, err := handles(lib)
	if err != nil {
		return nil, err
	}
	if visible, ok := env("CUDA_VISIBLE_DEVICES"); ok {
		all = choose(lib, all, visible)
	}
	var out []GPU
	for i, h := range all {
		name, ret := h.GetName()
		if ret != nvml.SUCCESS {
			return nil, fmt.Errorf("gpu %d: name: %s", i, text(ret))
		}
		m, ret := h.GetMemoryInfo()
		if ret != nvml.SUCCESS {
			return nil, fmt.Errorf("gpu %d (%s): memory: %s", i, name, text(ret))
		}
		out = append(out, GPU{Name: name, Total: bytes(m.Total), Free: bytes(m.Free)})
	}
	return out, nil
}

func handles(lib nvml.Interface) (all []nvml.Device, err error) {
	n, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("nvidia driver: count gpus: %s", text(ret))
	}
	for i := range n {
		h, ret := lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			return nil, fmt.Errorf("gpu %d: %s", i, text(ret))
		}
		all = append(all, h)
	}
	return all, nil
}

// choose keeps the devices of a list of numbers or UUIDs, up to the first that is none, as CUDA does.
func choose(lib nvml.Interface, all []nvml.Device, list string) (chosen []nvml.Device) {
	for _, entry := range strings.Split(list, ",") {
		entry = strings.TrimSpace(entry)
		if n, err := strconv.Atoi(entry); err == nil {
			if n < 0 || n >= len(all) {
				return chosen
			}
			chosen = append(chosen, all[n])
			continue
		}
		h, ret := lib.DeviceGetHandleByUUID(entry)
		if ret != nvml.SUCCESS {
			return chosen
		}
		chosen = append(chosen, h)
	}
	return chosen
}

func bytes(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

func text(ret nvml.Return) string { return strings.ToLower(fmt.Sprint(ret)) }
