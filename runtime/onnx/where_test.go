//go:build cgo && (linux || darwin)

package onnx_test

import (
	"cmp"
	"context"
	"os"
	"sync"
	"testing"

	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
)

// Where the model and the library under test are: named by the environment, or fetched once into the
// user's cache as every user's are.
var (
	findModel = sync.OnceValues(func() (string, error) {
		if dir := os.Getenv("PELTON_TEST_MODEL"); dir != "" {
			return dir, nil
		}
		dir, _, err := hub.Ensure(context.Background(), model.Store{Root: model.DefaultRoot()}, hub.Default, "", nil)
		return dir, err
	})
	findLibrary = sync.OnceValues(func() (string, error) {
		return hub.Library(context.Background(), os.Getenv("PELTON_ORT_LIB"), nil)
	})
)

// testDevice is what PELTON_TEST_DEVICE names, the CPU when it is not set.
func testDevice(t testing.TB) device.Device {
	t.Helper()
	d, err := device.Parse(cmp.Or(os.Getenv("PELTON_TEST_DEVICE"), "cpu"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func modelDir(t testing.TB) string {
	t.Helper()
	dir, err := findModel()
	if err != nil {
		t.Fatalf("no model to test with: %v; or set PELTON_TEST_MODEL to a model folder", err)
	}
	return dir
}

func libraryPath(t testing.TB) string {
	t.Helper()
	path, err := findLibrary()
	if err != nil {
		t.Fatalf("no ONNX Runtime library to test with: %v; or set PELTON_ORT_LIB to one", err)
	}
	return path
}
