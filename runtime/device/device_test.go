package device_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/device"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]device.Device{
		"auto": {Kind: device.Auto}, "cpu": {Kind: device.CPU}, "cuda": {Kind: device.CUDA}, "cuda:3": {Kind: device.CUDA, Index: 3},
		"tensorrt:0": {Kind: device.TensorRT}, "rocm:1": {Kind: device.ROCm, Index: 1}, "openvino": {Kind: device.OpenVINO}, "coreml": {Kind: device.CoreML},
	} {
		got, err := device.Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", text, got, err, want)
		}
		if again, err := device.Parse(got.String()); err != nil || again != want {
			t.Errorf("Parse(%q) of a written device = %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "gpu", "CUDA:0", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:0:1", "cuda:256", "openvino:0", strings.Repeat("x", 5000)} {
		if got, err := device.Parse(text); !errors.Is(err, device.ErrUnknown) || len(err.Error()) > 300 {
			t.Errorf("Parse(%.40q) = %+v, %v; want a short ErrUnknown", text, got, err)
		}
	}
	if got := (device.Device{}).String(); got != "cpu" {
		t.Errorf("the zero device is %q", got)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	with, without := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(with, "libonnxruntime_providers_cuda.so"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one, auto := []device.GPU{{Name: "x"}}, device.Device{Kind: device.Auto}
	for name, c := range map[string]struct {
		device device.Device
		dir    string
		gpus   []device.GPU
		want   string
	}{
		"library and gpu":       {auto, with, one, "cuda:0"},
		"library without gpu":   {auto, with, nil, "cpu"},
		"gpu without a library": {auto, without, one, "cpu"},
		"said":                  {device.Device{Kind: device.ROCm, Index: 2}, without, nil, "rocm:2"},
	} {
		if got := c.device.Choose(filepath.Join(c.dir, "libonnxruntime.so"), c.gpus).String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Every device that needs something installed says what, and how Pelton finds it.
func TestAdvice(t *testing.T) {
	t.Parallel()
	for _, k := range []device.Kind{device.CUDA, device.TensorRT, device.ROCm, device.OpenVINO, device.CoreML} {
		if advice := (device.Device{Kind: k}).Advice(); !strings.Contains(advice, "PELTON_ORT_LIB") {
			t.Errorf("advice for %s is %q", k, advice)
		}
	}
}
