//go:build nvml && cgo

package device

import (
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
)

func TestGPUsOfAServer(t *testing.T) {
	t.Parallel()
	server := dgxh100.New()
	uuid, ret := server.Devices[3].GetUUID()
	if ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	for visible, want := range map[string]int{"all": 8, "0": 1, "2, 1": 2, "": 0, "0,9,1": 1, "-1": 0, uuid: 1, uuid + ",0": 2, "GPU-none": 0} {
		got, err := gpus(server, func(string) (string, bool) { return visible, visible != "all" })
		if err != nil || len(got) != want {
			t.Errorf("with CUDA_VISIBLE_DEVICES=%q there are %d GPUs, %v; want %d", visible, len(got), err, want)
		}
		for _, g := range got {
			if !strings.Contains(g.Name, "H100") || g.Total < 64<<30 || g.Free > g.Total {
				t.Errorf("GPU %+v, want an H100 with its memory", g)
			}
		}
	}
}

func TestGPUsWithoutDriver(t *testing.T) {
	t.Parallel()
	for ret, fails := range map[nvml.Return]bool{nvml.ERROR_LIBRARY_NOT_FOUND: false, nvml.ERROR_DRIVER_NOT_LOADED: false, nvml.ERROR_UNKNOWN: true} {
		got, err := gpus(&mock.Interface{InitFunc: func() nvml.Return { return ret }}, nil)
		if len(got) != 0 || (err != nil) != fails {
			t.Errorf("with %v: %v, %v", ret, got, err)
		}
	}
	// On this machine, whatever it has: an answer or a reason, and no crash without the library.
	got, err := GPUs()
	t.Logf("this machine has %d GPUs, %v", len(got), err)
}

func TestGPUsThatFail(t *testing.T) {
	t.Parallel()
	fails := func(change func(*mock.Interface, *mock.Device)) error {
		d := &mock.Device{
			GetNameFunc:       func() (string, nvml.Return) { return "x", nvml.SUCCESS },
			GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 1 << 63}, nvml.SUCCESS },
		}
		lib := &mock.Interface{
			InitFunc: func() nvml.Return { return nvml.SUCCESS }, ShutdownFunc: func() nvml.Return { return nvml.SUCCESS },
			DeviceGetCountFunc:         func() (int, nvml.Return) { return 1, nvml.SUCCESS },
			DeviceGetHandleByIndexFunc: func(int) (nvml.Device, nvml.Return) { return d, nvml.SUCCESS },
		}
		change(lib, d)
		_, err := gpus(lib, func(string) (string, bool) { return "", false })
		return err
	}
	if err := fails(func(*mock.Interface, *mock.Device) {}); err != nil {
		t.Fatalf("a whole GPU: %v", err)
	}
	for name, change := range map[string]func(*mock.Interface, *mock.Device){
		"count": func(l *mock.Interface, _ *mock.Device) {
			l.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_GPU_IS_LOST }
		},
		"handle": func(l *mock.Interface, _ *mock.Device) {
			l.DeviceGetHandleByIndexFunc = func(int) (nvml.Device, nvml.Return) { return nil, nvml.ERROR_GPU_IS_LOST }
		},
		"name": func(_ *mock.Interface, d *mock.Device) {
			d.GetNameFunc = func() (string, nvml.Return) { return "", nvml.ERROR_GPU_IS_LOST }
		},
		"memory": func(_ *mock.Interface, d *mock.Device) {
			d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{}, nvml.ERROR_GPU_IS_LOST }
		},
		"shutdown": func(l *mock.Interface, _ *mock.Device) {
			l.ShutdownFunc = func() nvml.Return { return nvml.ERROR_GPU_IS_LOST }
		},
	} {
		if err := fails(change); err == nil {
			t.Errorf("a GPU whose %s fails: no error", name)
		}
	}
}
