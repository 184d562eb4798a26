//go:build cgo && (linux || darwin)

package onnx_test

import (
	"strings"
	"testing"

	"github.com/pelton-run/pelton/runtime/convert"
	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/onnx"
)

// TestMissingProvider opens the model on devices that this library has no provider for: each says what
// to install. A library that has one is another way to pass.
func TestMissingProvider(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"cuda:0", "tensorrt:0", "rocm:0", "openvino", "coreml"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := device.Parse(name)
			if err != nil {
				t.Fatal(err)
			}
			e, err := onnx.OpenModel(onnx.Config{ModelDir: modelDir(t), Library: libraryPath(t), Device: d, MaxSequences: 2})
			if err == nil {
				t.Logf("this library has it: %+v", e.Info())
				if err := e.Shutdown(); err != nil {
					t.Error(err)
				}
				return
			}
			t.Log(err)
			for _, want := range []string{name, "PELTON_ORT_LIB", d.Advice()} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestAutoOpens(t *testing.T) {
	t.Parallel()
	e := open(t, func(c *onnx.Config) { c.Device, c.MaxSequences = device.Device{Kind: device.Auto}, 2 })
	if got := e.Info().Device; got != "cpu" && got != "cuda:0" {
		t.Errorf("auto is %q", got)
	}
}

// TestNeedsAGPU opens a model for GPUs where nothing can run it.
func TestNeedsAGPU(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := convert.FromGGUF(t.Context(), unpack(t, "llama.gguf"), dir, convert.Options{Variant: convert.FP16}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ device, want string }{{"cpu", "take another variant"}, {"tensorrt:0", "take another variant"}, {"cuda:0", "ONNX Runtime"}} {
		d, err := device.Parse(c.device)
		if err != nil {
			t.Fatal(err)
		}
		e, err := onnx.OpenModel(onnx.Config{ModelDir: dir, Library: libraryPath(t), Device: d})
		if err == nil {
			t.Logf("%s opens it: %+v", c.device, e.Info())
			if err := e.Shutdown(); err != nil {
				t.Error(err)
			}
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("on %s: %v, want %q in it", c.device, err, c.want)
		}
	}
}
