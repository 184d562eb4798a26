package hub_test

import (
	"archive/zip"
	"path/filepath"
	"testing"
)

// zipped is an export of runtime/onnx/testdata as a file system.
func zipped(t *testing.T, name string) *zip.ReadCloser {
	t.Helper()
	z, err := zip.OpenReader(filepath.Join("..", "onnx", "testdata", name+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = z.Close() })
	return z
}
